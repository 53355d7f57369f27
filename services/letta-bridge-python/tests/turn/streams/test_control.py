"""The control list: nothing on it is lost, nothing holds it up, and each message is applied once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoPermissionError

from letta_bridge.request_queue.interrupts import Interrupted, InterruptOutcome, InterruptRequest
from letta_bridge.turn.recorder import NO_RECORDER
from letta_bridge.turn.streams import control as control_module
from letta_bridge.turn.streams.control import Control

pytestmark = pytest.mark.virtual_time


class ControlList:
    """A Redis with one list."""

    def __init__(self, *messages: bytes) -> None:
        self.messages = list(messages)
        self.failures: list[Exception] = []

    async def blmove(self, _source: str, _target: str, timeout: float, *_sides: str) -> bytes | None:
        if self.failures:
            raise self.failures.pop()
        if not self.messages:
            await asyncio.sleep(timeout)
        return self.messages[0] if self.messages else None

    async def lrem(self, _key: str, _count: int, message: bytes) -> int:
        self.messages.remove(message)
        return 1

    async def aclose(self) -> None:
        pass


class Channel:
    """What bridges tell each other; the first subscriptions may be refused."""

    refusals: int = 0
    heard: asyncio.Queue[bytes]

    def __init__(self, *_: object) -> None:
        self.messages = Channel.heard

    async def subscribe(self, *_: object) -> Channel:
        if Channel.refusals:
            Channel.refusals -= 1
            raise NoPermissionError("NOPERM")
        return self

    async def close(self) -> None:
        pass


class Rig:
    def __init__(self, *messages: bytes) -> None:
        self.list = ControlList(*messages)
        self.outcome = InterruptOutcome.INTERRUPTED
        self.failure: Exception | None = None
        self.asked: list[tuple[InterruptRequest, bytes | None]] = []
        self.broken_off: list[str] = []
        self.over: list[str] = []
        client: Any = self.list
        self.control = Control(
            client,
            client,
            key="letta_control",
            channel="interrupts",
            interrupt=self.interrupt,
            break_off=lambda receipt, _: self.broken_off.append(receipt),
            over=self.tell,
            recorder=NO_RECORDER,
        )

    async def interrupt(self, request: InterruptRequest, message: bytes | None = None) -> Interrupted:
        self.asked.append((request, message))
        if self.failure is not None:
            failure, self.failure = self.failure, None
            raise failure
        if not request.task_id and message is not None:
            self.list.messages.remove(message)  # as the script does
        return Interrupted(self.outcome, request.task_id, "receipt")

    async def tell(self, _request: InterruptRequest, result: Interrupted) -> None:
        self.over.append(result.task_id)


@pytest.fixture(autouse=True)
def _channel(monkeypatch: pytest.MonkeyPatch) -> None:
    Channel.refusals, Channel.heard = 0, asyncio.Queue()
    monkeypatch.setattr(control_module, "ChannelListener", Channel)


def message(**fields: str) -> bytes:
    return json.dumps({"type": "interrupt", "user_id": "ada", **fields}).encode()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(600):
        while not condition():
            await asyncio.sleep(0.01)


async def test_each_message_is_applied_and_removed() -> None:
    rig = Rig(message(task_id="1"), message(), message(task_id="2"))
    async with rig.control.running():
        await until(lambda: not rig.list.messages)
    assert [request.task_id for request, _ in rig.asked] == ["1", "", "2"]
    assert rig.broken_off == ["receipt"] * 3


@pytest.mark.parametrize("poison", [b"", b"[]", b"\xff", message(task_id="x").replace(b"interrupt", b"stop")])
async def test_a_message_that_nobody_can_read_holds_up_nothing(poison: bytes) -> None:
    rig = Rig(poison, message(task_id="1"))
    async with rig.control.running():
        await until(lambda: not rig.list.messages)
    assert [request.task_id for request, _ in rig.asked] == ["1"]


async def test_a_defect_holds_up_nothing() -> None:
    rig = Rig(message(task_id="1"), message(task_id="2"))
    rig.failure = KeyError("a defect")
    async with rig.control.running():
        await until(lambda: not rig.list.messages)
    assert rig.broken_off == ["receipt"]


async def test_a_message_stays_until_redis_has_noted_it() -> None:
    rig = Rig(message(task_id="1"))
    rig.list.failures = [RedisConnectionError("gone")]
    rig.failure = RedisConnectionError("gone")
    async with rig.control.running():
        await until(lambda: not rig.list.messages)
    assert len(rig.asked) == 2


@pytest.mark.parametrize(
    ("outcome", "broken_off", "over"),
    [
        (InterruptOutcome.INTERRUPTED, ["receipt"], []),
        (InterruptOutcome.OVER, [], ["1"]),
        (InterruptOutcome.WAITING, [], []),
        (InterruptOutcome.REPEATED, [], []),
        (InterruptOutcome.FULL, [], []),
        (InterruptOutcome.TAKEN, [], []),
    ],
)
async def test_what_follows_from_each_outcome(
    outcome: InterruptOutcome, broken_off: list[str], over: list[str]
) -> None:
    rig = Rig(message(task_id="1"))
    rig.outcome = outcome
    async with rig.control.running():
        await until(lambda: not rig.list.messages)
    assert (rig.broken_off, rig.over) == (broken_off, over)


async def test_other_bridges_are_heard_as_soon_as_redis_allows_it() -> None:
    rig = Rig()
    Channel.refusals = 3
    Channel.heard.put_nowait(b"receipt-of-a-turn\n" + message(task_id="1"))
    Channel.heard.put_nowait(b"another\nnonsense")
    async with rig.control.running():
        await until(lambda: len(rig.broken_off) == 2)
    assert rig.broken_off == ["receipt-of-a-turn", "another"]


async def test_a_new_message_of_the_user_names_the_hand_out() -> None:
    rig = Rig()
    async with rig.control.running():
        rig.control.barge_in("ada", "receipt-1")
        await until(lambda: rig.asked)
    ((request, asked_by),) = rig.asked
    assert (request.hand_out, request.task_id, asked_by) == ("receipt-1", "", None)
