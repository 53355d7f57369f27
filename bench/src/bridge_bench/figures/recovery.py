"""The recovery of turns in flight after a worker was killed, and its duration."""

from __future__ import annotations

import time
from typing import Final

from bridge_bench.contenders import Contender
from bridge_bench.errors import WorkerFailed
from bridge_bench.figure import Column, Figure
from bridge_bench.harness import Load, Stub
from bridge_bench.replies import ReplyTap
from bridge_bench.runs import Bench, Row, Sample, interleaved

LETTA_SECONDS: Final = 2.0
_KILLED: Final = "killed"
_FRESH: Final = "fresh"

FIGURE = Figure(
    "recovery",
    "After SIGKILL",
    "64 turns of 2 s are in flight when the worker is killed; another one is started at once and gets 64 more tasks of "
    "other users. Seconds from the kill to the first reply to a task of the killed worker, how many of them had no "
    "reply when the waiting ended, and how many turns Letta got twice: each would be in the agent's memory twice. "
    "Peers are measured in one round.",
    (
        Column("first", "first redelivered reply, s", "{:.1f}"),
        Column("lost", "of 64 without a reply"),
        Column("twice", "sent to Letta twice"),
        Column("waited", "waited at most, s"),
    ),
)


def run(bench: Bench) -> list[Row]:
    """A row per peer and for the bridge; the baselines guarantee nothing."""
    contenders = [contender for contender in bench.options.contenders if contender.kind != "floor"]
    with bench.harness.stub(LETTA_SECONDS, remember=True) as stub:
        return interleaved(
            bench,
            FIGURE.name,
            contenders,
            lambda contender: recovery(bench, stub, contender),
            name=lambda contender: contender.name,
            rounds=lambda contender: 1 if contender.kind == "peer" else bench.options.rounds,
        )


def recovery(bench: Bench, stub: Stub, contender: Contender) -> Sample:
    """One kill."""
    harness, options = bench.harness, bench.options
    tasks = min(options.concurrency, contender.tasks_at_once)
    load = Load(tasks, 0, 2 * tasks, tasks)
    harness.settle()
    turns = stub.stats()["turns"]
    harness.enqueue(contender, tasks, load.users, prefix=_KILLED)
    with harness.tap() as tap:
        with harness.worker(contender, stub.url, load) as process:
            _wait_for_turns(stub, turns + tasks, options.patience)
            process.kill()
            killed_at = time.monotonic()
        with harness.worker(contender, stub.url, load) as process:
            harness.enqueue(contender, tasks, load.users, first=tasks, prefix=_FRESH)
            first, answered = _redelivered(tap, tasks, killed_at + options.patience)
    sent = stub.stats()["turns"] - turns
    fresh = sum(task.startswith(_FRESH) for task in tap.times())
    sample = {"lost": tasks - answered, "twice": max(0, sent - tasks - fresh), "waited": options.patience}
    return sample | {"first": first - killed_at if first else float("nan")}


def _wait_for_turns(stub: Stub, turns: int, patience: float) -> None:
    until = time.monotonic() + patience
    while stub.stats()["turns"] < turns:
        if time.monotonic() > until:
            raise WorkerFailed("the worker did not take all tasks it was given")
        time.sleep(0.05)


def _redelivered(tap: ReplyTap, tasks: int, until: float) -> tuple[float | None, int]:
    """The moment of the first reply to a task of the killed worker, and the final number of such replies."""
    while True:
        moments = [moment for task, moment in tap.times().items() if task.startswith(_KILLED)]
        if len(moments) == tasks or time.monotonic() > until:
            return min(moments, default=None), len(moments)
        time.sleep(0.2)
