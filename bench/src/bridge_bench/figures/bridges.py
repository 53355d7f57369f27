"""Several bridges on one queue."""

from __future__ import annotations

from typing import Final

from bridge_bench.contenders import BRIDGE
from bridge_bench.figure import Column, Figure
from bridge_bench.figures.throughput import throughput
from bridge_bench.runs import Bench, Row, interleaved

COUNTS: Final = (1, 2, 4)

FIGURE = Figure(
    "bridges",
    "One, two and four bridges",
    "The throughput run with several bridges on one queue. They share the machine's cores with Redis and the stub, so "
    "what counts here is the CPU of a task, which must not grow with the number of bridges.",
    (
        Column("tasks_per_second", "tasks/s"),
        Column("cpu", "CPU s / 1 000", "{:.3f}"),
        Column("redis_cpu", "Redis CPU s / 1 000", "{:.3f}"),
    ),
    first="bridges",
)


def run(bench: Bench) -> list[Row]:
    """A row per number of bridges."""
    with bench.harness.stub() as stub:
        return interleaved(
            bench, FIGURE.name, COUNTS, lambda count: throughput(bench, stub, BRIDGE, workers=count)
        )  # fmt: skip
