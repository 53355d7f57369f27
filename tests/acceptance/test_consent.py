"""Opt-outs with real bridges: several hosts, new hosts, Redis data lost, database away.

Letta is a double that counts the turns it gets; none may belong to a user who opted out.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from local_stack.fixtures import BridgeFactory, DoubleFactory, MemoryFactory
from local_stack.postgres import Postgres
from local_stack.programs import CHECKOUT, program

pytestmark = pytest.mark.acceptance

QUEUE = "letta_requests"
CHOICES = f"{{{QUEUE}}}:choices"
IMPATIENT = {"DB_CONNECTION_TIMEOUT": "1", "DB_QUERY_TIMEOUT": "2"}


@pytest.fixture
def letta_url(letta_double: DoubleFactory) -> Any:
    return letta_double().url


@pytest.fixture
def own_postgres(tmp_path: Path) -> Iterator[Postgres]:
    """A server that this test may kill."""
    server = Postgres(tmp_path / "own-postgres", durable=False)
    server.start()
    server.wait_ready()
    server.create_database("bridge")
    yield server
    server.kill()


@pytest.fixture
def producer(
    redis_url: str, memory_factory: MemoryFactory, make_observer: Any, letta_url: Any
) -> Iterator[Callable[..., Any]]:
    """Sends a task as a user and waits for its reply; returns the source or the fallback reason."""
    memory_factory(redis_url)
    observer = make_observer(redis_url)
    numbers = iter(range(1000))

    def say(user: str, **fields: Any) -> Any:
        task_id = f"t{next(numbers)}"
        observer.push(user, task_id, "something", **fields)
        deadline = time.monotonic() + 60
        while (reply := observer.reply(user, task_id)) is None:
            assert time.monotonic() < deadline, "no reply"
            time.sleep(0.02)
        return reply.get("fallback_reason") or reply["source"]

    say.turns = lambda: httpx.get(f"{letta_url}/seen", timeout=10).json()["turns"]  # type: ignore[attr-defined]
    say.redis = observer.client  # type: ignore[attr-defined]
    yield say
    observer.client.close()


def choose(bridge: Any, user: str, permanent_memory: Any, *, status: int = 200) -> Any:
    body = {"permanent_memory": permanent_memory}
    answer = httpx.put(f"{bridge.url}/api/users/{user}/settings", json=body, timeout=20)
    assert answer.status_code == status, answer.text
    return answer.json()


def permanent_memory_of(bridge: Any, user: str) -> Any:
    answer = httpx.get(f"{bridge.url}/api/users/{user}/settings", timeout=20).raise_for_status()
    return answer.json()["permanent_memory"]


def wait_until(holds: Any, what: Any, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def complete(client: Any) -> Any:
    return client.hexists(CHOICES, "complete")


def test_opt_out_applies_to_bridges_with_separate_data_directories(
    bridge_factory: BridgeFactory, redis_url: str, letta_url: Any, producer: Any
) -> None:
    bridges = [bridge_factory(redis_url, letta_url, data=f"host-{number}") for number in range(2)]
    assert producer("bo") == "letta"
    choose(bridges[0], "ada", False)
    assert [producer("ada") for _ in range(6)] == ["user_switch"] * 6
    assert [permanent_memory_of(bridge, "ada") for bridge in bridges] == [False, False]
    bridges[0].kill()
    assert producer("ada") == "user_switch"
    new = bridge_factory(redis_url, letta_url, data="host-3")
    bridges[1].kill()
    assert producer("ada") == "user_switch"
    assert producer.turns() == 1
    choose(new, "ada", True)
    assert producer("ada") == "letta"


def test_opt_out_survives_deleted_sessions_and_covers_later_personas(
    bridge_factory: BridgeFactory, redis_url: str, letta_url: Any, producer: Any
) -> None:
    bridge = bridge_factory(redis_url, letta_url)
    assert producer("ada") == "letta"
    choose(bridge, "ada", False)
    path = f"{bridge.url}/api/sessions/postgres/sessions"
    for session in httpx.get(path, params={"user_id": "ada"}, timeout=10).json()["sessions"]:
        hard = {"hard": session["persona"] != "default"}
        httpx.delete(f"{path}/{session['session_id']}", params=hard, timeout=10).raise_for_status()
    assert producer("ada") == "user_switch"
    bridge.stop()
    personas = json.dumps({"default": {}, "coach": {}})
    bridge_factory(redis_url, letta_url, LETTA_BRIDGE_AGENTS_PERSONAS=personas)
    assert producer("ada", meta={"persona": "coach"}) == "user_switch"
    assert producer("bo", meta={"persona": "coach"}) == "letta"
    assert producer.turns() == 2


def test_bridge_started_without_the_database_honours_every_choice(
    bridge_factory: BridgeFactory, redis_url: str, letta_url: Any, producer: Any, own_postgres: Postgres
) -> None:
    variables = {**IMPATIENT, "DATABASE_URL": own_postgres.url("bridge")}
    first = bridge_factory(redis_url, letta_url, data="pod-1", **variables)
    choose(first, "ada", False)
    choose(first, "bo", False)
    choose(first, "bo", True)
    wait_until(lambda: complete(producer.redis), "Redis is not marked complete")
    first.kill()
    own_postgres.kill()
    second = bridge_factory(redis_url, letta_url, data="pod-2", **variables)
    assert [producer(user) for user in ("ada", "bo", "cy")] == ["user_switch", "letta", "letta"]
    assert choose(second, "cy", True, status=503)["code"] == "database_unavailable"
    choose(second, "cy", False)
    assert producer("cy") == "user_switch"
    # After the outage the database holds the opt-out made meanwhile, so a loss of Redis does not lose it.
    own_postgres.start()
    own_postgres.wait_ready()
    wait_until(lambda: _check(second, "consent"), "the replicas are not reconciled after the outage")
    producer.redis.flushall()
    second.kill()
    bridge_factory(redis_url, letta_url, data="pod-3", **variables)
    assert [producer(user) for user in ("ada", "bo", "cy")] == ["user_switch", "letta", "user_switch"]


def test_unknown_choices_go_to_the_fallback_without_redis_data_and_database(
    bridge_factory: BridgeFactory, redis_url: str, letta_url: Any, producer: Any, own_postgres: Postgres
) -> None:
    variables = {**IMPATIENT, "DATABASE_URL": own_postgres.url("bridge")}
    first = bridge_factory(redis_url, letta_url, data="pod-1", **variables)
    choose(first, "ada", False)
    first.kill()
    own_postgres.kill()
    producer.redis.delete(CHOICES)
    second = bridge_factory(redis_url, letta_url, data="pod-2", **variables)
    assert [producer(user) for user in ("ada", "bo")] == ["choice_unknown"] * 2
    assert httpx.get(f"{second.url}/api/users/bo/settings", timeout=20).status_code == 503
    assert not _check(second, "consent")
    own_postgres.start()
    own_postgres.wait_ready()
    wait_until(lambda: complete(producer.redis), "Redis is not reloaded from the database")
    assert [producer(user) for user in ("ada", "bo")] == ["user_switch", "letta"]
    assert producer.redis.llen(f"{{{QUEUE}}}:missed:bo") == 0
    assert producer.turns() == 1


def test_opt_out_survives_erasure_until_the_user_opts_in(
    bridge_factory: BridgeFactory, redis_url: str, letta_url: Any, producer: Any, tmp_path: Path
) -> None:
    bridge = bridge_factory(redis_url, letta_url)
    assert producer("ada") == "letta"
    choose(bridge, "ada", False)
    environment = {
        **os.environ,
        "REDIS_URL": redis_url,
        "LETTA_API_URL": letta_url,
        "DATA_DIR": str(tmp_path / "bridge"),
        "LETTA_BRIDGE_CONFIG": str(CHECKOUT / "config.json"),
    }

    def command(*words: Any) -> Any:
        done = subprocess.run(
            [program("letta-bridge"), *words], env=environment, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert json.loads(command("user", "show", "ada", "--json"))["permanent_memory"] is False
    command("user", "erase", "ada", "--yes")
    command("user", "export", "ada", "--to", str(tmp_path / "export"))
    assert json.loads((tmp_path / "export" / "choice.json").read_text("utf-8"))["permanent_memory"] is False
    assert "ada" not in str(producer.redis.hgetall(CHOICES))
    assert producer("ada") == "user_switch"
    assert "permanent memory: off, chosen" in command("user", "show", "ada")
    command("sessions", "settings", "ada", "--permanent-memory")
    assert producer("ada") == "letta"


def test_second_queue_is_ready_only_with_a_tenant_of_its_own(
    bridge_factory: BridgeFactory, redis_url: str, letta_url: Any, producer: Callable[..., Any]
) -> None:
    alone = {"TENANT_SHARDS": "false"}
    bridge_factory(redis_url, letta_url, **alone)
    assert producer("ada") == "letta"
    second = bridge_factory(redis_url, letta_url, data="b", ready=False, LETTA_REQUESTS="other", **alone)
    wait_until(lambda: _answers(second, 503), "the second queue's bridge answers as if it were ready")
    assert "TENANT" in httpx.get(f"{second.url}/readyz?verbose", timeout=10).text
    with redis.Redis.from_url(redis_url) as client:
        client.lpush("other", json.dumps({"task_id": "1", "user_id": "ada", "content": "who am I?"}))
        wait_until(lambda: client.get("{other}:reply:ada:1"), "no reply")
        assert json.loads(client.get("{other}:reply:ada:1"))["fallback_reason"] == "tenant_taken"
        second.kill()
        bridge_factory(redis_url, letta_url, data="b", LETTA_REQUESTS="other", TENANT="shop", **alone)
        client.lpush("other", json.dumps({"task_id": "2", "user_id": "ada", "content": "who am I?"}))
        wait_until(lambda: client.get("{other}:reply:ada:2"), "no reply")
        assert json.loads(client.get("{other}:reply:ada:2"))["source"] == "letta"
    agents = httpx.get(f"{letta_url}/v1/agents/", timeout=10).json()
    assert sorted(tag for agent in agents for tag in agent["tags"] if tag.startswith("bridge")) == [
        "bridge",
        "bridge:shop",
    ]


def _check(bridge: Any, name: str) -> Any:
    checks = httpx.get(f"{bridge.url}/readyz?verbose", timeout=10).json()["checks"]
    return next(check for check in checks if check["name"] == name)["ok"]


def _answers(bridge: Any, status: int) -> bool:
    try:
        return httpx.get(f"{bridge.url}/readyz", timeout=5).status_code == status
    except httpx.TransportError:
        return False


def test_opt_out_holds_after_an_older_database_and_a_new_redis(
    bridge_factory: BridgeFactory, redis_url: str, letta_url: Any, producer: Any, own_postgres: Postgres
) -> None:
    """Letta alone knows of the opt-out, in the tags of an agent that the restored database names."""
    own_postgres.create_database("later")
    bridge = bridge_factory(redis_url, letta_url, DATABASE_URL=own_postgres.url("bridge"))
    assert [producer("ada"), producer("bo")] == ["letta"] * 2
    programs, before = own_postgres.programs, own_postgres.url("bridge")
    dump = subprocess.run([f"{programs}/pg_dump", before], check=True, capture_output=True).stdout
    choose(bridge, "ada", False)
    bridge.stop()
    restored = own_postgres.url("later")
    subprocess.run([f"{programs}/psql", "-q", restored], input=dump, check=True, capture_output=True)
    for key in producer.redis.scan_iter():
        if key != f"{{{QUEUE}}}:identity".encode():  # the claim on the tenant stays; it would expire after 75 s
            producer.redis.delete(key)
    new = bridge_factory(redis_url, letta_url, data="new-host", DATABASE_URL=restored)
    assert [producer("ada"), producer("bo"), producer("ada")] == ["user_switch", "letta", "user_switch"]
    assert producer.turns() == 3
    assert not permanent_memory_of(new, "ada")
