"""The writer: batches, outages, and refusals, none of which a turn waits for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from letta_bridge.request_queue.port import StreamRefusal, TaskEvents, Turn
from letta_bridge.settings import StreamingSettings
from letta_bridge.turn.streams.turn_stream import TurnStream
from letta_bridge.turn.streams.writer import StreamWriter
from shared_utils.contracts.messages import Task

pytestmark = pytest.mark.virtual_time


class Events:
    """A queue that keeps events, or refuses them."""

    def __init__(self) -> None:
        self.calls: list[int] = []
        self.kept: dict[str, list[bytes]] = {}
        self.failures: list[Exception] = []
        self.refusals: list[StreamRefusal] = []

    async def append(self, streams: Sequence[TaskEvents]) -> list[StreamRefusal | None]:
        self.calls.append(len(streams))
        await asyncio.sleep(0.01)
        if self.failures:
            raise self.failures.pop()
        if self.refusals:
            return [self.refusals.pop() for _ in streams]
        for stream in streams:
            self.kept.setdefault(stream.task_id, []).extend(stream.events[stream.stored :])
            stream.stored = len(stream.events)
        return [None for _ in streams]

    async def events(self, user_id: str, task_id: str) -> list[bytes]:
        return self.kept.get(task_id, [])


async def opened(writer: StreamWriter, task_id: str) -> TurnStream:
    task = Task.model_validate({"task_id": task_id, "user_id": "ada", "meta": {"stream": True}})
    stream = await writer.open(Turn(f"r-{task_id}", "ada", 1, 1, 1, b""), task, "default", may_have_past=False)
    assert stream is not None
    return stream


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)


async def test_many_streams_share_a_call() -> None:
    queue = Events()
    writer = StreamWriter(queue, StreamingSettings())
    async with writer.running():
        for number in range(100):
            (await opened(writer, str(number))).begin("letta")
        await until(lambda: len(queue.kept) == 100)
    assert queue.calls == [64, 36]


@pytest.mark.parametrize("failure", [RedisConnectionError("gone"), ResponseError("OOM command not allowed")])
async def test_events_wait_while_redis_is_away(failure: Exception) -> None:
    queue = Events()
    queue.failures = [failure] * 3
    writer = StreamWriter(queue, StreamingSettings())
    async with writer.running():
        stream = await opened(writer, "1")
        stream.begin("letta")
        stream.text("m", "One is here. Two is here. ")
        await until(lambda: queue.kept)
    assert len(queue.kept["1"]) == 3


async def test_a_turn_that_redis_forgot_is_written_once_it_is_restored() -> None:
    queue = Events()
    queue.refusals = [StreamRefusal.FORGOTTEN] * 2
    writer = StreamWriter(queue, StreamingSettings())
    async with writer.running():
        (await opened(writer, "1")).begin("letta")
        await until(lambda: queue.kept)


@pytest.mark.parametrize("refusal", [StreamRefusal.TAKEN_OVER, StreamRefusal.INTERRUPTED, StreamRefusal.UNWRITABLE])
async def test_nothing_is_written_after_a_refusal(refusal: StreamRefusal) -> None:
    queue = Events()
    queue.refusals = [refusal]
    writer = StreamWriter(queue, StreamingSettings())
    async with writer.running():
        stream = await opened(writer, "1")
        stream.begin("letta")
        await until(lambda: stream.stopped)
        stream.text("m", "One is here. Two is here. ")
        await asyncio.sleep(5)
    assert queue.kept == {}
    assert queue.calls == [1]


@pytest.mark.parametrize(
    ("settings", "asked", "wanted"),
    [
        ({}, None, False),
        ({}, True, True),
        ({}, False, False),
        ({"mode": "always"}, False, True),
        ({"mode": "never"}, True, False),
        ({"personas": ["default"]}, None, True),
        ({"personas": ["default"]}, False, False),
        ({"personas": ["other"]}, None, False),
    ],
)
async def test_who_gets_a_stream(settings: dict[str, object], asked: bool | None, wanted: bool) -> None:
    writer = StreamWriter(Events(), StreamingSettings.model_validate(settings))
    task = Task.model_validate({"task_id": "1", "user_id": "ada", "meta": {"stream": asked}})
    stream = await writer.open(Turn("r", "ada", 1, 1, 1, b""), task, "default", may_have_past=False)
    assert (stream is not None) is wanted
