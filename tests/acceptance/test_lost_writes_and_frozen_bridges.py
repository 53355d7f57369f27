"""Redis forgets what it acknowledged, or a bridge is frozen: real processes, a double of Letta that keeps histories."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, cast

import pytest
import redis
from redis.sentinel import Sentinel as SentinelClient

from local_stack.fixtures import BridgeFactory, DoubleFactory
from local_stack.ports import HOST
from local_stack.valkey import Sentinel, Valkey

pytestmark = pytest.mark.acceptance

Q = "{letta_requests}"
PATIENCE = 60.0


@pytest.fixture
def start() -> Iterator[Callable[..., Any]]:
    """``start(process)``: running and ready, killed with the test."""
    with ExitStack() as held:

        def run(process: Any) -> Any:
            held.callback(process.kill)
            process.start()
            process.wait_ready()
            return process

        yield run


@pytest.fixture
def letta(letta_double: DoubleFactory, tmp_path: Path) -> Callable[..., Any]:
    """``letta(latency)``: a double whose turns take so many seconds."""
    return lambda latency: letta_double(tmp_path / "letta.db", latency=latency)


@pytest.fixture
def said(tmp_path: Path) -> Callable[..., Any]:
    """Every user message in any agent's history."""

    def read() -> list[Any]:
        with sqlite3.connect(tmp_path / "letta.db") as store:
            rows = store.execute("SELECT content FROM messages WHERE kind = 'user_message' ORDER BY number")
            return [json.loads(content) for (content,) in rows]

    return read


def push(client: Any, user: str, *task_ids: Any) -> None:
    for task_id in task_ids:
        client.lpush("letta_requests", json.dumps({"task_id": task_id, "user_id": user, "content": f"say {task_id}"}))


def wait_until(holds: Any) -> None:
    """Until it holds; Redis may be away meanwhile."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        with suppress(redis.RedisError):
            if holds():
                return
        time.sleep(0.02)
    raise AssertionError(f"not within {PATIENCE:g} s")


def replies(client: Any) -> list[Any]:
    return [json.loads(fields[b"reply"])["task_id"] for _, fields in client.xrange(f"{Q}:replies")]


def counters(client: Any) -> dict[Any, int]:
    return {name.decode(): int(count) for name, count in client.hgetall(f"{Q}:counters").items()}


def adds_up(client: Any) -> Any:
    counts = counters(client)
    settled = sum(count for name, count in counts.items() if name.startswith("settled:"))
    waiting = sum(client.llen(key) for key in client.scan_iter(f"{Q}:lane:*"))
    return counts["taken"] == settled + waiting + client.hlen(f"{Q}:turns")


def log_of(process: Any) -> Any:
    return process.log.read_text("utf-8")


def holders(client: Any) -> Any:
    """Process id of a bridge → users of the turns it holds."""
    found: dict[int, list[str]] = {}
    for record in client.hgetall(f"{Q}:turns").values():
        taker, lane, _ = record.split(b"\n", 2)
        found.setdefault(int(taker.split(b"-")[-2]), []).append(lane.decode())
    return found


def test_no_task_is_lost_in_a_failover_to_a_replica_that_lagged(
    start: Callable[..., Any],
    letta: Callable[..., Any],
    said: Callable[..., Any],
    bridge_factory: BridgeFactory,
    tmp_path: Path,
) -> None:
    """What was taken before, and lost by Redis, is answered; what is pushed after it is, too: each once."""
    primary = start(Valkey(tmp_path / "primary", options={"repl-diskless-sync-delay": "0"}))
    replica = Valkey(tmp_path / "replica", options={"replicaof": f"{HOST} {primary.port}"}, name="replica")
    start(replica)
    sentinel = start(Sentinel(tmp_path / "sentinel", primary))
    double = letta(4.0)
    bridges = [bridge_factory(sentinel.url, double.url, LETTA_FALLBACK="false") for _ in range(2)]
    watcher: Any = cast("Any", SentinelClient)([(HOST, sentinel.port)], socket_timeout=2)
    client = watcher.master_for("bridge", socket_timeout=3)
    push(client, "warm", "warm")
    wait_until(lambda: replies(client) == ["warm"])

    with redis.Redis(port=primary.port) as old, redis.Redis(port=replica.port) as behind:
        wait_until(lambda: behind.info("replication")["master_link_status"] == "up" and old.wait(1, 1000) == 1)
        old.execute_command("ACL", "SETUSER", "default", "-psync", "-sync", "-replconf")
        old.execute_command("CLIENT", "KILL", "TYPE", "replica")
        wait_until(lambda: behind.info("replication")["master_link_status"] == "down")
    before = [f"before{number}" for number in range(4)]
    for task_id in before:
        push(client, task_id, task_id)
    wait_until(lambda: client.hlen(f"{Q}:turns") == len(before))
    primary.kill()
    wait_until(lambda: watcher.discover_master("bridge")[1] == replica.port and client.ping())
    assert not client.hlen(f"{Q}:turns") or "before0" not in str(client.hgetall(f"{Q}:turns"))

    after = [f"after{number}" for number in range(4)]
    for task_id in after:

        def pushed(task_id: str = task_id) -> bool:
            push(client, task_id, task_id)
            return True

        wait_until(pushed)
    wait_until(lambda: set(replies(client)) >= {*before, *after})
    wait_until(lambda: not client.hlen(f"{Q}:turns"))
    assert sorted(replies(client)) == sorted(["warm", *before, *after])
    assert sorted(said()) == sorted(f"say {task_id}" for task_id in ("warm", *before, *after))
    assert counters(client)["restored"] == len(before)
    assert adds_up(client)
    assert any("redis_lost_writes" in log_of(bridge) for bridge in bridges)
    assert all("settlement_refused" not in log_of(bridge) for bridge in bridges)


def test_a_bridge_does_not_answer_for_a_task_of_a_redis_that_was_restored_from_a_snapshot(
    start: Callable[..., Any],
    letta: Callable[..., Any],
    said: Callable[..., Any],
    bridge_factory: BridgeFactory,
    tmp_path: Path,
) -> None:
    """Counters have run backwards: a task that came afterwards is at the place of one that is still in work."""
    server = start(Valkey(tmp_path / "valkey", durable=False))
    double = letta(3.0)
    bridge_factory(server.url, double.url, LETTA_FALLBACK="false")
    with redis.Redis(port=server.port) as client:
        push(client, "warm", "warm")
        wait_until(lambda: replies(client) == ["warm"])
        client.save()
        place = counters(client)["taken"]
        push(client, "alice", "alice")
        wait_until(lambda: client.hlen(f"{Q}:turns") == 1)
        server.kill()
        server.start()
        server.wait_ready()
        assert counters(client)["taken"] == place
        push(client, "bob", "bob")
        wait_until(lambda: set(replies(client)) == {"warm", "alice", "bob"})
        wait_until(lambda: not client.hlen(f"{Q}:turns"))
        assert sorted(replies(client)) == ["alice", "bob", "warm"]
        assert sorted(said()) == ["say alice", "say bob", "say warm"]
        assert adds_up(client)


def test_an_idle_bridge_that_was_frozen_sends_nothing_that_another_took_over(
    start: Callable[..., Any],
    letta: Callable[..., Any],
    said: Callable[..., Any],
    bridge_factory: BridgeFactory,
    redis_url: str,
) -> None:
    """Redis handed it a task while it was stopped; it reads of it only after the lease is over."""
    double = letta(0.1)
    bridges = [bridge_factory(redis_url, double.url, LEASE_SECONDS="2", LETTA_FALLBACK="false") for _ in range(2)]
    frozen = bridges[0]
    with redis.Redis.from_url(redis_url) as client:
        push(client, "warm", "warm")
        wait_until(lambda: replies(client) == ["warm"])
        pushed, mine = ["warm"], []

        def all_answered() -> bool:
            return sorted(replies(client)) == sorted(pushed)

        for number in range(20):
            frozen.pause()
            batch = [f"t{number}-{place}" for place in range(2)]
            for task_id in batch:
                push(client, task_id, task_id)
            pushed.extend(batch)
            wait_until(lambda: not client.llen("letta_requests"))
            mine = holders(client).get(frozen.pid, [])
            # The other bridge answers all of them: its own, and those whose lease is over.
            wait_until(all_answered)
            frozen.resume()
            if mine:
                break
        assert mine, "the frozen bridge was handed nothing in 20 tries"
        wait_until(lambda: "turns_received_late" in log_of(frozen))
        push(client, "last", *(f"last{number}" for number in range(5)))
        pushed.extend(f"last{number}" for number in range(5))
        wait_until(all_answered)
        wait_until(lambda: not client.hlen(f"{Q}:turns"))
        assert sorted(replies(client)) == sorted(pushed)
        assert sorted(said()) == sorted(f"say {task_id}" for task_id in pushed)
