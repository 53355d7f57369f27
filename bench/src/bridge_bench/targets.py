"""The performance targets of the bridge, and whether it reaches them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from bridge_bench.runs import Row

Figures = Mapping[str, Sequence[Row]]
"""Rows by the figure's name."""

THROUGHPUT_OF_BEST_PEER: Final = 2.0
CPU_OF_BEST_PEER: Final = 0.5
CPU_OF_FLOOR: Final = 2.5
MEMORY_MIB: Final = 400.0
MAX_COST_RATIO: Final = 1.3
MIN_SETUP_SPEEDUP: Final = 9.0
LETTA_CPU_MS: Final = 60.0
DATABASE_CPU_MS: Final = 8.0
STREAMING_P99_MS: Final = 10.0
CPU_OF_RELAY: Final = 1.5
STREAMS: Final = 64
_BASELINE: Final = "redis-py + aiohttp by hand"


@dataclass(frozen=True)
class Target:
    """One promise.

    Attributes:
        name: what is measured.
        goal: what it has to be, in words.
        measured: what it was, in words.
        met: whether that is enough.
    """

    name: str
    goal: str
    measured: str
    met: bool


def targets(figures: Figures) -> list[Target]:
    """All targets that these figures can decide."""
    judges = (_throughput, _cpu, _floor, _latency, _memory, _added, _relay, _flat, _setup, _turn, _database)
    found = [judge(figures) for judge in judges]
    return [target for target in found if target is not None] + _failures(figures)


def _failures(figures: Figures) -> list[Target]:
    """Failed rows, so that a failure does not look like a met target."""
    return [
        Target(f"{figure}: {row['name']}", "an answer to every task", row["failed"], met=False)
        for figure, rows in figures.items()
        for row in rows
        if "failed" in row and row.get("kind", "bridge") == "bridge"
    ]


def _throughput(figures: Figures) -> Target | None:
    bridge, peers = _bridge_and(figures, "throughput", "peer")
    if bridge is None or not peers:
        return None
    best = max(peers, key=lambda row: float(row["tasks_per_second"]))
    ratio = bridge["tasks_per_second"] / best["tasks_per_second"]
    return Target(
        f"throughput against the fastest peer ({best['name']})",
        f"at least {THROUGHPUT_OF_BEST_PEER:g} ×",
        f"{ratio:.2f} ×",
        ratio >= THROUGHPUT_OF_BEST_PEER,
    )


def _cpu(figures: Figures) -> Target | None:
    bridge, peers = _bridge_and(figures, "throughput", "peer")
    if bridge is None or not peers:
        return None
    # Of the fastest peer, as the throughput target; the cheapest may be slow by not working.
    fastest = max(peers, key=lambda row: float(row["tasks_per_second"]))
    return _at_most(
        f"CPU per task against the same peer ({fastest['name']})", bridge["cpu"] / fastest["cpu"], CPU_OF_BEST_PEER
    )


def _floor(figures: Figures) -> Target | None:
    bridge, baselines = _bridge_and(figures, "throughput", "floor")
    floor = next((row for row in baselines if row["name"] == _BASELINE), None)
    if bridge is None or floor is None:
        return None
    return _at_most(f"CPU per task against {_BASELINE}", bridge["cpu"] / floor["cpu"], CPU_OF_FLOOR)


def _latency(figures: Figures) -> Target | None:
    bridge, peers = _bridge_and(figures, "latency", "peer")
    if bridge is None or not peers:
        return None
    best = min(peers, key=lambda row: float(row["p99"]))
    return Target(
        f"added latency p99 at 100 tasks/s against the best peer ({best['name']})",
        f"at most {best['p99']:.1f} ms",
        f"{bridge['p99']:.1f} ms",
        bridge["p99"] <= best["p99"],
    )


def _memory(figures: Figures) -> Target | None:
    bridge, _ = _bridge_and(figures, "memory", "peer", needs="mib_10000")
    if bridge is None:
        return None
    mib = bridge["mib_10000"]
    return Target("memory with 10 000 turns in flight", f"under {MEMORY_MIB:g} MiB", f"{mib:.0f} MiB", mib < MEMORY_MIB)


def _added(figures: Figures) -> Target | None:
    bridge, _ = _bridge_and(_of_streams(figures), "streaming", "floor")
    if bridge is None:
        return None
    p99 = bridge["p99"]
    name = f"added time of a streamed sentence p99 with {STREAMS} streams"
    return Target(name, f"under {STREAMING_P99_MS:g} ms", f"{p99:.1f} ms", p99 < STREAMING_P99_MS)


def _relay(figures: Figures) -> Target | None:
    bridge, relays = _bridge_and(_of_streams(figures), "streaming", "floor")
    if bridge is None or not relays:
        return None
    ratio = bridge["cpu_turn"] / relays[0]["cpu_turn"]
    return _at_most(f"CPU of a streamed turn with {STREAMS} streams against a relay by hand", ratio, CPU_OF_RELAY)


def _of_streams(figures: Figures) -> Figures:
    """The rows of streamed replies at the number of streams that the targets speak of."""
    return {"streaming": [row for row in figures.get("streaming", ()) if row.get("streams") == STREAMS]}


def _flat(figures: Figures) -> Target | None:
    rows = [row for row in figures.get("backlog", ()) if "cpu" in row and row["series"] == "backlog"]
    if len(rows) < 2:  # noqa: PLR2004 - a ratio needs two
        return None
    first, last = min(rows, key=_backlog), max(rows, key=_backlog)
    ratio = (last["cpu"] + last["redis_cpu"]) / (first["cpu"] + first["redis_cpu"])
    return _at_most(
        f"cost of a task with {last['backlog']:,} waiting against {first['backlog']:,}", ratio, MAX_COST_RATIO
    )


def _setup(figures: Figures) -> Target | None:
    ours, defaults = _bridge_and(figures, "setup", "peer")
    if ours is None or not defaults:
        return None
    ratio = ours["turns_per_second"] / defaults[0]["turns_per_second"]
    return Target(
        "turns of Letta as letta-server runs it against its defaults",
        f"at least {MIN_SETUP_SPEEDUP:g} ×",
        f"{ratio:.2f} ×",
        ratio >= MIN_SETUP_SPEEDUP,
    )


def _turn(figures: Figures) -> Target | None:
    return _of_turn(figures, "cpu_ms", "Letta's CPU", LETTA_CPU_MS)


def _database(figures: Figures) -> Target | None:
    return _of_turn(figures, "database_cpu_ms", "PostgreSQL's CPU", DATABASE_CPU_MS)


def _of_turn(figures: Figures, key: str, whose: str, most: float) -> Target | None:
    """With the shortest history, plain: the figure's first row."""
    row = next((row for row in figures.get("turn", ()) if key in row), None)
    if row is None:
        return None
    name = f"{whose} for a turn of Letta ({row['name']})"
    return Target(name, f"at most {most:g} ms", f"{row[key]:.1f} ms", row[key] <= most)


def _backlog(row: Row) -> int:
    return int(row["backlog"])


def _at_most(name: str, ratio: float, most: float) -> Target:
    return Target(name, f"at most {most:g} ×", f"{ratio:.2f} ×", ratio <= most)


def _bridge_and(figures: Figures, name: str, kind: str, *, needs: str = "") -> tuple[Row | None, list[Row]]:
    """The bridge's row and the rows of a kind, without failed ones."""
    rows = [row for row in figures.get(name, ()) if "failed" not in row and (not needs or needs in row)]
    bridge = next((row for row in rows if row["kind"] == "bridge"), None)
    return bridge, [row for row in rows if row["kind"] == kind]
