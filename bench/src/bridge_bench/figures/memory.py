"""Memory with many slow turns in flight."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

from bridge_bench.contenders import Contender
from bridge_bench.errors import WorkerFailed
from bridge_bench.figure import Bars, Column, Figure
from bridge_bench.harness import Load, Stub
from bridge_bench.replies import ReplyTap
from bridge_bench.runs import Bench, Row, Sample, interleaved
from bridge_bench.usage import MemoryPeak
from local_stack.processes import Process

LEVELS: Final = (10, 1_000, 10_000)
_MEASURED_SECONDS: Final = {10: 2.0, 1_000: 2.0, 10_000: 10.0}
_FULL_SHARE: Final = 0.98
_FILL_TIMEOUT_SECONDS: Final = 45.0
"""Seconds within which as many turns as wanted are in flight, or never."""

FIGURE = Figure(
    "memory",
    "Memory with slow turns in flight",
    "The most resident memory of the worker with its children, while so many turns are at Letta at once. A turn takes "
    "2 s, and 10 s where 10 000 are in flight: nobody here starts them faster, and all of them are to be there at "
    "once. Peers are measured in one round.",
    (
        *(Column(f"mib_{level}", f"{level:,} in flight, MiB") for level in LEVELS),
        Column(f"most_{LEVELS[-1]}", "of 10 000 at Letta"),
    ),
    (Bars("memory", "MiB with 10 000 turns in flight (less is better)", "mib_10000", "{:,.0f}"),),
)


@dataclass(frozen=True)
class _Case:
    contender: Contender
    level: int

    @property
    def name(self) -> str:
        return f"{self.contender.name}, {self.level:,} turns"


def run(bench: Bench) -> list[Row]:
    """A row per subject, a column per level."""
    rows: dict[str, Row] = {}
    for level in LEVELS:
        able = [_Case(contender, level) for contender in bench.options.contenders if contender.tasks_at_once >= level]
        with bench.harness.stub(_MEASURED_SECONDS[level]) as stub:
            measured = interleaved(
                bench,
                FIGURE.name,
                able,
                lambda case, stub=stub: memory(bench, stub, case.contender, case.level),  # type: ignore[misc]
                name=lambda case: case.name,
                rounds=lambda case: 1 if case.contender.kind == "peer" else bench.options.rounds,
            )
        for case, part in zip(able, measured, strict=True):
            row = rows.setdefault(case.contender.name, {"name": case.contender.name, "kind": case.contender.kind})
            row |= {key: value for key, value in part.items() if key not in {"name", "samples"}}
    return list(rows.values())


def memory(bench: Bench, stub: Stub, contender: Contender, level: int) -> Sample:
    """One round of one subject."""
    harness = bench.harness
    harness.settle()
    tasks = level + max(10, level // 5)
    harness.enqueue(contender, tasks, tasks)
    _wait_for_silence(stub)
    load = Load(tasks, 0, tasks, level)
    with (
        harness.tap() as tap,
        harness.worker(contender, stub.url, load) as process,
        MemoryPeak(process.pid or 0) as peak,
    ):
        most = _filled(stub, tap, process, level, tasks)
    return {f"mib_{level}": peak.mib, f"most_{level}": most}


def _wait_for_silence(stub: Stub) -> None:
    """Wait until Letta has finished the turns of the killed worker."""
    while stub.stats()["in_flight"]:
        time.sleep(0.1)
    stub.stats()


def _filled(stub: Stub, tap: ReplyTap, process: Process, level: int, tasks: int) -> int:
    """Wait until the turns are in flight and the first is answered; returns their number."""
    most = 0
    until = time.monotonic() + _FILL_TIMEOUT_SECONDS
    while most < level * _FULL_SHARE and tap.count < tasks and time.monotonic() < until:
        if not process.running:
            raise WorkerFailed(f"the worker ended with {most} turns in flight")
        most = max(most, stub.stats()["most_in_flight"])
        time.sleep(0.1)
    tap.wait(level // 2, lambda: process.running)
    return max(most, stub.stats()["most_in_flight"])
