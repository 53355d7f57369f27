"""Backup and restore through the command line, on a real Letta, PostgreSQL and Redis, while users talk."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import psycopg
import pytest

from letta_bridge.fail_points import ARCHIVE_STEPS
from letta_bridge.letta import AgentSpec, Block
from letta_bridge.letta.letta_client import LettaClient
from local_stack.fixtures import BridgeFactory, MemoryFactory
from local_stack.letta import Letta
from local_stack.models import ScriptedModel
from local_stack.postgres import Postgres
from local_stack.programs import program
from local_stack.valkey import Valkey
from shared_utils.persistence.choices.port import user_key

pytestmark = [pytest.mark.letta, pytest.mark.acceptance]

CHOICES = "{letta_requests}:choices"
_HELD = """
    SELECT user_id, 'session' FROM letta_bridge.agent_sessions
    UNION ALL SELECT user_id, 'conversation' FROM letta_bridge.agent_conversations
"""
BACKUP_STEPS = ("state_saved", "agent_saved", "backup_listed")
RESTORE_STEPS = tuple(step for step in ARCHIVE_STEPS if step not in BACKUP_STEPS)


@pytest.fixture(scope="module")
def own_letta(
    postgres_server: Postgres, scripted_model: ScriptedModel, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Letta]:
    """A Letta with no agents but this module's: a backup holds all there are."""
    locks = Valkey(tmp_path_factory.mktemp("locks"), durable=False)
    letta = Letta(
        tmp_path_factory.mktemp("letta"),
        database_url=f"{postgres_server.url('own_letta')}?sslmode=disable",
        locks=(locks.host, locks.port),
        model=scripted_model.access,
    )
    for process in (locks, letta):
        process.start()
        process.wait_ready()
    yield letta
    letta.stop()
    locks.stop()


@pytest.fixture
def observe(make_observer: Any, redis_url: str, own_letta: Letta) -> Iterator[Any]:
    """An observer of that Letta."""
    observer = make_observer(redis_url, own_letta)
    yield observer
    observer.client.close()


@pytest.fixture
def bridge(bridge_factory: BridgeFactory, own_letta: Letta, redis_url: str, postgres_url: str) -> Iterator[Any]:
    yield bridge_factory(redis_url, own_letta, DATABASE_URL=postgres_url)
    asyncio.run(lose_agents(own_letta))


@pytest.fixture
def command(bridge: Any) -> Callable[..., Any]:
    """``letta-bridge ARGUMENTS`` against the same installation, or one with other variables."""

    def run(*arguments: Any, code: int = 0, **variables: Any) -> Any:
        done = subprocess.run(
            [program("letta-bridge"), *map(str, arguments)],
            env={**bridge.environment, **variables},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout

    return run


@pytest.fixture
def place(postgres_server: Postgres, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Makes empty places to restore into: variables that name a database and a data directory."""
    made = []

    def make() -> dict[str, Any]:
        name = f"restored_{time.monotonic_ns()}"
        postgres_server.create_database(name)
        made.append(name)
        return {"DATABASE_URL": postgres_server.url(name), "DATA_DIR": str(tmp_path / name)}

    yield make
    for name in made:
        postgres_server.drop_database(name)


async def lose_agents(letta: Any, *tags: Any) -> None:
    """As a Letta that lost its database."""
    client = LettaClient(letta.url, api_key=letta.api_key)
    for tag in tags or ("bridge", "bridge-restoring", "bridge-reader"):
        for agent in await client.find_agents([tag]):
            await client.delete_agent(agent.agent_id)
    await client.close()


async def agents_of(letta: Any, *tags: Any) -> Any:
    client = LettaClient(letta.url, api_key=letta.api_key)
    try:
        return await client.find_agents(tags)
    finally:
        await client.close()


def held(postgres_url: Any) -> list[Any]:
    """What the database holds: (user, kind) of each."""
    with psycopg.connect(postgres_url) as connection:
        return sorted(connection.execute(_HELD).fetchall())


def sessions(postgres_url: Any) -> Any:
    with psycopg.connect(postgres_url) as connection:
        rows = connection.execute("SELECT user_id, agent_id FROM letta_bridge.agent_sessions").fetchall()
    return dict(rows)


def wait_for_journal(observe: Any) -> None:
    """Until every turn settled is in the database, and nowhere else any more."""
    deadline = time.monotonic() + 60
    while waiting := observe.unjournalled():
        assert time.monotonic() < deadline, waiting
        time.sleep(0.1)


def test_a_stack_is_saved_while_users_talk_and_comes_back(
    command: Callable[..., Any],
    observe: Any,
    users: Callable[..., Any],
    bridge: Any,
    bridge_factory: BridgeFactory,
    own_letta: Letta,
    redis_url: str,
    postgres_url: Any,
    place: Callable[..., Any],
    tmp_path: Path,
) -> None:
    everybody = users(3)
    observe.push_conversations(everybody, 2)
    observe.wait_settled(6)
    wait_for_journal(observe)
    over = threading.Event()

    def talk() -> None:
        number = 2
        while not over.is_set() and number < 40:
            for user in everybody:
                observe.push(user, f"{user}-{number}", f"第{number}句 from {user}")
            number += 1
            observe.wait_settled(3 * number)

    talking = threading.Thread(target=talk)
    talking.start()
    folder = tmp_path / "backup"
    try:
        made = json.loads(command("backup", folder, "--json"))
    finally:
        over.set()
        talking.join()
    assert len(made["agents"]) == 3
    assert made["skipped"] == []
    assert {oct(path.stat().st_mode & 0o777) for path in folder.rglob("*") if path.is_file()} == {"0o600"}
    assert urlsplit(postgres_url).password not in (folder / "config.json").read_text("utf-8")
    bridge.stop()
    asyncio.run(lose_agents(own_letta))

    there = place()
    told = command("restore", folder, **there)
    assert "agents: 3 restored" in told
    assert "different" not in told
    now = sessions(there["DATABASE_URL"])
    assert set(now) == set(everybody)
    for user in everybody:
        [agent] = asyncio.run(agents_of(own_letta, "bridge", f"user:{user}"))
        assert agent.agent_id == now[user]
        assert len(agent.former_ids) == 1
        said = observe.said(user)[user]
        assert said == [f"第{number}句 from {user}" for number in range(len(said))]
        assert len(said) >= 2, "what was settled before the backup began is in it"

    bridge_factory(redis_url, own_letta, **there)
    settled = observe.settled()
    for user in everybody:
        observe.push(user, f"{user}-after", "再见")
    observe.wait_settled(settled + 3)
    for user in everybody:
        assert observe.said(user)[user][-1] == "再见"


def test_a_backup_comes_back_beside_the_agents_it_was_made_of(
    command: Callable[..., Any],
    observe: Any,
    users: Callable[..., Any],
    postgres_url: str,
    place: Callable[..., Any],
    tmp_path: Path,
) -> None:
    everybody = users(2)
    observe.push_conversations(everybody, 1)
    observe.wait_settled(2)
    wait_for_journal(observe)
    command("backup", tmp_path / "backup")
    there = place()
    restored = json.loads(command("restore", tmp_path / "backup", "--json", **there))
    assert restored["outcomes"] == {"there": 2}
    assert restored["whole"]
    assert held(there["DATABASE_URL"]) == held(postgres_url)
    assert sessions(there["DATABASE_URL"]) == sessions(postgres_url)
    again = json.loads(command("restore", tmp_path / "backup", "--json", **there))
    assert again["state"]["done_before"]
    command("restore", tmp_path / "backup", code=1, DATABASE_URL=postgres_url, DATA_DIR=there["DATA_DIR"])


def test_a_backup_killed_at_any_step_is_refused(
    command: Callable[..., Any], observe: Any, users: Callable[..., Any], place: Callable[..., Any], tmp_path: Path
) -> None:
    observe.push_conversations(users(1), 1)
    observe.wait_settled(1)
    there = place()
    for step in BACKUP_STEPS:
        folder = tmp_path / step
        command("backup", folder, code=-signal.SIGKILL, CHAOS_FAIL_POINT=f"{step}:KILL:1")
        command("restore", folder, code=1, **there)
    command("backup", tmp_path / BACKUP_STEPS[0], code=1)


def test_a_restore_killed_at_every_step_in_turn_ends_the_same(
    command: Callable[..., Any],
    observe: Any,
    users: Callable[..., Any],
    bridge: Any,
    own_letta: Letta,
    place: Callable[..., Any],
    tmp_path: Path,
) -> None:
    everybody = users(2)
    observe.push_conversations(everybody, 2)
    observe.wait_settled(4)
    wait_for_journal(observe)
    for user in everybody:
        [agent] = asyncio.run(agents_of(own_letta, "bridge", f"user:{user}"))
        asyncio.run(note(own_letta, agent.agent_id, f"{user} likes cats"))
    command("backup", tmp_path / "backup")
    before = observe.said(*everybody)
    bridge.stop()
    asyncio.run(lose_agents(own_letta))

    there = place()
    for step in RESTORE_STEPS:
        command("restore", tmp_path / "backup", code=-signal.SIGKILL, CHAOS_FAIL_POINT=f"{step}:KILL:1", **there)
    restored = json.loads(command("restore", tmp_path / "backup", "--json", **there))
    assert restored["whole"]
    assert restored["outcomes"] == {"restored_before": 2}
    assert restored["state"]["done_before"]
    assert observe.said(*everybody) == before
    assert set(sessions(there["DATABASE_URL"])) == set(everybody)
    assert asyncio.run(agents_of(own_letta, "bridge-restoring")) == []
    for user in everybody:
        [agent] = asyncio.run(agents_of(own_letta, "bridge", f"user:{user}"))
        assert asyncio.run(noted(own_letta, agent.agent_id)) == [f"{user} likes cats"]
        assert sessions(there["DATABASE_URL"])[user] == agent.agent_id


def test_restore_leaves_out_a_user_who_was_erased_after_the_backup_and_after_a_restore(
    command: Callable[..., Any],
    observe: Any,
    users: Callable[..., Any],
    bridge: Any,
    own_letta: Letta,
    place: Callable[..., Any],
    tmp_path: Path,
) -> None:
    first, second, third = everybody = users(3)
    observe.push_conversations(everybody, 1)
    observe.wait_settled(3)
    wait_for_journal(observe)
    folder = tmp_path / "backup"
    command("backup", folder)
    command("user", "erase", first, "--yes")
    bridge.stop()
    asyncio.run(lose_agents(own_letta))

    there = place()
    restored = json.loads(command("restore", folder, "--json", **there))
    assert restored["whole"]
    assert restored["outcomes"] == {"erased": 1, "restored": 2}
    assert (restored["erased_since"], restored["erasures_unread"]) == (1, [])
    assert set(sessions(there["DATABASE_URL"])) == {second, third}

    command("user", "erase", second, "--yes", **there)
    again = json.loads(command("restore", folder, "--json", **there))
    assert again["outcomes"] == {"erased": 2, "restored_before": 1}
    assert {user for user, _ in held(there["DATABASE_URL"])} == {third}
    found = {user: asyncio.run(agents_of(own_letta, "bridge", f"user:{user}")) for user in everybody}
    assert {user: len(agents) for user, agents in found.items()} == {first: 0, second: 0, third: 1}


def test_backup_of_a_named_tenant_comes_back_under_a_bridge_that_was_started_first(
    bridge_factory: BridgeFactory,
    memory_factory: MemoryFactory,
    observe: Any,
    own_letta: Letta,
    redis_url: str,
    place: Callable[..., Any],
    command_of: Callable[..., Any],
    until: Callable[..., Any],
    tmp_path: Path,
) -> None:
    """Another tenant's agents stay as they are; restored opt-outs apply to the running bridge's next turn."""
    tenant = {"TENANT": "shop"}
    memory_factory(redis_url, **tenant)
    here, there = place() | tenant, place() | tenant
    bridge = bridge_factory(redis_url, own_letta, **here)
    for user in ("小明", "ada"):
        observe.push(user, "first", f"I am {user}")
    observe.wait_settled(2)
    wait_for_journal(observe)
    choice = {"permanent_memory": False}
    httpx.put(f"{bridge.url}/api/users/ada/settings", json=choice, timeout=20).raise_for_status()
    others = asyncio.run(made(own_letta, "bridge", "user:小明", "persona:default"))
    folder = tmp_path / "backup"
    assert len(json.loads(command_of(bridge)("backup", folder, "--json")[1])["agents"]) == 2
    bridge.stop()
    asyncio.run(lose_agents(own_letta, "bridge:shop"))

    observe.client.delete(CHOICES)
    observe.client.hset(CHOICES, user_key("cy"), "0 17")
    later = bridge_factory(redis_url, own_letta, **there)
    until(lambda: choices(there) == {user_key("cy"): False}, "the bridge stores what Redis knows")
    restored = json.loads(command_of(later)("restore", folder, "--json")[1])
    assert restored["whole"]
    assert restored["outcomes"] == {"restored": 2}
    assert choices(there) == {user_key("cy"): False, user_key("ada"): False}

    for user, expected in {"ada": "user_switch", "小明": "letta", "cy": "user_switch"}.items():
        observe.push(user, "again", "再见")
        until(lambda user=user: observe.reply(user, "again"), f"{user} gets an answer")
        reply = observe.reply(user, "again")
        assert (reply.get("fallback_reason") or reply["source"]) == expected
    [agent] = asyncio.run(agents_of(own_letta, "bridge:shop", "user:小明"))
    assert agent.agent_id == observe.reply("小明", "again")["agent_id"]
    assert len(agent.former_ids) == 1
    assert asyncio.run(agents_of(own_letta, "bridge", "user:小明")) == [others]
    assert later.is_ready()
    asyncio.run(lose_agents(own_letta, "bridge:shop", "bridge"))


def choices(place: Any) -> Any:
    """What the named tenant's database holds: user key → choice."""
    with psycopg.connect(place["DATABASE_URL"]) as connection:
        found = connection.execute("SELECT to_regclass('letta_bridge_shop.user_choices')").fetchone()
        if found == (None,):
            return None
        return dict(
            connection.execute("SELECT user_key, permanent_memory FROM letta_bridge_shop.user_choices").fetchall()
        )


async def made(letta: Any, *tags: Any) -> Any:
    """An empty agent with these tags."""
    client = LettaClient(letta.url, api_key=letta.api_key)
    spec = AgentSpec("x", tags, letta.model, None, "letta_v1_agent", (Block("human", ""),), ("memory_insert",))
    try:
        await client.create_agent(spec)
        return (await client.find_agents(tags))[-1]
    finally:
        await client.close()


async def note(letta: Any, agent_id: str, text: str) -> None:
    client = LettaClient(letta.url, api_key=letta.api_key)
    await client.request("POST", f"/v1/agents/{agent_id}/archival-memory", body={"text": text, "tags": ["cats"]})
    await client.close()


async def noted(letta: Any, agent_id: str) -> list[Any]:
    client = LettaClient(letta.url, api_key=letta.api_key)
    try:
        return [passage.text for passage in await client.passages(agent_id)]
    finally:
        await client.close()
