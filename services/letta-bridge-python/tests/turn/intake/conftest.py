"""An intake over a queue in memory, whose turns end when the test says so."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any, Self

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from letta_bridge.request_queue import Outcome, Settlement
from letta_bridge.request_queue.calls import TICKET_DIGITS, Calls
from letta_bridge.request_queue.port import FetchResult, Turn
from letta_bridge.settings import QueueSettings
from letta_bridge.testing.queue_state import InMemoryQueueState
from letta_bridge.testing.request_queue import InMemoryQueue
from letta_bridge.turn import lease
from letta_bridge.turn.intake import Intake, arrivals, hand_outs, intake, lease_keeper
from letta_bridge.turn.recorder import NO_RECORDER


class UnreliableQueue(InMemoryQueue):
    """A queue that can be away, before or after it did what it was asked."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.away = False
        self.lose_next_answer = False
        self.lose_next_arrival = False
        self.refuses = False
        """Exchanges are refused, while every other command works."""
        self.refused = 0
        self.orphans_sought: list[Any] = []
        self.settled_at_once: list[Any] = []
        self.after_hand_out: Callable[[], object] = lambda: None
        self.asked = asyncio.Event()

    async def settle_and_fetch(self, settlements: Any, limit: int) -> FetchResult:
        self.asked.set()
        self.settled_at_once.append(len(settlements))
        if self.away:
            raise RedisConnectionError("away")
        if self.refuses:
            self.refused += 1
            raise ResponseError("WRONGTYPE the key q is no list")
        fetched = await super().settle_and_fetch(settlements, limit)
        if fetched.turns:
            self.after_hand_out()
        if self.lose_next_answer and (settlements or fetched.turns):
            self.lose_next_answer = False
            lose_answer(self.passes, fetched.turns)
            raise RedisConnectionError("answer lost")
        return fetched

    async def wait_and_fetch(self, limit: int, timeout: float) -> list[Any]:
        turns = await super().wait_and_fetch(limit, timeout)
        if turns:
            self.after_hand_out()
        if self.away or (turns and self.lose_next_arrival):
            self.lose_next_arrival = False
            lose_answer(self.waits, turns)
            raise RedisConnectionError("answer lost")
        return turns

    async def release_orphans(self, known: Any, *, from_idle: bool = False) -> int:
        if self.away:
            raise RedisConnectionError("away")
        self.orphans_sought.append(from_idle)
        return await super().release_orphans(known, from_idle=from_idle)


def lose_answer(calls: Calls, turns: list[Any]) -> None:
    """The answer that hands out these turns does not arrive."""
    calls._unanswered.update((turn.receipt[:TICKET_DIGITS], None) for turn in turns)


class Worker:
    """An intake whose turns end when the test says so."""

    def __init__(
        self,
        shelf: Any = None,
        name: str = "a",
        accepting: Any = lambda: True,
        recorder: Any = NO_RECORDER,
        **changes: Any,
    ) -> None:
        self.time = 1_000.0
        self.settings = QueueSettings(**{"shutdown_grace_seconds": 5, **changes})
        self.shelf = shelf or InMemoryQueueState(clock=lambda: self.time)
        self.queue = UnreliableQueue(self.shelf, self.settings, name)
        self.started: asyncio.Queue[Turn] = asyncio.Queue()
        self.gate = asyncio.Event()
        self.begin = True
        self.fail_with = None
        self.intake = Intake(self.queue, self.process, self.settings, accepting, recorder)
        self.running: Any = None

    async def process(self, turn: Turn, lease: lease.TurnLease) -> Settlement:
        if self.begin:
            lease.begin()
        self.started.put_nowait(turn)
        await self.gate.wait()
        if self.fail_with is not None:
            raise self.fail_with
        task = json.loads(turn.payload)
        body = turn.payload
        return Settlement(turn.receipt, Outcome.LETTA, user_id=task["user_id"], task_id=task["task_id"], reply=body)

    def push(self, *names: str, user: str | None = None) -> None:
        for name in names:
            self.shelf.push(json.dumps({"user_id": user or name, "task_id": name}).encode())

    async def __aenter__(self) -> Self:
        self.running = asyncio.create_task(self.intake.run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self.gate.set()
        await self.stopped()

    async def stopped(self) -> None:
        self.intake.stop()
        self.shelf.arrived.set()
        await asyncio.wait_for(self.running, 20)

    async def idle(self) -> None:
        """Until it waits for arrivals."""
        async with asyncio.timeout(20):
            while not self.intake._arrivals.waiting:
                await asyncio.sleep(0)

    def replies(self) -> list[Any]:
        return [json.loads(reply)["task_id"] for reply in self.shelf.replies]

    async def settled(self, count: int) -> None:
        async with asyncio.timeout(20):
            while len(self.shelf.replies) < count:
                await asyncio.sleep(0)


@pytest.fixture
def make_worker() -> Any:
    """``make_worker(**settings)``: a bridge that runs while it is entered."""
    return Worker


@pytest.fixture
def make_queue() -> Any:
    """``make_queue(shelf, settings, name)``: a queue that can be away."""
    return UnreliableQueue


@pytest.fixture
def until() -> Callable[..., Any]:
    """``await until(holds)``."""

    async def wait(holds: Callable[..., Any]) -> None:
        async with asyncio.timeout(20):
            while not holds():
                await asyncio.sleep(0)

    return wait


@pytest.fixture
def set_idle_seconds(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """``set_idle_seconds(3_600.0)``: how long passes and the wait for arrivals pause while nothing happens."""

    def set_both(seconds: float) -> None:
        monkeypatch.setattr(intake, "_IDLE_SECONDS", seconds)
        monkeypatch.setattr(arrivals, "_WAIT_SECONDS", seconds)

    return set_both


@pytest.fixture
def set_clock(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """``set_clock(lambda: now)``: the clock by which leases are measured."""

    def set_everywhere(clock: Callable[..., Any]) -> None:
        for module in (arrivals, hand_outs, intake, lease, lease_keeper):
            monkeypatch.setattr(module, "clock", clock)

    return set_everywhere
