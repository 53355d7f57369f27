"""A Redis that answers and refuses: told once, not ready, the reason where operators look, and over when mended."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from local_stack.fixtures import BridgeFactory, MemoryFactory
from local_stack.ports import HOST, free_port
from local_stack.programs import environment, program
from local_stack.valkey import Valkey

pytestmark = pytest.mark.acceptance

DEADLINE_SECONDS = 60
WATCHED_SECONDS = 3
"""For so long the log must not grow by another warning: many of the longest pauses of a bridge out of reach."""


class Refusal:
    """One way in which Redis refuses: how it begins, how it ends, what an operator reads."""

    def __init__(self, client: Any, server: Any) -> None:
        self.client, self.server = client, server

    def end(self) -> None:
        raise NotImplementedError


class AnotherType(Refusal):
    says = "the key letta_requests is no list"

    def begin(self) -> None:
        self.client.delete("letta_requests")
        self.client.xadd("letta_requests", {"a": "b"})

    def end(self) -> None:
        self.client.delete("letta_requests")


class NoRight(Refusal):
    says = "Redis forbids the command"

    def begin(self) -> None:
        self.client.execute_command("ACL", "SETUSER", "default", "-zadd")

    def end(self) -> None:
        self.client.execute_command("ACL", "SETUSER", "default", "+zadd")


class Full(Refusal):
    says = "Redis is full"

    def begin(self) -> None:
        self.client.config_set("maxmemory", "1mb")

    def end(self) -> None:
        self.client.config_set("maxmemory", "0")


class Replica(Refusal):
    says = "Redis is a read-only replica"

    def begin(self) -> None:
        self.client.execute_command("REPLICAOF", HOST, free_port())

    def end(self) -> None:
        self.client.execute_command("REPLICAOF", "NO", "ONE")


class DiskTrouble(Refusal):
    says = "Redis cannot save its data"

    def begin(self) -> None:
        shutil.rmtree(self.client.config_get("dir")["dir"])
        self.client.config_set("save", "3600 1")
        self.client.bgsave()
        wait_until(lambda: self.client.info("persistence")["rdb_last_bgsave_status"] == "err")

    def end(self) -> None:
        self.client.config_set("stop-writes-on-bgsave-error", "no")


class PasswordChanged(Refusal):
    says = "Redis refuses the password"

    def begin(self) -> None:
        self.client.config_set("requirepass", "another")
        self.client.execute_command("AUTH", "another")
        self.client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        self.client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")

    def end(self) -> None:
        self.client.config_set("requirepass", "")


REFUSALS = [AnotherType, NoRight, Full, Replica, DiskTrouble, PasswordChanged]


def wait_until(holds: Any) -> Any:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not (found := holds()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


def redis_check(process: Any) -> Any:
    """Whether the service is ready, and what it says of Redis."""
    answer = httpx.get(f"{process.url}/readyz?verbose")
    (check,) = [check for check in answer.json()["checks"] if check["name"] == "redis"]
    return answer.status_code == 200, check["detail"]


def events(process: Any, *names: Any) -> Any:
    lines = [json.loads(line) for line in process.log.read_text(encoding="utf-8").splitlines() if line.startswith("{")]
    return Counter(line["event"] for line in lines if line["event"] in names)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Valkey]:
    server = Valkey(tmp_path / "valkey", durable=False, logs=tmp_path)
    server.start()
    server.wait_ready()
    yield server
    server.kill()


@pytest.mark.parametrize("kind", REFUSALS, ids=lambda kind: kind.__name__)
def test_a_bridge_and_its_operator_know_why_nothing_is_taken(
    kind: Any, server: Any, bridge_factory: BridgeFactory, make_observer: Any
) -> None:
    nobody = f"http://{HOST}:{free_port()}"
    bridge = bridge_factory(
        server.url, nobody, LETTA_ENABLED="false", LETTA_FALLBACK="false", FALLBACK_TIMEOUT_SECONDS="1"
    )
    with redis.Redis(host=HOST, port=server.port) as client:
        refusal = kind(client, server)
        refusal.begin()
        wait_until(lambda: not redis_check(bridge)[0])
        wait_until(lambda: events(bridge, "redis_unavailable")["redis_unavailable"])
        time.sleep(WATCHED_SECONDS)
        told = events(bridge, "redis_unavailable", "redis_available")
        # A password that is refused is met after the connections that were ended.
        assert told in ({"redis_unavailable": 1}, {"redis_unavailable": 2} if kind is PasswordChanged else None)
        ready, why = redis_check(bridge)
        assert (ready, refusal.says in why, "; " in why) == (False, True, True), why
        for command in ("status", "doctor"):
            done = subprocess.run(
                [program("letta-bridge"), command],
                env=environment(
                    REDIS_URL=server.url, LETTA_ENABLED="false", DATABASE_URL=None, BRIDGE_HTTP_PORT=str(bridge.port)
                ),
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            output = done.stdout + done.stderr
            assert done.returncode != 0
            assert refusal.says in output, output
            assert "key of another kind" not in output
        refusal.end()
        wait_until(lambda: redis_check(bridge)[0])
        wait_until(lambda: events(bridge, "redis_available")["redis_available"])
    observer = make_observer(server.url)
    observer.push("ada", "t1", "hi")
    assert observer.wait_for(1)[0]["code"] == "fallback_unavailable"
    assert events(bridge, "redis_available") == {"redis_available": 1}
    observer.client.close()


@pytest.mark.parametrize("kind", [Full, Replica, PasswordChanged, NoRight], ids=lambda kind: kind.__name__)
def test_memory_python_knows_why_nothing_is_taken(kind: Any, server: Any, memory_factory: MemoryFactory) -> None:
    memory = memory_factory(server.url)
    with redis.Redis(host=HOST, port=server.port) as client:
        refusal = kind(client, server)
        refusal.begin()
        wait_until(lambda: not redis_check(memory)[0])
        time.sleep(WATCHED_SECONDS)
        assert refusal.says in redis_check(memory)[1]
        assert events(memory, "redis_unavailable", "redis_available") == {"redis_unavailable": 1}
        refusal.end()
        wait_until(lambda: redis_check(memory)[0])
        client.lpush("user_input_queue", b'{"user_id":"ada","content":"hi"}')
        wait_until(lambda: client.exists("memory:user_sessions:ada"))


def test_a_hand_over_that_is_refused_for_good_is_an_error_reply(
    server: Valkey, bridge_factory: BridgeFactory, make_observer: Any
) -> None:
    nobody = f"http://{HOST}:{free_port()}"
    with redis.Redis(host=HOST, port=server.port) as client:
        client.set("user_input_queue", "somebody else's")
    bridge_factory(server.url, nobody, LETTA_ENABLED="false")
    observer = make_observer(server.url)
    for number in range(3):
        observer.push("ada", f"t{number}", "my secret words")
    replies = observer.wait_for(3)
    assert {reply["code"] for reply in replies} == {"fallback_unavailable"}
    assert all(
        "memory-python cannot be asked: Redis has a value of another type" in reply["message"] for reply in replies
    )
    assert "secret" not in json.dumps(replies)
    observer.client.close()
