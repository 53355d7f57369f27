"""The latency that a worker adds to Letta's own, under light load."""

from __future__ import annotations

import statistics
import threading
from typing import Final

from bridge_bench.ceiling import own_time
from bridge_bench.contenders import Contender
from bridge_bench.errors import WorkerFailed
from bridge_bench.figure import Bars, Column, Figure
from bridge_bench.harness import Load, Stub
from bridge_bench.runs import Bench, Row, Sample, interleaved
from bridge_bench.usage import cpu_seconds

TASKS_PER_SECOND: Final = 100.0
LETTA_SECONDS: Final = 0.05
_WARM_UP: Final = 200
_COUNTED_TASKS: Final = 1000
_USER_COUNT: Final = 100
_P99_INDEX: Final = 98
_HOLDS: Final = TASKS_PER_SECOND * LETTA_SECONDS * 2

FIGURE = Figure(
    "latency",
    "Added latency at 100 tasks a second",
    "Reply published minus task pushed minus Letta's own time (50 ms, as a bare connection that is kept sees it). "
    "Tasks come one by one, evenly spaced; 1 000 count, after 200 to warm up. Who works on one task at a time cannot "
    "hold that rate and is left out.",
    (
        Column("p50", "p50 ms", "{:.2f}"),
        Column("p99", "p99 ms", "{:.2f}"),
        Column("cpu", "CPU s / 1 000", "{:.3f}"),
    ),
    (Bars("latency-p99", "Added latency at 100 tasks/s, p99 in ms (less is better)", "p99", "{:.1f}"),),
)


def run(bench: Bench) -> list[Row]:
    """A row per subject that can hold the rate."""
    able = [contender for contender in bench.options.contenders if contender.tasks_at_once > _HOLDS]
    with bench.harness.stub(LETTA_SECONDS) as stub:
        own = own_time(stub)
        rows = interleaved(
            bench,
            FIGURE.name,
            able,
            lambda contender: latency(bench, stub, contender, own),
            name=lambda contender: contender.name,
        )
    kinds = {contender.name: contender.kind for contender in able}
    for row in rows:
        row["kind"] = kinds[row["name"]]
    return sorted(rows, key=lambda row: row.get("p99", float("inf")))


def latency(bench: Bench, stub: Stub, contender: Contender, own: float) -> Sample:
    """One round of one subject; ``own`` is Letta's own time in seconds."""
    harness = bench.harness
    concurrency = min(bench.options.concurrency, contender.tasks_at_once)
    load = Load(_COUNTED_TASKS, _WARM_UP, _USER_COUNT, concurrency)
    harness.settle()
    # One task beforehand tells when the worker is up.
    harness.enqueue(contender, 1, _USER_COUNT, prefix="first")
    with harness.tap() as tap, harness.worker(contender, stub.url, load) as process:
        tap.wait(1, lambda: process.running)
        pushed: dict[str, float] = {}

        def push() -> None:
            pushed.update(harness.enqueue(contender, _WARM_UP + _COUNTED_TASKS, _USER_COUNT, rate=TASKS_PER_SECOND))

        pusher = threading.Thread(target=push)
        pusher.start()
        try:
            tap.wait(1 + _WARM_UP, lambda: process.running)
            before = cpu_seconds(process.pid or 0)
            tap.wait(1 + _WARM_UP + _COUNTED_TASKS, lambda: process.running)
            after = cpu_seconds(process.pid or 0)
        finally:
            pusher.join()  # or it would go on while the next one is measured
    replied = tap.times()
    missing = [task for task in pushed if task not in replied]
    if missing or not pushed:
        raise WorkerFailed(f"{len(missing)} of {len(pushed)} tasks were not answered")
    added = sorted(
        (replied[task] - moment - own) * 1000 for task, moment in list(pushed.items())[_WARM_UP:]
    )  # fmt: skip
    return {
        "p50": statistics.median(added),
        "p99": statistics.quantiles(added, n=100)[_P99_INDEX],
        "cpu": (after - before) * 1000 / _COUNTED_TASKS,
    }
