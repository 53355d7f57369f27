"""Tasks per second and their cost, with a Letta that answers at once."""

from __future__ import annotations

from bridge_bench.contenders import Contender
from bridge_bench.errors import WorkerFailed
from bridge_bench.figure import Bars, Column, Figure
from bridge_bench.harness import Harness, Stub
from bridge_bench.runs import Bench, Row, Sample, interleaved
from bridge_bench.usage import cpu_seconds

FIGURE = Figure(
    "throughput",
    "Throughput and CPU",
    "The tasks wait in Redis, Letta answers at once, 64 in flight, one worker process. Counted from the reply to every "
    "user's first task on, so that starting is not in it; the users' agents are known. CPU is user and system time of "
    "the worker with all its children; Redis's share stands beside it.",
    (
        Column("tasks_per_second", "tasks/s", "{:,.0f}"),
        Column("relative", "of the bridge's", "{:.2f} ×"),
        Column("cpu", "CPU s / 1 000", "{:.3f}"),
        Column("redis_cpu", "Redis CPU s / 1 000", "{:.3f}"),
        Column("order", "keeps order", "{}"),
        Column("survives", "survives a kill", "{}"),
    ),
    (
        Bars("throughput", "Tasks a second (more is better)", "tasks_per_second", "{:,.0f}"),
        Bars("cpu", "CPU seconds per 1 000 tasks (less is better)", "cpu", "{:.2f}"),
    ),
)


def run(bench: Bench) -> list[Row]:
    """A row per subject."""
    with bench.harness.stub() as stub:
        rows = interleaved(
            bench,
            FIGURE.name,
            bench.options.contenders,
            lambda contender: throughput(bench, stub, contender),
            name=lambda contender: contender.name,
        )
    return described(bench, rows)


def throughput(bench: Bench, stub: Stub, contender: Contender, *, workers: int = 1) -> Sample:
    """One round of one subject.

    Raises:
        WorkerFailed: it did not answer everything, or answered without asking Letta.
    """
    harness, load = bench.harness, bench.load(contender)
    harness.settle()
    total = load.warm_up + load.tasks
    harness.enqueue(contender, total, load.users)
    turns = stub.stats()["turns"]
    with harness.tap() as tap, harness.workers(contender, stub.url, load, workers) as processes:
        pids = [process.pid or 0 for process in processes]

        def alive() -> bool:
            return all(process.running for process in processes)

        tap.wait(load.warm_up, alive)
        before = _used(harness, pids)
        tap.wait(total, alive)
        after = _used(harness, pids)
    moments = sorted(tap.times().values())
    turns = stub.stats()["turns"] - turns
    if len(moments) < total or turns < total:
        raise WorkerFailed(f"of {total} tasks {len(moments)} were answered and {turns} sent to Letta")
    seconds = moments[-1] - moments[load.warm_up - 1]
    per_thousand = 1000 / load.tasks
    return {
        "tasks_per_second": load.tasks / seconds,
        "cpu": (after[0] - before[0]) * per_thousand,
        "redis_cpu": (after[1] - before[1]) * per_thousand,
    }


def described(bench: Bench, rows: list[Row]) -> list[Row]:
    """The rows with each subject's properties and its ratio to the bridge."""
    known = {contender.name: contender for contender in bench.options.contenders}
    base = next((row.get("tasks_per_second") for row in rows if known[row["name"]].kind == "bridge"), None)
    for row in rows:
        contender = known[row["name"]]
        row["kind"] = contender.kind
        row["order"] = "yes" if contender.order else "no"
        row["survives"] = contender.survives
        if base and "tasks_per_second" in row:
            row["relative"] = row["tasks_per_second"] / base
    return sorted(rows, key=lambda row: -row.get("tasks_per_second", 0))


def _used(harness: Harness, pids: list[int]) -> tuple[float, float]:
    return sum(map(cpu_seconds, pids)), cpu_seconds(harness.valkey.pid or 0)
