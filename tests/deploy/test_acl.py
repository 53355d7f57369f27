"""The users of deploy/redis/users.acl, in a real server started as the compose file starts it: enough, and no more."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import yaml
from redis.backoff import NoBackoff
from redis.retry import Retry

from letta_bridge.config_layout import LAYOUT
from letta_bridge.settings import BridgeSettings
from letta_bridge_client import Bridge
from local_stack.fixtures import DoubleFactory, missing_parts
from local_stack.letta_double.process import LettaDouble
from local_stack.ports import HOST
from local_stack.programs import debian_program
from local_stack.valkey import Valkey
from shared_utils.config import variables

pytestmark = pytest.mark.integration

User = Callable[[str], Any]

_REFUSED = {
    "bridge": [
        ("KEYS", "*"),
        ("FLUSHALL",),
        ("FLUSHDB",),
        ("CONFIG", "GET", "*"),
        ("CONFIG", "SET", "appendonly", "no"),
        ("ACL", "LIST"),
        ("SHUTDOWN",),
        ("CLIENT", "KILL", "ID", "1"),
        ("MONITOR",),
        ("SCRIPT", "FLUSH"),
        ("REPLICAOF", "NO", "ONE"),
        ("SORT", "letta_requests"),
        ("GET", "somebody:else"),
        ("LRANGE", "memory:user_sessions:ada", "0", "-1"),
        ("LRANGE", "user_input_queue", "0", "-1"),  # it may push there, not read
        ("EVAL", "return redis.call('GET', 'somebody:else')", "0"),
        ("EVAL", "return redis.call('FLUSHALL')", "0"),
        ("PUBLISH", "memory_updates", "x"),
        ("SUBSCRIBE", "ai_responses"),
        ("SUBSCRIBE", "{other}:interrupts"),
        ("RPOP", "{other}:control"),
        ("PSUBSCRIBE", "*"),
    ],
    "memory": [
        ("KEYS", "*"),
        ("FLUSHALL",),
        ("CONFIG", "GET", "*"),
        ("LPUSH", "letta_requests", "x"),
        ("LRANGE", "letta_requests", "0", "-1"),
        ("HGETALL", "{letta_requests}:turns"),
        ("GET", "somebody:else"),
        ("LPUSH", "letta_control", "{}"),
        ("XREAD", "STREAMS", "{letta_requests}:stream:ada:1", "0"),
        ("SUBSCRIBE", "task_stream:1"),
        ("PUBLISH", "asr_results", "x"),
    ],
    "default": [
        ("KEYS", "*"),
        ("FLUSHALL",),
        ("CONFIG", "GET", "*"),
        ("SET", "{letta_requests}:reply:ada:1", "forged"),
        ("LPUSH", "{letta_requests}:dead", "x"),
        ("RPOP", "letta_control"),
        ("XADD", "{letta_requests}:stream:ada:1", "*", "event", "forged"),
        ("HGETALL", "{letta_requests}:interrupts"),
        ("SUBSCRIBE", "{letta_requests}:interrupts"),
        ("LPUSH", "memory:user_sessions:ada", "x"),
        ("EVAL", "return 1", "0"),
    ],
    "client": [
        ("KEYS", "*"),
        ("FLUSHALL",),
        ("LRANGE", "letta_requests", "0", "-1"),
        ("RPOP", "letta_requests"),
        ("SET", "{letta_requests}:reply:ada:1", "forged"),
        ("XADD", "{letta_requests}:replies", "*", "reply", "forged"),
        ("GET", "{letta_requests}:missed:ada"),
        ("PUBLISH", "task_response:1", "forged"),
        ("PUBLISH", "task_stream:1", "forged"),
        ("XADD", "{letta_requests}:stream:ada:1", "*", "event", "forged"),
        ("LRANGE", "letta_control", "0", "-1"),
        ("HGETALL", "{letta_requests}:interrupts"),
        ("SUBSCRIBE", "{letta_requests}:interrupts"),
        ("SUBSCRIBE", "letta_responses"),
        ("PSUBSCRIBE", "*"),
        ("EVAL", "return 1", "0"),
    ],
    "scaler": [
        ("LRANGE", "letta_requests", "0", "-1"),
        ("RPOP", "letta_requests"),
        ("LLEN", "user_input_queue"),
        ("EVAL", "return redis.call('LLEN', KEYS[1])", "1", "user_input_queue"),
        ("EVAL", "return redis.call('LLEN', 'user_input_queue')", "0"),
        ("EVAL", "return redis.call('LRANGE', KEYS[1], 0, -1)", "1", "letta_requests"),
        ("EVAL", "return redis.call('RPOP', KEYS[1])", "1", "letta_requests"),
        ("EVAL", "return redis.call('DEL', KEYS[1])", "1", "letta_requests"),
    ],
    "health": [("GET", "letta_requests"), ("INFO",), ("SUBSCRIBE", "letta_responses")],
}


@pytest.fixture
def user(redis_with_users: Valkey, secrets: Path) -> Iterator[User]:
    """`user("bridge")`: a client logged in as that user."""
    clients = []

    def log_in(name: str) -> Any:
        file = secrets / ("redis_password" if name == "default" else f"redis_{name}_password")
        password = file.read_text("utf-8").strip() if file.exists() else "anything"
        client = redis.Redis(port=redis_with_users.port, username=name, password=password, decode_responses=True)
        clients.append(client)
        return client

    yield log_in
    for client in clients:
        client.close()


@pytest.mark.parametrize("name", _REFUSED)
def test_acl_user_is_refused_foreign_commands(name: str, user: User) -> None:
    client = user(name)
    assert client.ping()
    for command in _REFUSED[name]:
        with pytest.raises(redis.ResponseError, match=r"(?i)no permissions|ACL failure in script"):
            client.execute_command(*command)


@pytest.mark.parametrize("place", ["compose", "kubernetes"])
def test_redis_cli_finds_the_server_healthy(
    place: str, redis_with_users: Valkey, user: User, compose: Callable[..., Any], checkout: Path
) -> None:
    with missing_parts():
        redis_cli = debian_program("redis-cli", package="redis-tools")
    if place == "compose":
        redis_service = compose("docker-compose.yml")["services"]["redis"]
        _, *words = redis_service["healthcheck"]["test"]
        line = shlex.join(words)
        password = redis_service["environment"]["REDISCLI_AUTH"]
    else:
        _, workload = yaml.safe_load_all((checkout / "deploy/kubernetes/redis.yaml").read_text("utf-8"))
        (container,) = workload["spec"]["template"]["spec"]["containers"]
        *_, line = container["readinessProbe"]["exec"]["command"]
        password = next(one["value"] for one in container["env"] if one["name"] == "REDISCLI_AUTH")
    line = line.replace("redis-cli", f"{redis_cli} -p {redis_with_users.port}")
    asked = subprocess.run(
        ["sh", "-c", line], env={"PATH": "/usr/bin:/bin", "REDISCLI_AUTH": password}, check=False, capture_output=True
    )
    assert asked.returncode == 0, asked.stderr
    assert user("admin").acl_log() == []


def _as_keda_asks(client: Any, key: str) -> int:
    """What KEDA's scaler for Redis lists sends since 2.0: one script, which looks at the type before it counts."""
    script = """
        local kind = redis.call('type', KEYS[1]).ok
        if kind == 'zset' then return redis.call('zcard', KEYS[1])
        elseif kind == 'set' then return redis.call('scard', KEYS[1])
        elseif kind == 'hash' then return redis.call('hlen', KEYS[1])
        elseif kind == 'list' or kind == 'none' then return redis.call('llen', KEYS[1])
        else return redis.error_reply('ERR unsupported key type: ' .. kind) end
    """
    return int(client.execute_command("EVAL", script, "1", key))


def test_keda_reads_the_length_of_each_list_its_manifest_names(
    redis_with_users: Valkey, secrets: Path, user: User, checkout: Path
) -> None:
    triggers = [
        trigger["metadata"]
        for manifest in yaml.safe_load_all((checkout / "deploy/kubernetes/keda.yaml").read_text("utf-8"))
        for trigger in manifest["spec"].get("triggers", [])
    ]
    assert [trigger["listName"] for trigger in triggers] == ["letta_requests", "{letta_requests}:ready"]
    admin = user("admin")
    for trigger in triggers:
        password = (secrets / f"redis_{trigger['username']}_password").read_text("utf-8").strip()
        client = redis.Redis(port=redis_with_users.port, protocol=3, username=trigger["username"], password=password)
        with client:
            assert client.ping()  # KEDA's first command on a connection
            assert _as_keda_asks(client, trigger["listName"]) == 0
            admin.rpush(trigger["listName"], "one", "two", "three")
            assert _as_keda_asks(client, trigger["listName"]) == 3
            assert client.llen(trigger["listName"]) == 3  # what KEDA 1 sent
    assert admin.acl_log() == []


def test_every_acl_user_needs_a_password(redis_with_users: Valkey) -> None:
    once = Retry(NoBackoff(), 0)
    for name, password in ((None, None), ("bridge", "no"), ("default", "redis_password")):
        client = redis.Redis(port=redis_with_users.port, retry=once, username=name, password=password)
        with client, pytest.raises(redis.AuthenticationError):
            client.ping()


def test_server_configuration_is_durable_and_evicts_nothing(user: User) -> None:
    settings = user("admin").config_get("append*", "maxmemory-policy", "maxmemory")
    assert settings["appendonly"] == "yes"
    assert settings["appendfsync"] == "always"
    assert settings["maxmemory-policy"] == "noeviction"
    assert int(settings["maxmemory"]) == 768 * 2**20


def test_passwords_are_kept_as_hashes(redis_with_users: Valkey, user: User, secrets: Path, tmp_path: Path) -> None:
    made = (tmp_path / "run/users.acl").read_text("utf-8")
    assert made.count("user ") == 7
    for file in secrets.iterdir():
        assert file.read_text("utf-8").strip() not in made
    assert (tmp_path / "run/users.acl").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("content", [None, "", "\n", "\r\n", "\ufeff\n"])
def test_a_missing_secret_is_named(content: str | None, checkout: Path, secrets: Path, tmp_path: Path) -> None:
    """Without one, a hash of nothing would let everybody in."""
    for file in secrets.iterdir():
        if file.name != "redis_bridge_password":
            (tmp_path / file.name).write_text("x", encoding="utf-8")
        elif content is not None:
            (tmp_path / file.name).write_bytes(content.encode())
    done = subprocess.run(
        ["sh", checkout / "deploy/redis/start"],
        env={"PATH": "/usr/bin:/bin", "REDIS_SECRETS": str(tmp_path), "REDIS_RUN": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "redis_bridge_password is missing, empty or not readable" in done.stderr


@pytest.mark.process
def test_a_password_is_the_same_for_redis_and_for_the_services(checkout: Path, secrets: Path, tmp_path: Path) -> None:
    """Whatever an editor left around it, and whatever is in it."""
    password = "$p #%s:@/?&+ 'w\"x`\\é密-"
    for file in secrets.iterdir():
        (tmp_path / file.name).write_bytes(f"\ufeff{password}\r\n\n".encode())
    (tmp_path / "valkey-server").write_text("#!/bin/sh\n", encoding="utf-8")
    (tmp_path / "valkey-server").chmod(0o755)
    subprocess.run(
        ["sh", checkout / "deploy/redis/start"],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin", "REDIS_SECRETS": str(tmp_path), "REDIS_RUN": str(tmp_path)},
        check=True,
    )
    [leaf] = [leaf for leaf in variables.leaves(BridgeSettings) if "REDIS_PASSWORD" in leaf.variables(LAYOUT)]
    environment = {"REDIS_PASSWORD_FILE": str(tmp_path / "redis_bridge_password")}
    found = variables.given(leaf, leaf.variables(LAYOUT), environment)
    assert found is not None
    assert found[0] == password
    assert f"user bridge on #{hashlib.sha256(password.encode()).hexdigest()} " in (tmp_path / "users.acl").read_text()


@pytest.mark.parametrize(
    ("name", "scripts"),
    [
        ("bridge", "services/letta-bridge-python/src"),
        ("memory", "services/memory-python/src"),
    ],
)
def test_every_command_of_the_scripts_is_allowed(name: str, scripts: str, user: User, checkout: Path) -> None:
    called = set()
    for file in (checkout / scripts).rglob("*.lua"):
        found = re.findall(r"redis\.p?call\(\s*'(\w+)'(?:, '(USAGE)')?", file.read_text("utf-8"))
        called |= {"|".join(filter(None, words)) for words in found}
    assert called >= {"HSET", "LPUSH", "ZADD"}
    rules = user("admin").acl_getuser(name)["commands"]
    assert {command for command in called if f"+{command.lower()}" not in rules} == set()


def test_producer_can_push_wait_and_read_missed_replies(user: User) -> None:
    client = user("default")
    channel = client.pubsub()
    channel.subscribe("task_response:1", "letta_responses")
    client.lpush("letta_requests", json.dumps({"task_id": "1", "content": "hi"}))
    client.lpush("user_input_queue", "{}")
    assert client.get("{letta_requests}:reply:ada:1") is None
    assert client.xread({"{letta_requests}:replies": "0"}) in ([], {})
    channel.subscribe("task_stream:1")
    assert client.xread({"{letta_requests}:stream:ada:1": "0"}) in ([], {})
    client.lpush("letta_control", json.dumps({"type": "interrupt", "user_id": "ada", "task_id": "1"}))
    assert client.lrange("memory:user_sessions:ada", 0, 19) == []
    assert user("scaler").llen("letta_requests") == 1
    channel.close()


@pytest.mark.usefixtures("bridge")
async def test_a_client_asks_and_reads_all_replies_as_its_user(redis_with_users: Valkey, secrets: Path) -> None:
    password = (secrets / "redis_client_password").read_text("utf-8").strip()
    async with Bridge(f"redis://client:{password}@{HOST}:{redis_with_users.port}/0") as client:
        reply = await client.ask("ada", "hello", timeout=60)
        assert reply.source == "letta"
        assert await client.result(reply.task_id, "ada") == reply
        _, first = await anext(client.replies(after="0-0"))
        assert first == reply


async def test_a_client_may_listen_to_a_stream_and_interrupt_it_as_its_user(user: User) -> None:
    client = user("client")
    with client.pubsub() as channel:
        channel.subscribe("task_stream:1")
        assert client.xread({"{letta_requests}:stream:ada:1": "0-1"}) in ([], {})
        client.lpush("letta_control", json.dumps({"type": "interrupt", "user_id": "ada", "task_id": "1"}))
    assert user("admin").acl_log() == []


@pytest.fixture
def letta(letta_double: DoubleFactory) -> LettaDouble:
    return letta_double()


@pytest.fixture
def turn(user: User) -> Callable[..., dict[str, Any]]:
    """`turn(task_id, content="…")`: push a task of the user ada, and wait for its reply."""
    producer = user("default")

    def push(task_id: str, **task: Any) -> dict[str, Any]:
        with producer.pubsub(ignore_subscribe_messages=True) as replies:
            replies.subscribe("letta_responses")
            replies.get_message(timeout=1)
            producer.lpush("letta_requests", json.dumps({"task_id": task_id, "user_id": "ada", "type": "text", **task}))
            for _ in range(120):
                message = replies.get_message(timeout=0.5)
                if message:
                    reply: dict[str, Any] = json.loads(message["data"])
                    assert reply["task_id"] == task_id
                    return reply
        pytest.fail(f"no reply to {task_id}")

    return push


@pytest.fixture
def logins(redis_with_users: Valkey, secrets: Path) -> Callable[[str], dict[str, str]]:
    """`logins("bridge")`: the variables by which a service logs in as that user."""

    def variables(name: str) -> dict[str, str]:
        return {
            "redis_url": f"redis://{HOST}:{redis_with_users.port}/0",
            "REDIS_USERNAME": name,
            "REDIS_PASSWORD_FILE": str(secrets / f"redis_{name}_password"),
        }

    return variables


@pytest.fixture
def memory(logins: Callable[[str], dict[str, str]], memory_factory: Callable[..., Any]) -> Any:
    """memory-python as its user."""
    return memory_factory(**logins("memory"))


@pytest.fixture
def bridge(logins: Callable[[str], dict[str, str]], letta: LettaDouble, bridge_factory: Callable[..., Any]) -> Any:
    """A bridge as its user."""
    return bridge_factory(letta=letta.url, LETTA_RETRY_ATTEMPTS="0", **logins("bridge"))


def _listen_and_interrupt(product: Any, admin: Any, turn: Callable[..., dict[str, Any]]) -> None:
    """A streamed turn, an interrupt after it, and one before the turn that it breaks off."""
    with product.pubsub(ignore_subscribe_messages=True) as events:
        events.subscribe("task_stream:s1")
        events.get_message(timeout=5)
        reply = turn("s1", content="hello", meta={"stream": True})
        heard: list[dict[str, Any]] = []
        while not heard or heard[-1]["type"] != "end":
            message = events.get_message(timeout=20)
            assert message, heard
            heard.append(json.loads(message["data"]))
    kept = product.xrange("{letta_requests}:stream:ada:s1")
    assert [json.loads(fields["event"]) for _, fields in kept] == heard
    assert "".join(event.get("text", "") for event in heard) == reply["response_text"]
    for task_id in ("s1", "s2"):
        request = {"type": "interrupt", "user_id": "ada", "task_id": task_id, "heard": {"seq": 0}}
        product.lpush("letta_control", json.dumps(request))
    deadline = time.monotonic() + 20
    while admin.exists("letta_control"):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert turn("s2", content="hello", meta={"stream": True})["status"] == "interrupted"


@pytest.mark.usefixtures("memory")
def test_bridge_and_memory_do_all_their_work_as_their_users(
    bridge: Any, letta: LettaDouble, turn: Callable[..., dict[str, Any]], user: User
) -> None:
    assert turn("1", content="hello")["source"] == "letta"
    assert turn("2", content="psst", meta={"memory_type": "temporary"})["source"] == "memory-python"
    assert turn("1", content="hello")["source"] == "letta"  # a repeated task is answered with what was kept
    assert turn("3", content="")["error"] is True
    _listen_and_interrupt(user("default"), user("admin"), turn)
    user("default").lpush("letta_requests", "no JSON")
    bridge.restart()  # gives back, takes up, sets aside
    assert turn("4", content="still there?")["source"] == "letta"
    letta.kill()
    assert turn("5", content="and now?")["fallback_reason"]
    admin = user("admin")
    assert user("default").get("{letta_requests}:reply:ada:4")
    assert admin.llen("{letta_requests}:dead") >= 1
    deadline = time.monotonic() + 20  # memory-python's reply is out a moment before the bridge has settled the turn
    while admin.llen("{letta_requests}:missed:ada") != 1:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert admin.llen("memory:user_sessions:ada") >= 2
    assert admin.acl_log() == []


def test_an_operator_in_the_bridges_container_can_do_all_the_command_line_does(
    bridge: Any,
    logins: Callable[[str], dict[str, str]],
    turn: Callable[..., dict[str, Any]],
    user: User,
    tmp_path: Path,
) -> None:
    login = logins("bridge")
    environment = {
        "PATH": "/usr/bin:/bin",
        "REDIS_URL": login.pop("redis_url"),
        "DATA_DIR": str(tmp_path),
        "LETTA_API_URL": "http://127.0.0.1:9",
        **login,
    }

    def run(*words: str, codes: tuple[int, ...] = (0,)) -> str:
        command: list[str | Path] = [Path(sys.executable).with_name("letta-bridge"), *words]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
        said: str = done.stdout + done.stderr
        assert done.returncode in codes, f"{words}: {said}"
        assert "permission" not in said.lower(), f"{words}: {said}"
        return said

    assert turn("1", content="hello")["source"] == "letta"
    assert turn("2", content="")["error"] is True
    assert "hello" in run("send", "hello", "--user", "bob")
    run("status", "--json")
    run("lanes", "--json")
    run("pause")
    run("resume")
    assert "empty_content" in run("dead", "list", "--json")
    run("dead", "retry", "--all")
    run("drain")
    run("resume")
    run("dead", "drop", "--all")
    run("tail", "--no-follow", "--since", "1h", "--json")
    run("doctor", codes=(0, 1))
    assert user("admin").acl_log() == []
    assert bridge.running
