"""A Redis that lost its last writes: what this bridge holds is answered, unless another bridge has it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from letta_bridge.request_queue.port import Refusal, Settlement
from letta_bridge.testing.request_queue import InMemoryQueue
from letta_bridge.turn.intake import Intake
from letta_bridge.turn.recorder import Recorder


class Refusals(Recorder):
    """Hears which outcomes do not count, and of lost writes."""

    def __init__(self) -> None:
        self.heard: list[Any] = []
        self.losses = 0

    def writes_lost(self) -> None:
        self.losses += 1

    def refused(self, settlement: Settlement, refusal: Refusal) -> None:
        self.heard.append((settlement.task_id, refusal))


@pytest.mark.parametrize("ended", [False, True], ids=["in work", "answered meanwhile"])
async def test_a_turn_that_redis_forgot_is_answered_all_the_same(
    make_worker: Any, until: Callable[..., Any], ended: bool
) -> None:
    async with make_worker() as worker:
        await worker.idle()
        snapshot = worker.shelf.snapshot()
        worker.push("a")
        await worker.started.get()
        worker.queue.away = ended
        if ended:
            worker.gate.set()
            await until(lambda: worker.intake.redis_error is not None)
        worker.shelf.roll_back(snapshot)
        worker.queue.away = False
        worker.shelf.arrived.set()
        await until(lambda: worker.shelf.counters["restored"] == 1)
        worker.gate.set()
        await worker.settled(1)
        worker.push("b")
        await worker.settled(2)
    assert worker.replies() == ["a", "b"]
    assert not worker.shelf.turns


async def test_lost_writes_are_recorded_by_a_bridge_that_holds_no_turn(
    make_worker: Any, until: Callable[..., Any]
) -> None:
    """Tasks that waited may be gone with them, and no count of restored turns would say so."""
    worker = make_worker()
    recorder = Refusals()
    worker.intake = Intake(worker.queue, worker.process, worker.settings, recorder=recorder)
    snapshot = worker.shelf.snapshot()
    async with worker:
        worker.push("a")
        worker.gate.set()
        await worker.settled(1)
        await worker.idle()
        assert not recorder.losses
        worker.shelf.roll_back(snapshot)
        worker.shelf.arrived.set()
        await until(lambda: recorder.losses)
    assert not worker.shelf.counters["restored"]


async def test_a_turn_that_another_bridge_has_after_a_loss_of_writes_is_stopped_here(
    make_worker: Any, until: Callable[..., Any]
) -> None:
    worker = make_worker()
    worker.push("a")
    await worker.queue.settle_and_fetch([], 0)
    other = InMemoryQueue(worker.shelf, worker.settings, "b")
    snapshot = worker.shelf.snapshot()
    async with worker:
        await worker.started.get()
        worker.shelf.roll_back(snapshot)
        (again,) = (await other.settle_and_fetch([], 1)).turns
        worker.shelf.arrived.set()
        await until(lambda: not worker.intake.in_flight)
        assert again.attempts == 1, "the other bridge had not heard of the loss"
        assert list(worker.shelf.turns) == [again.receipt]
    assert worker.replies() == []


async def test_an_answer_that_came_too_late_is_reported_and_a_repeated_one_is_distinguished(
    make_worker: Any, until: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    worker = make_worker()
    recorder = Refusals()
    worker.intake = Intake(worker.queue, worker.process, worker.settings, recorder=recorder)
    async with worker:
        worker.push("a", "b")
        for _ in range(2):
            await worker.started.get()
        repeated, late = worker.shelf.turns
        worker.shelf.kept["a", "a"] = json.dumps({"user_id": "a", "task_id": "a"}).encode()
        for receipt in (repeated, late):
            worker.queue._close(receipt)
        worker.gate.set()
        await until(lambda: len(recorder.heard) == 2)
        assert not worker.intake.in_flight
    assert sorted(recorder.heard) == [("a", Refusal.REPEATED), ("b", Refusal.TAKEN_OVER)]
    warned = [line for line in capsys.readouterr().out.splitlines() if "settlement_refused" in line]
    assert ["warning" in line for line in sorted(warned, key=lambda line: "taken_over" in line)] == [False, True]


async def test_a_stop_with_an_answer_that_redis_forgot_still_gives_it(make_worker: Any) -> None:
    worker = make_worker()
    async with worker:
        await worker.idle()
        snapshot = worker.shelf.snapshot()
        worker.push("a")
        await worker.started.get()
        worker.intake.stop()
        worker.shelf.roll_back(snapshot)
        worker.gate.set()
        await worker.stopped()
    assert worker.replies() == ["a"]
