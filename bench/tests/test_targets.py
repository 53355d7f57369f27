from __future__ import annotations

from typing import Any

import pytest

from bridge_bench.targets import targets

FLOOR = "redis-py + aiohttp by hand"


@pytest.fixture
def figures() -> dict[str, Any]:
    """A run in which every target is met, each by a hair."""
    return {
        "throughput": [
            {"name": "bridge", "kind": "bridge", "tasks_per_second": 2000.0, "cpu": 0.25},
            {"name": "fast", "kind": "peer", "tasks_per_second": 1000.0, "cpu": 0.5},
            {"name": "slow", "kind": "peer", "tasks_per_second": 10.0, "cpu": 0.1},
            {"name": "broken", "kind": "peer", "failed": "the worker ended"},
            {"name": FLOOR, "kind": "floor", "tasks_per_second": 5000.0, "cpu": 0.1},
            {"name": "raw sockets", "kind": "floor", "tasks_per_second": 9000.0, "cpu": 0.01},
        ],
        "latency": [
            {"name": "bridge", "kind": "bridge", "p99": 3.0},
            {"name": "fast", "kind": "peer", "p99": 3.0},
            {"name": FLOOR, "kind": "floor", "p99": 1.0},
        ],
        "memory": [{"name": "bridge", "kind": "bridge", "mib_10000": 399.0}],
        "streaming": [
            {"name": "bridge, one", "kind": "bridge", "streams": 1, "p99": 99.0, "cpu_turn": 99.0},
            {"name": "bridge, 64", "kind": "bridge", "streams": 64, "p99": 9.9, "cpu_turn": 3.0},
            {"name": "relay, 64", "kind": "floor", "streams": 64, "p99": 1.0, "cpu_turn": 2.0},
        ],
        "backlog": [
            {"name": "a", "series": "backlog", "backlog": 1000, "cpu": 0.3, "redis_cpu": 0.1},
            {"name": "b", "series": "backlog", "backlog": 100_000, "cpu": 0.3, "redis_cpu": 0.22},
            {"name": "c", "series": "users", "backlog": 200_000, "cpu": 9.0, "redis_cpu": 9.0},
        ],
        "setup": [
            {"name": "letta-server run", "kind": "bridge", "turns_per_second": 9.0},
            {"name": "letta server", "kind": "peer", "turns_per_second": 1.0},
        ],
        "turn": [
            {"name": "5 turns, plain", "cpu_ms": 60.0, "database_cpu_ms": 8.0},
            {"name": "500 turns, plain", "cpu_ms": 600.0, "database_cpu_ms": 80.0},
        ],
    }


def test_targets_are_met_where_every_figure_is_good_enough(figures: dict[str, Any]) -> None:
    judged = targets(figures)
    assert [target.met for target in judged] == [True] * 11
    assert judged[0].name == "throughput against the fastest peer (fast)"
    assert judged[0].measured == "2.00 ×"


@pytest.mark.parametrize(
    ("figure", "row", "key", "value", "missed"),
    [
        ("throughput", 0, "tasks_per_second", 1999.0, "throughput against the fastest peer (fast)"),
        ("throughput", 0, "cpu", 0.251, "CPU per task against"),
        ("throughput", 4, "cpu", 0.099, f"CPU per task against {FLOOR}"),
        ("latency", 0, "p99", 3.01, "added latency p99 at 100 tasks/s against the best peer (fast)"),
        ("memory", 0, "mib_10000", 400.0, "memory with 10 000 turns in flight"),
        ("streaming", 1, "p99", 10.0, "added time of a streamed sentence p99 with 64 streams"),
        ("streaming", 1, "cpu_turn", 3.1, "CPU of a streamed turn with 64 streams against a relay by hand"),
        ("setup", 0, "turns_per_second", 8.99, "turns of Letta as letta-server runs it"),
        ("turn", 0, "cpu_ms", 60.1, "Letta's CPU for a turn of Letta (5 turns, plain)"),
        ("turn", 0, "database_cpu_ms", 8.1, "PostgreSQL's CPU for a turn of Letta"),
        ("backlog", 1, "cpu", 0.31, "cost of a task with 100,000 waiting against 1,000"),
    ],
)
def test_each_is_missed_by_a_hair(
    figures: dict[str, Any], figure: str, row: int, key: str, value: float, missed: str
) -> None:
    figures[figure][row][key] = value
    names = [target.name for target in targets(figures) if not target.met]
    assert any(name.startswith(missed) for name in names)


def test_targets_skip_figures_that_were_not_measured(figures: dict[str, Any]) -> None:
    del figures["streaming"]
    del figures["latency"], figures["backlog"], figures["memory"], figures["setup"], figures["turn"]
    figures["throughput"] = [row for row in figures["throughput"] if row["kind"] != "peer"]
    assert [target.name for target in targets(figures)] == [f"CPU per task against {FLOOR}"]


def test_a_bridge_that_failed_misses(figures: dict[str, Any]) -> None:
    figures["memory"][0] = {"name": "bridge", "kind": "bridge", "failed": "the worker ended"}
    missed = [target for target in targets(figures) if not target.met]
    assert [(target.name, target.measured) for target in missed] == [("memory: bridge", "the worker ended")]
