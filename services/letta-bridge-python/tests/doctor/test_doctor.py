"""The doctor names each fault: on a real Redis set up wrongly, a stand-in for an old one, and a double of Letta."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import subprocess
from asyncio.streams import StreamReader, StreamWriter
from collections import namedtuple
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from aiohttp import web
from aiohttp.test_utils import TestServer

from letta_bridge.doctor import Level, data_dir, examine, letta_server, recent_answers
from letta_bridge.doctor.findings import Finding
from letta_bridge.request_queue import PauseMode
from letta_bridge.request_queue.admin import QueueAdmin
from letta_bridge.request_queue.recent_turns import RecentTurns
from letta_bridge.settings import BridgeSettings
from local_stack.letta import Letta
from local_stack.letta_double.dials import Dial
from local_stack.letta_double.server import Profile, Server
from local_stack.letta_double.store import LettaStore
from local_stack.letta_double.turns import Pace
from local_stack.serving import serving
from shared_utils.config.settings import RedisSettings
from shared_utils.llm.model_errors import Cause
from shared_utils.persistence.sessions.file_store import FileSessionStore
from shared_utils.redis.connection import connect

MODEL, EMBEDDING = "openai-proxy/scripted", "openai/text-embedding-3-small"
CHANNELS = ["letta_responses", "task_response:*", "task_stream:*", "{letta_requests}:interrupts"]
"""Those that a bridge uses."""


@pytest.fixture
async def served_double() -> AsyncIterator[Any]:
    """A double of Letta, and where it serves."""
    profile = Profile("0.16.8", password="letmein", models=[MODEL], embeddings=[EMBEDDING])
    double = Server(LettaStore(), Pace(), profile)
    async with serving(double.app()) as url:
        yield double, url


@pytest.fixture
def letta_double(served_double: tuple[Server, str]) -> Server:
    return served_double[0]


@pytest.fixture
def nowhere() -> Iterator[int]:
    """A port on which nobody listens for as long as the test runs."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        yield reserved.getsockname()[1]


@pytest.fixture
def settings(tmp_path: Path, served_double: tuple[Server, str], nowhere: int) -> Callable[..., Any]:
    """Settings with changes: section=dict."""

    def make(**changes: Any) -> BridgeSettings:
        base = {
            "redis": {"url": f"redis://127.0.0.1:{nowhere}"},
            "letta": {"api_urls": [served_double[1]], "api_key": served_double[0].profile.password},
            "agents": {"model": MODEL, "embedding": EMBEDDING},
            "storage": {"data_dir": str(tmp_path / "data")},
        }
        for section, values in changes.items():
            base[section] = base.get(section, {}) | values
        return BridgeSettings.model_validate(base)

    return make


@pytest.fixture
def admin(redis_url: str) -> Iterator[redis.Redis]:
    """An administrator's client; what it sets is undone."""
    with redis.Redis.from_url(redis_url) as client:
        client.url = redis_url
        policy = client.config_get("maxmemory-policy", "maxmemory", "appendonly")
        yield client
        for name, value in policy.items():
            client.config_set(name, value)
        client.acl_setuser("default", enabled=True, nopass=True)
        for user in client.acl_list():
            name = user.split(b" ")[1] if isinstance(user, bytes) else user.split(" ")[1]
            if name not in {b"default", "default"}:
                client.acl_deluser(name)


async def report(settings: BridgeSettings, *, deep: bool = False) -> list[Finding]:
    return [finding async for finding in examine(settings, deep=deep)]


async def found(settings: BridgeSettings, subject: str, *, deep: bool = False) -> list[Any]:
    """All findings about one subject, as (level, text)."""
    findings = await report(settings, deep=deep)
    return [(one.level, f"{one.says}; {one.advice}") for one in findings if one.subject == subject]


async def the_one(settings: BridgeSettings, subject: str, *, deep: bool = False) -> Any:
    (finding,) = await found(settings, subject, deep=deep)
    return finding


async def test_every_other_check_is_made_while_redis_is_down(settings: Callable[..., Any]) -> None:
    subjects = {finding.subject: finding.level for finding in await report(settings())}
    assert subjects.pop("redis") is Level.FAIL
    assert set(subjects.values()) == {Level.OK}
    assert {"letta", "letta.key", "letta.model", "letta.embedding", "disk.write", "sessions"} <= subjects.keys()


async def test_redis_down_is_named(settings: Callable[..., Any]) -> None:
    level, text = await the_one(settings(), "redis")
    assert level is Level.FAIL
    assert "cannot be reached" in text
    assert "REDIS_URL" in text


@pytest.mark.integration
async def test_a_sound_redis_has_nothing_to_complain_about(settings: Callable[..., Any], redis_url: str) -> None:
    findings = await report(settings(redis={"url": redis_url}))
    about_redis = {one.subject: one.level for one in findings if one.subject.startswith(("redis", "clock"))}
    assert set(about_redis.values()) == {Level.OK}
    assert {"redis.version", "redis.persistence", "redis.eviction", "redis.rights", "clock"} <= about_redis.keys()


@pytest.mark.integration
async def test_the_doctor_leaves_nothing_behind(
    settings: Callable[..., Any], redis_url: str, admin: redis.Redis
) -> None:
    await report(settings(redis={"url": redis_url}))
    assert admin.keys("*") == []


@pytest.mark.integration
async def test_a_wrong_redis_password_is_named(
    settings: Callable[..., Any], redis_url: str, admin: redis.Redis
) -> None:
    admin.acl_setuser("bridge", enabled=True, passwords=["+right"], keys=["*"], channels=["*"], categories=["+@all"])
    wrong = settings(redis={"url": redis_url, "username": "bridge", "password": "wrong"})
    level, text = await the_one(wrong, "redis")
    assert level is Level.FAIL
    assert "refuses the password" in text
    assert "REDIS_PASSWORD" in text
    right = settings(redis={"url": redis_url, "username": "bridge", "password": "right"})
    assert (await the_one(right, "redis"))[0] is Level.OK


@pytest.mark.integration
@pytest.mark.parametrize(
    ("keys", "commands", "named"),
    [
        (["{letta_requests}:*", "letta_requests", "letta_control", "user_input_queue"], ["-blmove"], "blmove"),
        (["{letta_requests}:*", "letta_requests", "letta_control"], [], "user_input_queue"),
        (["{letta_requests}:*", "letta_requests", "user_input_queue"], [], "letta_control"),
        (["letta_requests", "letta_control", "user_input_queue"], [], "{letta_requests}:*"),
        (
            ["{letta_requests}:*", "letta_requests", "letta_control", "user_input_queue"],
            ["-xadd"],
            "{letta_requests}:*",
        ),
    ],
)
async def test_a_missing_right_is_named(
    settings: Any, admin: Any, keys: list[str], commands: list[str], named: str
) -> None:
    admin.acl_setuser(
        "bridge",
        enabled=True,
        passwords=["+right"],
        keys=keys,
        channels=CHANNELS,
        categories=["+@all"],
        commands=commands,
    )
    (finding, *_) = await found(
        settings(redis={"url": admin.url, "username": "bridge", "password": "right"}), "redis.rights"
    )
    assert finding[0] is Level.FAIL
    assert named in finding[1]


@pytest.mark.integration
@pytest.mark.parametrize("missing", ["letta_responses", "{letta_requests}:interrupts"])
async def test_a_missing_channel_right_is_named(
    settings: Callable[..., Any], redis_url: str, admin: redis.Redis, missing: str
) -> None:
    channels = [name for name in CHANNELS if name != missing]
    admin.acl_setuser("bridge", enabled=True, passwords=["+right"], keys=["*"], channels=channels, categories=["+@all"])
    limited = settings(redis={"url": redis_url, "username": "bridge", "password": "right"})
    level, text = await the_one(limited, "redis.rights")
    assert (level, f"the channel {missing}" in text) == (Level.FAIL, True)


@pytest.mark.integration
async def test_doctor_reports_an_eviction_policy_that_loses_keys(
    settings: Callable[..., Any], redis_url: str, admin: redis.Redis
) -> None:
    admin.config_set("maxmemory-policy", "allkeys-lru")
    level, text = await the_one(settings(redis={"url": redis_url}), "redis.eviction")
    assert level is Level.WARN
    admin.config_set("maxmemory", "200mb")
    level, text = await the_one(settings(redis={"url": redis_url}), "redis.eviction")
    assert level is Level.FAIL
    assert "allkeys-lru" in text
    assert "set maxmemory-policy noeviction" in text


@pytest.mark.integration
async def test_full_redis_gets_no_advice_that_cannot_be_followed(
    settings: Callable[..., Any], redis_url: str, admin: redis.Redis
) -> None:
    """No bridge can report in there, and nothing can be worked off."""
    admin.config_set("maxmemory-policy", "noeviction")
    admin.config_set("maxmemory", "1mb")
    findings = {finding.subject: finding for finding in await report(settings(redis={"url": redis_url}))}
    assert "it refuses writes" in findings["redis.memory"].says
    assert findings["redis.memory"].advice.startswith("raise maxmemory")
    assert "unknown, because" in findings["bridges"].says
    assert "raise its maxmemory" in findings["bridges"].advice
    assert not any("letta-bridge run" in finding.advice for finding in findings.values())
    assert not any("or let its lists" in finding.advice for finding in findings.values())


@pytest.mark.integration
async def test_missing_persistence_is_named(settings: Callable[..., Any], redis_url: str, admin: redis.Redis) -> None:
    admin.config_set("appendonly", "no")
    level, text = await the_one(settings(redis={"url": redis_url}), "redis.persistence")
    assert (level, "appendonly yes" in text) == (Level.WARN, True)


async def test_a_redis_that_is_too_old_is_named(settings: Callable[..., Any]) -> None:
    async def serve(reader: StreamReader, writer: StreamWriter) -> None:
        info = b"redis_version:6.0.16\r\nrole:master\r\naof_enabled:1\r\nmaxmemory_policy:noeviction\r\n"
        while header := await reader.readline():
            words = []
            for _ in range(int(header[1:])):
                length = int((await reader.readline())[1:])
                words.append((await reader.readexactly(length + 2))[:-2].upper())
            known = {b"PING": b"+PONG\r\n", b"INFO": b"$%d\r\n%s\r\n" % (len(info), info), b"CLIENT": b"+OK\r\n"}
            writer.write(known.get(words[0], b"-ERR unknown command\r\n"))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        level, text = await the_one(settings(redis={"url": f"redis://127.0.0.1:{port}"}), "redis.version")
    assert level is Level.FAIL
    assert "6.0.16 is too old" in text
    assert "6.2" in text


@pytest.mark.integration
async def test_doctor_warns_of_pauses_dead_letters_and_missing_services(
    settings: Callable[..., Any], redis_url: str, admin: redis.Redis
) -> None:
    made = settings(redis={"url": redis_url})
    client = connect(RedisSettings(url=redis_url), name="test")
    await QueueAdmin(client, made.queue).pause(PauseMode.ALL, "升级")
    await client.aclose()
    admin.lpush("{letta_requests}:dead", '{"code":"malformed"}\nx')
    findings = {finding.subject: finding for finding in await report(made)}
    assert {findings[name].level for name in ("paused", "dead", "bridges", "memory-python")} == {Level.WARN}
    assert "升级" in findings["paused"].says


@pytest.mark.integration
async def test_tasks_that_wait_without_a_bridge_are_a_failure(
    settings: Callable[..., Any], redis_url: str, admin: redis.Redis
) -> None:
    admin.lpush("letta_requests", "{}", "{}")
    level, text = await the_one(settings(redis={"url": redis_url}), "bridges")
    assert level is Level.FAIL
    assert text == "no bridge serves the queue letta_requests, so 2 tasks wait; start one: letta-bridge run"


@pytest.mark.integration
@pytest.mark.parametrize("field", ["newest_ms", "opted_in_ms"])
async def test_opt_ins_that_wait_for_the_clock_of_redis_are_named_with_the_time(
    settings: Any, redis_url: str, admin: Any, field: Any
) -> None:
    made = settings(redis={"url": redis_url})
    order, now_ms = "{letta_requests}:order", admin.time()[0] * 1000
    admin.hset(order, mapping={"tasks": 7, "newest_ms": now_ms, "opted_in_ms": now_ms + 900})
    assert [one for one in await report(made) if one.subject == "opt_ins"] == []
    admin.hset(order, field, 1_999_999_999_000)
    level, text = await the_one(made, "opt_ins")
    assert level is Level.WARN
    assert "until 2033-05-18 03:33:18 UTC; run NTP" in text
    admin.hset(order, field, 10**18)
    assert "until 9999-12-31" in (await the_one(made, "opt_ins"))[1]


@pytest.mark.integration
async def test_doctor_names_a_flooding_user_and_the_remedy(
    settings: Callable[..., Any], redis_url: str, admin: redis.Redis
) -> None:
    made = settings(redis={"url": redis_url})
    assert [one for one in await report(made) if one.subject == "flood"] == []
    for user, tasks in (("ada", 3), ("~mallory", 500)):
        lane = f"~{user}" if user.startswith("~") else user
        admin.rpush("{letta_requests}:ready", lane)
        admin.rpush(f"{{letta_requests}}:lane:{lane}", *(f"{number} 0 1\n{{}}" for number in range(tasks)))
    level, text = await the_one(made, "flood")
    assert level is Level.WARN
    assert "500 tasks of the user ~mallory wait" in text
    assert "limits.max_pending_per_user" in text


@pytest.mark.integration
async def test_doctor_finds_a_live_memory_python(
    settings: Callable[..., Any], redis_url: str, admin: redis.Redis
) -> None:
    admin.zadd("memory:{user_input_queue}:instances", {"one": 2**52, "dead": 1})
    level, text = await the_one(settings(redis={"url": redis_url}), "memory-python")
    assert (level, text.startswith("1 alive")) == (Level.OK, True)


@pytest.mark.integration
@pytest.mark.parametrize(
    ("tally", "level", "said"),
    [
        ({}, Level.OK, "no agent was asked"),
        ({"agent": 8}, Level.OK, "agents answered all 8 turns"),
        ({"agent": 2, "fallback": 1, "cause:timeout": 1}, Level.WARN, "a faster model"),
        (
            {"fallback": 4, "memory": 4, "canned": 4, "cause:model_credentials": 4},
            Level.FAIL,
            "4 of 4 turns in the last 10 minutes (100%), mostly because the provider refuses the key of Letta's model",
        ),
    ],
)
async def test_turns_that_fell_back_are_named_with_their_cause(
    settings: Callable[..., Any], redis_url: str, admin: redis.Redis, tally: dict[str, int], level: Level, said: str
) -> None:
    for word, count in tally.items():
        admin.hset(f"{{letta_requests}}:tally:{admin.time()[0] // 60}", word, count)
    found_level, text = await the_one(settings(redis={"url": redis_url}), "answers")
    assert (found_level, said in text) == (level, True)


@pytest.fixture
async def memory_python() -> AsyncIterator[Callable[..., Any]]:
    """``await memory_python(status, body)``: the address of one whose /readyz answers so."""
    async with contextlib.AsyncExitStack() as stack:

        async def start(status: int, body: dict[str, Any]) -> str:
            async def readyz(_request: Any) -> Any:
                return web.json_response(body, status=status)

            app = web.Application()
            app.router.add_get("/readyz", readyz)
            server = await stack.enter_async_context(TestServer(app, host="127.0.0.1"))
            return str(server.make_url("")).rstrip("/")

        yield start


@pytest.mark.integration
@pytest.mark.parametrize(
    ("status", "checks", "level", "said"),
    [
        (200, [("redis", True, "reachable", True), ("model", True, "ok", False)], Level.OK, "model ok"),
        (200, [("redis", True, "reachable", True), ("model", False, "failed 3 times: the key is refused", False)],
         Level.WARN, "the key is refused; give memory-python a valid OPENAI_API_KEY"),
        (503, [("redis", False, "not reachable", True)], Level.FAIL, "redis: not reachable"),
        (200, None, Level.WARN, "is not memory-python"),
    ],
)  # fmt: skip
async def test_doctor_reads_memory_pythons_readiness(
    settings: Callable[..., Any],
    redis_url: str,
    admin: redis.Redis,
    memory_python: Callable[..., Any],
    status: int,
    checks: list[Any] | None,
    level: Level,
    said: str,
) -> None:
    admin.zadd("memory:{user_input_queue}:instances", {"one": 2**52})
    names = ("name", "ok", "detail", "required")
    body = {"status": "x"} if checks is None else {"checks": [dict(zip(names, check, strict=True)) for check in checks]}
    url = await memory_python(status, body)
    found_level, text = await the_one(
        settings(redis={"url": redis_url}, fallback={"health_url": url}), "memory-python.ready"
    )
    assert (found_level, said in text) == (level, True)


@pytest.mark.integration
async def test_doctor_warns_of_a_memory_python_without_reachable_health(
    settings: Callable[..., Any], redis_url: str, admin: redis.Redis, nowhere: int
) -> None:
    admin.zadd("memory:{user_input_queue}:instances", {"one": 2**52})
    made = settings(redis={"url": redis_url}, fallback={"health_url": f"http://127.0.0.1:{nowhere}"})
    level, text = await the_one(made, "memory-python.ready")
    assert (level, "MEMORY_PYTHON_URL" in text) == (Level.WARN, True)
    made = settings(redis={"url": redis_url}, fallback={"health_url": None})
    assert await found(made, "memory-python.ready") == []


async def test_letta_down_is_named(settings: Callable[..., Any], nowhere: int) -> None:
    level, text = await the_one(settings(letta={"api_urls": [f"http://127.0.0.1:{nowhere}"]}), "letta")
    assert level is Level.FAIL
    assert "cannot be reached" in text
    assert "LETTA_API_URL" in text


async def test_a_wrong_letta_key_is_named(settings: Callable[..., Any]) -> None:
    level, text = await the_one(settings(letta={"api_key": "wrong"}), "letta.key")
    assert level is Level.FAIL
    assert "LETTA_API_KEY" in text


async def test_doctor_warns_of_a_letta_without_a_password(settings: Callable[..., Any], letta_double: Server) -> None:
    letta_double.profile.password = None
    level, text = await the_one(settings(), "letta.key")
    assert (level, "LETTA_SERVER_PASSWORD" in text) == (Level.WARN, True)


async def test_unknown_handles_are_named_with_the_nearest(settings: Callable[..., Any]) -> None:
    made = settings(agents={"model": "openai/scripted", "embedding": "openai/text-embedding-4"})
    level, text = await the_one(made, "letta.model")
    assert (level, "openai/scripted" in text, MODEL in text) == (Level.FAIL, True, True)
    level, text = await the_one(made, "letta.embedding")
    assert (level, EMBEDDING in text, "LETTA_EMBEDDING" in text) == (Level.FAIL, True, True)


async def test_a_letta_without_models_is_named(settings: Callable[..., Any], letta_double: Server) -> None:
    letta_double.profile.models = []
    level, text = await the_one(settings(), "letta.model")
    assert (level, "OPENAI_API_KEY" in text) == (Level.FAIL, True)


async def test_doctor_warns_of_an_unknown_version_and_missing_locks(
    settings: Callable[..., Any], letta_double: Server
) -> None:
    letta_double.profile.version, letta_double.profile.locks = "0.17.0", False
    assert (await the_one(settings(), "letta"))[0] is Level.WARN
    level, text = await the_one(settings(), "letta.locks")
    assert (level, "LETTA_REDIS_HOST" in text) == (Level.WARN, True)


@pytest.mark.parametrize(
    ("fault", "level"),
    [
        (Dial(), Level.OK),
        (Dial(mode="empty", left=1), Level.FAIL),
        (Dial(mode="status", left=1, code=402, body={"detail": "no key"}), Level.FAIL),
    ],
    ids=["answer", "empty-answer", "refusal"],
)
async def test_deep_lets_a_scratch_agent_answer_and_deletes_it(
    settings: Callable[..., Any], letta_double: Server, fault: Dial, level: Level
) -> None:
    assert await found(settings(), "letta.turn") == []
    letta_double.dials.set(fault)
    assert (await the_one(settings(), "letta.turn", deep=True))[0] is level
    assert (letta_double.turns.begun, letta_double.store.agents(())) == (1, [])


async def test_doctor_skips_a_disabled_letta(settings: Callable[..., Any], letta_double: Server) -> None:
    await found(settings(letta={"enabled": False}), "letta.turn", deep=True)
    assert letta_double.turns.begun == 0


async def test_an_address_that_leads_nowhere_hides_no_other_finding(settings: Callable[..., Any]) -> None:
    findings = await report(settings(letta={"api_urls": ["http://" + "x" * 300 + ".invalid"]}))
    assert any(one.level is Level.FAIL and one.subject.startswith("letta") for one in findings)
    assert "sessions" in {finding.subject for finding in findings}


async def test_a_full_disk_is_named(settings: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")  # noqa: PYI024  # as shutil's own
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9, 2**20))
    level, text = await the_one(settings(), "disk.space")
    assert (level, "the disk is full" in text, "DATA_DIR" in text) == (Level.FAIL, True, True)


async def test_a_disk_that_takes_no_byte_is_named(
    settings: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)
    level, text = await the_one(settings(), "disk.write")
    assert (level, "No space left" in text) == (Level.FAIL, True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """The data directory on a disk of its own, with room for a few pages."""
    directory = tmp_path / "data"
    directory.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=128k", "none", str(directory)]
    if os.geteuid() != 0 or subprocess.run(command, check=False, capture_output=True).returncode != 0:
        pytest.skip("only root may mount a disk, and not in every container")
    yield directory
    subprocess.run(["umount", str(directory)], check=True)


@pytest.mark.process
async def test_a_disk_that_is_really_full_is_named(settings: Callable[..., Any], small_disk: Path) -> None:
    assert (await the_one(settings(), "disk.write"))[0] is Level.OK
    level, text = await the_one(settings(), "disk.space")
    assert (level, "the disk is full: 0 MB free" in text) == (Level.FAIL, True)
    with contextlib.suppress(OSError), (small_disk / "filling").open("wb", buffering=0) as file:
        while file.write(b"x" * 4096):
            pass
    level, text = await the_one(settings(), "disk.write")
    assert (level, "No space left" in text, "DATA_DIR" in text) == (Level.FAIL, True, True)


async def test_a_session_file_that_every_user_can_read_is_named(settings: Callable[..., Any], tmp_path: Path) -> None:
    """As releases before made it."""
    file = tmp_path / "data" / "sessions.db"
    store = FileSessionStore(file)
    await store.reserve("ada", "default")
    await store.close()
    assert not [finding async for finding in data_dir.examine(settings()) if finding.subject == "disk.private"]
    assert file.stat().st_mode & 0o777 == 0o600
    file.chmod(0o644)
    [finding] = [finding async for finding in data_dir.examine(settings()) if finding.subject == "disk.private"]
    assert finding.level is Level.WARN
    assert str(file) in finding.says


async def test_a_data_directory_that_is_none_is_named(settings: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    findings = {finding.subject: finding for finding in await report(settings())}
    assert findings["disk.write"].level is Level.FAIL
    assert findings["sessions"].level is Level.FAIL


async def test_an_unusable_session_file_is_named(settings: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "sessions.db").write_bytes(b"no database at all, but long enough to be looked at" * 100)
    level, text = await the_one(settings(), "sessions")
    assert (level, "sessions.db" in text) == (Level.FAIL, True)


@pytest.mark.letta
async def test_doctor_finds_no_fault_on_a_real_letta(settings: Callable[..., Any], letta: Letta) -> None:
    made = settings(
        letta={"api_urls": [letta.url], "api_key": letta.api_key},
        agents={"model": letta.model, "embedding": letta.embedding},
    )
    levels = {one.subject: one.level for one in await report(made, deep=True) if one.subject.startswith("letta")}
    assert levels.pop("letta.agents") is not Level.FAIL  # other tests leave agents of their users there
    assert levels == dict.fromkeys(
        (
            "letta",
            "letta.key",
            "letta.model",
            "letta.embedding",
            "letta.addresses",
            "letta.locks",
            "letta.turn",
        ),
        Level.OK,
    )


@pytest.mark.letta
async def test_faults_of_a_real_letta_are_named(settings: Callable[..., Any], letta: Letta) -> None:
    made = settings(letta={"api_urls": [letta.url], "api_key": "wrong"})
    assert (await the_one(made, "letta.key"))[0] is Level.FAIL
    made = settings(
        letta={"api_urls": [letta.url], "api_key": letta.api_key}, agents={"model": "openai/gpt-9", "embedding": None}
    )
    level, text = await the_one(made, "letta.model", deep=True)
    assert (level, letta.model in text) == (Level.FAIL, True)
    level, text = await the_one(made, "letta.turn", deep=True)
    assert (level, "openai/gpt-9" in text) == (Level.FAIL, True)


@pytest.mark.parametrize("cause", list(Cause))
def test_every_refusal_of_a_models_provider_has_an_advice_of_its_own(cause: Cause) -> None:
    recent = RecentTurns.of({"fallback": 9, f"cause:{cause}": 9})
    unknown = recent_answers.answers(RecentTurns.of({"fallback": 9, "cause:never heard of": 9})).advice
    assert recent_answers.answers(recent).advice not in {None, "", unknown}
    assert f"({cause})" in recent_answers.answers(recent).says


@pytest.mark.parametrize(
    ("known", "said"),
    [
        (
            ["letta/letta-free"],
            "Letta lists no model of the provider openai-proxy, so not openai-proxy/gpt-4o",
        ),
        (["openai-proxy/gpt-4o"], "Letta does not know the handle openai-proxy/gpt-4o-mini"),
    ],
)
def test_a_handle_that_is_missing_with_its_whole_provider_points_at_the_key(known: list[str], said: str) -> None:
    finding = letta_server._handle("letta.model", "openai-proxy/gpt-4o-mini", known, "LETTA_MODEL")
    assert finding.level is Level.FAIL
    assert finding.says.startswith(said)
    assert ("OPENAI_API_KEY" in finding.advice) == ("provider" in said)
