"""Several states at once, each of one bridge or one queue: a real Prometheus sees all begin, and all end.

Every limit of a rule is the shipped one. Prometheus looks back six seconds where a rule looks back minutes, and what
takes minutes to grow old is told an earlier time in Redis.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from local_stack.fixtures import BridgeFactory, DoubleFactory
from local_stack.prometheus import Prometheus
from local_stack.valkey import Valkey

pytestmark = [pytest.mark.acceptance, pytest.mark.xdist_group("alerts")]

Q = "{letta_requests}"
_TEN_MINUTES_MS = 600_000
_BIG_TURNS = 80
_SLOW_TURNS = 10  # more than one in twenty of all
_BACKLOG_TASKS = 1000  # the most that TasksNotTaken allows
_BACKLOG_USERS = 10  # one task each, pushed again and again: answering a thousand is most of what the test would take


@pytest.fixture
def forgetful_redis(tmp_path: Path) -> Iterator[Valkey]:
    """It writes nothing to its disk: a restart loses everything."""
    server = Valkey(tmp_path / "forgetful", durable=False)
    server.start()
    server.wait_ready()
    yield server
    server.kill()


def push(client: Any, user: str, *task_ids: Any, content: str = "hi") -> None:
    for task_id in task_ids:
        client.lpush("letta_requests", json.dumps({"task_id": task_id, "user_id": user, "content": content}))


def counted(client: Any, name: str) -> int:
    return int(client.hget(f"{Q}:counters", name) or 0)


def grow_old(client: Any, lane: Any) -> None:
    """All that waits in a lane, and every task not settled, came ten minutes earlier."""
    for place, entry in enumerate(client.lrange(f"{Q}:lane:{lane}", 0, -1)):
        head, _, payload = entry.partition(b"\n")
        seq, attempts, first_ms = head.split(b" ")
        aged = b"%b %b %d\n%b" % (seq, attempts, int(first_ms) - _TEN_MINUTES_MS, payload)
        client.lset(f"{Q}:lane:{lane}", place, aged)
    for tenth, tasks in client.hgetall(f"{Q}:open").items():
        client.hdel(f"{Q}:open", tenth)
        client.hincrby(f"{Q}:open", str(int(tenth) - _TEN_MINUTES_MS // 100), int(tasks))


def lose_everything(server: Any) -> None:
    server.kill()
    server.start()
    server.wait_ready()


@pytest.fixture
def fires_of(quick_prometheus: Prometheus) -> Callable[..., Any]:
    """``fires_of(bridge)``: names of the alerts that fire of this bridge."""

    def names(bridge: Any) -> set[Any]:
        instance = bridge.url.removeprefix("http://")
        alerts = quick_prometheus.api("alerts")["alerts"]
        return {
            alert["labels"]["alertname"].removeprefix("LettaBridge")
            for alert in alerts
            if alert["state"] == "firing" and alert["labels"].get("instance") == instance
        }

    return names


def test_six_states_are_seen_side_by_side_and_are_over_when_mended(
    redis_url: str,
    forgetful_redis: Valkey,
    letta_double: DoubleFactory,
    bridge_factory: BridgeFactory,
    quick_prometheus: Prometheus,
    fires_of: Callable[..., Any],
    eventually: Callable[..., Any],
) -> None:
    letta = letta_double()
    losing = bridge_factory(forgetful_redis.url, letta.url, ready=False, LEASE_SECONDS="3", data="losing")
    working = bridge_factory(redis_url, letta.url, TENANT_SHARDS=None, LETTA_BRIDGE_QUEUE_MAX_PAYLOAD_BYTES="2000000")
    claims = f"{letta.url}/v1/blocks/?label=letta-bridge"
    eventually(lambda: httpx.get(claims).json(), "the tenant is claimed")
    unready = bridge_factory(
        redis_url, letta.url, ready=False, data="unready", TENANT_SHARDS=None, LETTA_REQUESTS="other_requests"
    )
    letta.fail("hold")
    losing.wait_ready()
    with redis.Redis.from_url(redis_url) as client, redis.Redis.from_url(forgetful_redis.url) as forgetful:
        # A first loss, which Prometheus does not see: what Redis counts is 1 after it, and 1 again after the second.
        push(forgetful, "bob", "t1")
        eventually(lambda: forgetful.hlen(f"{Q}:turns") == 1, "the turn is in hand")
        lose_everything(forgetful_redis)
        eventually(lambda: counted(forgetful, "restored") == 1, "the turn is put back")
        quick_prometheus.discover(bridge.url for bridge in (losing, working, unready))
        push(client, "ada", *(f"t{number}" for number in range(1 + _SLOW_TURNS)))
        for number in range(_BIG_TURNS):
            push(client, f"big-{number}", "t1", content="中" + "x" * 900_000)
        eventually(lambda: client.llen(f"{Q}:lane:ada") == _SLOW_TURNS, "turns wait behind another one")
        grow_old(client, "ada")
        eventually(lambda: quick_prometheus.value("count(up == 1)") == 3, "all bridges are scraped")
        eventually(lambda: not quick_prometheus.firing() & {"None", "Down", "RedisLostWrites"}, "bridges are up")
        lose_everything(forgetful_redis)

        def fires_while_the_loop_stalls() -> Any:
            losing.pause()
            time.sleep(0.6)
            losing.resume()
            return (
                fires_of(losing) >= {"LoopLag", "RedisLostWrites"}
                and fires_of(working) >= {"Memory"}
                and fires_of(unready) >= {"NotReady"}
                and "TasksWaitLong" in quick_prometheus.firing()
            )

        eventually(fires_while_the_loop_stalls, "five alerts fire")
        assert counted(forgetful, "restored") == 1
        letta.heal()
        eventually(lambda: "SlowTurns" in quick_prometheus.firing(), "the sixth fires")
        eventually(lambda: not client.hlen(f"{Q}:turns"), "all turns are answered")
        assert unready.environment is not None
        assert working.environment is not None
        unready.environment["TENANT"] = "other"
        working.environment["MAX_CONCURRENT_REQUESTS"] = "8"
        for bridge in (unready, working):
            bridge.kill()
            bridge.start()
        for query, value in {"count(up == 1)": 3, 'min(letta_bridge_check_ok{required="true"})': 1}.items():
            eventually(lambda query=query, value=value: quick_prometheus.value(query) == value, f"{query} is {value}")
        eventually(lambda: not quick_prometheus.api("alerts")["alerts"], "no alert fires, or is about to")
    assert not quick_prometheus.broken_rules()


def test_a_backlog_behind_a_pause_and_a_stopped_bridge_are_seen_and_are_over_when_mended(
    redis_url: str,
    letta_double: DoubleFactory,
    bridge_factory: BridgeFactory,
    command_of: Callable[..., Any],
    quick_prometheus: Prometheus,
    fires_of: Callable[..., Any],
    eventually: Callable[..., Any],
) -> None:
    letta = letta_double()
    stays, stops = (bridge_factory(redis_url, letta.url) for _ in "ab")
    letta_bridge = command_of(stays)
    assert letta_bridge("pause")[0] == 0
    quick_prometheus.discover([stays.url, stops.url])
    depth = "min(letta_bridge_queue_depth)"
    with redis.Redis.from_url(redis_url) as client:
        for number in range(_BACKLOG_TASKS):
            push(client, f"user-{number % _BACKLOG_USERS}", "t1")
        eventually(lambda: quick_prometheus.value(depth) == _BACKLOG_TASKS, "the backlog is scraped")
        stops.stop()
        eventually(lambda: "Down" in fires_of(stops), "a stopped bridge is down")
        assert not quick_prometheus.firing() & {"None", "TasksNotTaken"}
        push(client, "ada", "one-more")
        eventually(lambda: "TasksNotTaken" in quick_prometheus.firing(), "the backlog is an alert")
        stops.start()
        eventually(lambda: "Down" not in fires_of(stops), "a bridge that was started again is not down")
        assert fires_of(stops) == fires_of(stays) == set()
        assert "TasksNotTaken" in quick_prometheus.firing()
        assert letta_bridge("resume")[0] == 0
        answered = _BACKLOG_USERS + 1, _BACKLOG_TASKS - _BACKLOG_USERS
        eventually(
            lambda: (counted(client, "settled:letta"), counted(client, "settled:repeated")) == answered,
            "all tasks are answered",
        )
        eventually(lambda: not quick_prometheus.firing() & {"TasksNotTaken", "Paused"}, "the alerts are over")
    assert not quick_prometheus.broken_rules()
