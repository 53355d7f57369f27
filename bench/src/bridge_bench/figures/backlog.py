"""The cost of a task with many waiting tasks, and with many waiting users."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

from bridge_bench.contenders import BRIDGE
from bridge_bench.figure import Column, Figure
from bridge_bench.harness import Load, Stub
from bridge_bench.runs import Bench, Row, Sample, interleaved
from bridge_bench.usage import cpu_seconds

_BACKLOG_SIZES: Final = (1_000, 10_000, 100_000)
_USER_COUNTS: Final = (10, 100, 1_000, 10_000)
_WARM_UP: Final = 200
_POLL_SECONDS: Final = 0.02

FIGURE = Figure(
    "backlog",
    "A long queue, and many users",
    "What the next tasks cost while so many wait. Where users are few, each of the tasks counted is of a user the "
    "bridge has served just before; where they are many, it has to read each one's session from its file first. "
    "A pass sorts up to 512 waiting tasks into their users' lanes, however few it takes, so that nobody stands behind "
    "another one's thousands. That is done once for each task, and over when the counting begins; what it costs is the "
    "column sorting.",
    (
        Column("cpu", "CPU s / 1 000", "{:.3f}"),
        Column("redis_cpu", "Redis CPU s / 1 000", "{:.3f}"),
        Column("sorting", "sorting, Redis CPU s / 1 000", "{:.3f}"),
        Column("tasks_per_second", "tasks/s"),
    ),
    first="backlog, users",
)


@dataclass(frozen=True)
class _Case:
    series: str
    backlog: int
    users: int

    @property
    def name(self) -> str:
        return f"{self.backlog:,} tasks, {self.users:,} users"


def run(bench: Bench) -> list[Row]:
    """A row per size."""
    large = bench.options.large
    cases = [_Case("backlog", backlog, 100) for backlog in (*_BACKLOG_SIZES, *((1_000_000,) if large else ()))]
    cases += [_Case("users", 20_000, users) for users in _USER_COUNTS]
    cases += [_Case("users", 200_000, 100_000)] if large else []
    with bench.harness.stub() as stub:
        rows = interleaved(
            bench, FIGURE.name, cases, lambda case: backlog(bench, stub, case), name=lambda case: case.name
        )
    for row, case in zip(rows, cases, strict=True):
        row |= {"series": case.series, "backlog": case.backlog, "users": case.users}
    return rows


def backlog(bench: Bench, stub: Stub, case: _Case) -> Sample:
    """One round of one size; it measures only the beginning of the queue."""
    harness = bench.harness
    tasks = min(bench.options.tasks, (case.backlog - _WARM_UP) // 2)
    load = Load(tasks, _WARM_UP, case.users, bench.options.concurrency)
    harness.settle()
    harness.enqueue(BRIDGE, case.backlog, case.users)
    with harness.tap() as tap, harness.worker(BRIDGE, stub.url, load) as process:
        pids = (process.pid or 0, harness.valkey.pid or 0)
        unsorted = cpu_seconds(pids[1])
        tap.wait(_WARM_UP, lambda: process.running)
        while harness.waiting():
            time.sleep(_POLL_SECONDS)
        before, first = [cpu_seconds(pid) for pid in pids], tap.count
        tap.wait(first + tasks, lambda: process.running)
        after, counted = [cpu_seconds(pid) for pid in pids], tap.count - first
    moments = sorted(tap.times().values())[first : first + tasks]
    redis_cpu = (after[1] - before[1]) / counted
    return {
        "cpu": (after[0] - before[0]) * 1000 / counted,
        "redis_cpu": redis_cpu * 1000,
        "sorting": max(0.0, before[1] - unsorted - redis_cpu * first) * 1000 / case.backlog,
        "tasks_per_second": (len(moments) - 1) / (moments[-1] - moments[0]),
    }
