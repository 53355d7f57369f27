"""Hand-outs that are read late, as by a process that was frozen: another bridge may have them by then."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from letta_bridge.request_queue.port import FetchResult
from letta_bridge.testing.request_queue import InMemoryQueue
from letta_bridge.turn.intake import Intake, redis_outage

if TYPE_CHECKING:
    from letta_bridge_tests.turn.intake.conftest import Worker


class LateQueue(InMemoryQueue):
    """Its hand-outs are read long after they were made, as by a process that was frozen."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.late = 0.0
        self.meanwhile: Any = None
        self.pass_time: Any = None
        self.on_renew: Callable[[], object] = lambda: None
        self.renewed: list[Any] = []

    async def settle_and_fetch(self, settlements: Any, limit: int) -> FetchResult:
        fetched = await super().settle_and_fetch(settlements, limit)
        if fetched.turns:
            await self.freeze()
        return fetched

    async def wait_and_fetch(self, limit: int, timeout: float) -> list[Any]:
        turns = await super().wait_and_fetch(limit, timeout)
        if turns:
            await self.freeze()
        return turns

    async def freeze(self) -> None:
        late, self.late = self.late, 0.0
        self.pass_time(late)
        if late:
            await self.meanwhile()

    async def renew(self, receipts: Any) -> set[Any]:
        self.on_renew()
        self.renewed.extend(receipts)
        return await super().renew(receipts)


@pytest.fixture
def late_worker(set_clock: Callable[..., Any], make_worker: Any) -> Any:
    """A bridge whose clock, and Redis's, stand still unless it is frozen."""
    worker = make_worker()
    worker.queue = LateQueue(worker.shelf, worker.settings, "a")
    worker.intake = Intake(worker.queue, worker.process, worker.settings)

    def pass_time(seconds: float) -> None:
        worker.time += seconds

    worker.queue.pass_time = pass_time
    set_clock(lambda: worker.time)
    return worker


@pytest.mark.parametrize("waiting", [False, True], ids=["in a pass", "while it waits"])
async def test_a_hand_out_that_was_read_after_another_bridge_took_over_is_not_begun(
    until: Any, late_worker: Worker, waiting: bool
) -> None:
    worker: Any = late_worker
    other = InMemoryQueue(worker.shelf, worker.settings, "b")
    taken_over = []

    async def take_over() -> None:
        taken_over.extend((await other.settle_and_fetch([], 5)).turns)

    worker.queue.late, worker.queue.meanwhile = worker.settings.lease_seconds + 1, take_over
    if not waiting:
        worker.push("a")
    async with worker:
        if waiting:
            await worker.idle()
            worker.push("a")
        await until(lambda: taken_over)
        await until(lambda: worker.queue.renewed)
        assert worker.started.empty()
        assert list(worker.shelf.turns) == [taken_over[0].receipt]
        assert not worker.intake.in_flight


@pytest.mark.parametrize("late", [0.5, 2.0], ids=["half of the lease", "twice the lease"])
async def test_a_hand_out_that_was_read_late_and_belongs_to_no_other_task_is_renewed_and_begun(
    late_worker: Worker, late: Any
) -> None:
    async def nobody() -> None:
        pass

    worker: Any = late_worker
    worker.queue.late, worker.queue.meanwhile = worker.settings.lease_seconds * late, nobody
    worker.push("a")
    async with worker:
        turn = await asyncio.wait_for(worker.started.get(), 20)
        assert worker.queue.renewed == [turn.receipt]
        assert worker.shelf.turns[turn.receipt].deadline == worker.time + worker.settings.lease_seconds
        worker.gate.set()
        await worker.settled(1)


async def test_a_hand_out_that_was_read_at_once_is_begun_without_asking(late_worker: Worker) -> None:
    worker: Any = late_worker
    worker.push("a")
    async with worker:
        await asyncio.wait_for(worker.started.get(), 20)
        assert worker.queue.renewed == []


async def test_late_hand_out_without_renewal_is_released_uncounted(
    late_worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_outage, "_FIRST_PAUSE_SECONDS", 0.0)
    worker: Any = late_worker

    async def nobody() -> None:
        pass

    def once() -> None:
        worker.queue.on_renew = lambda: None
        raise RedisConnectionError("away")

    worker.queue.late, worker.queue.meanwhile = worker.settings.lease_seconds, nobody
    worker.queue.on_renew = once
    worker.push("a")
    async with worker:
        turn = await asyncio.wait_for(worker.started.get(), 20)
        assert turn.attempts == 1


async def test_a_late_hand_out_that_is_begun_is_not_given_back_by_a_pass_that_loses_its_connection(
    late_worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given back uncounted, another bridge would send it to Letta a second time without a look."""
    monkeypatch.setattr(redis_outage, "_FIRST_PAUSE_SECONDS", 0.0)
    worker: Any = late_worker
    queue: Any = worker.queue
    renew, fetched, release = queue.renew, queue.settle_and_fetch, queue.release
    gave_back, released = asyncio.Semaphore(0), []

    async def nobody() -> None:
        pass

    async def lost_connection(_settlements: list[Any], _limit: int) -> None:
        queue.settle_and_fetch = fetched
        raise RedisConnectionError("away")

    async def noted(receipts: Any) -> None:
        await release(receipts)
        released.extend(receipts)
        gave_back.release()

    async def renew_while_a_pass_fails(receipts: list[str]) -> set[Any]:
        lost: set[Any] = await renew(receipts)
        queue.settle_and_fetch, queue.release = lost_connection, noted
        worker.intake._wake.set()
        for _ in ("orphans", "unwanted"):
            await gave_back.acquire()
        return lost

    async with worker:
        await worker.idle()
        queue.late, queue.meanwhile, queue.renew = worker.settings.lease_seconds, nobody, renew_while_a_pass_fails
        worker.push("a")
        await asyncio.wait_for(worker.started.get(), 20)
        assert released == []
        worker.gate.set()
        await worker.settled(1)
