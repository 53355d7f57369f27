"""Writes the events of all running turns to the queue, as they come and in batches."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final, Protocol

from redis.exceptions import ResponseError

from letta_bridge import fail_points
from letta_bridge.request_queue.interrupts import InterruptRequest
from letta_bridge.request_queue.port import StreamRefusal, TaskEvents, Turn
from letta_bridge.settings import StreamingSettings
from letta_bridge.turn.recorder import NO_RECORDER, Recorder
from letta_bridge.turn.streams.events import Past
from letta_bridge.turn.streams.turn_stream import TurnStream
from shared_utils.batches import batches_of
from shared_utils.contracts.messages import Task
from shared_utils.observability import logs
from shared_utils.observability.outage import OncePerOutage
from shared_utils.redis.connection import CONNECTION_ERRORS
from shared_utils.redis.failures import explain
from shared_utils.task_end import end_and_log

_log = logs.get("letta_bridge.streams")
_MOST_STREAMS: Final = 64
"""Streams of one call."""
_MOST_BYTES: Final = 1_048_576
"""Events of one call, which ends with the stream that reaches it."""
_FAILURES: Final[tuple[type[Exception], ...]] = (*CONNECTION_ERRORS, ResponseError)
_PAUSE_SECONDS: Final = 0.2
"""After a call that failed, and for turns that wait to be restored."""


class EventQueue(Protocol):
    """The part of the request queue that keeps streams."""

    async def append(self, streams: Sequence[TaskEvents]) -> list[StreamRefusal | None]:
        """See :class:`RequestQueue`."""
        ...

    async def events(self, user_id: str, task_id: str) -> list[bytes]:
        """See :class:`RequestQueue`."""
        ...


class StreamWriter:
    """Opens streams, and writes what they have to say while their turns run.

    One call to the queue is in progress at a time; what comes meanwhile goes with the next one, so that many streams
    share a round trip. A turn never waits for it: what is not written when the turn ends goes with its settlement.

    State: the streams with events that are not written yet, in the order in which they got them.
    """

    def __init__(self, queue: EventQueue, settings: StreamingSettings, recorder: Recorder = NO_RECORDER) -> None:
        self._queue = queue
        self._settings = settings
        self._recorder = recorder
        self._waiting: dict[TurnStream, None] = {}
        self._wake = asyncio.Event()
        self._outage = OncePerOutage()
        self.on_interrupt: Callable[[str, InterruptRequest], object] = _ignore
        """Called with the receipt of a turn that was found interrupted."""

    def reload(self, settings: StreamingSettings) -> None:
        """Apply settings to streams that are opened from now on."""
        self._settings = settings

    async def open(self, turn: Turn, task: Task, persona: str, *, may_have_past: bool) -> TurnStream | None:
        """The stream of a turn; None if its reply is not to be streamed.

        Args:
            turn: the hand-out.
            task: the readable task.
            persona: who answers.
            may_have_past: an earlier hand-out of the task may have published events.
        """
        if not self._settings.wanted(task.meta.stream, persona):
            return None
        past = Past.of(await self._queue.events(task.user_id, task.task_id)) if may_have_past else Past()
        return TurnStream(
            task, turn.receipt, self._settings, past, deltas=bool(task.meta.deltas), changed=self._has_events
        )

    async def past(self, task: Task) -> Past:
        """What was published for a task."""
        return Past.of(await self._queue.events(task.user_id, task.task_id))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Write while the block runs."""
        writing = asyncio.create_task(self._run(), name="task-streams")
        try:
            yield
        finally:
            await end_and_log(writing)

    def _has_events(self, stream: TurnStream) -> None:
        self._waiting[stream] = None
        self._wake.set()

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._waiting:
                await self._write(self._next())

    def _next(self) -> list[TurnStream]:
        waiting = iter(batches_of(list(self._waiting), _MOST_STREAMS, _MOST_BYTES, _bytes_to_write))
        streams = list(next(waiting))
        for stream in streams:
            del self._waiting[stream]
        return streams

    async def _write(self, streams: list[TurnStream]) -> None:
        streams = [stream for stream in streams if not stream.stopped]
        if not streams:
            return
        before = [stream.events.stored for stream in streams]
        fail_points.reach("speaking", times=len(streams))
        try:
            refusals = await self._queue.append([stream.events for stream in streams])
        except _FAILURES as error:
            self._outage.failed(explain(error), lambda reason: _log.warning("task_streams_wait", error=reason))
            self._waiting = {**dict.fromkeys(streams), **self._waiting}
            await asyncio.sleep(_PAUSE_SECONDS)
            return
        fail_points.reach("spoken", times=len(streams))
        self._outage.worked(lambda: _log.info("task_streams_written_again"))
        for stream, refusal in zip(streams, refusals, strict=True):
            if refusal is StreamRefusal.FORGOTTEN:
                self._waiting[stream] = None
            elif refusal is not None:
                stream.stop()
                if stream.events.interrupt is not None:  # told by another bridge, whose message was lost
                    self.on_interrupt(stream.events.receipt, stream.events.interrupt)
                if refusal is StreamRefusal.UNWRITABLE:
                    _log.error("task_stream_unwritable", receipt=stream.events.receipt)
            elif stream.events.stored < len(stream.events.events):
                self._waiting[stream] = None
        if StreamRefusal.FORGOTTEN in refusals:
            await asyncio.sleep(_PAUSE_SECONDS)  # until the intake has restored the turns
        written = sum(max(0, stream.events.stored - stored) for stream, stored in zip(streams, before, strict=True))
        self._recorder.events_published(written)


def _ignore(_receipt: str, _request: InterruptRequest) -> None:
    pass


def _bytes_to_write(stream: TurnStream) -> int:
    return sum(map(len, stream.events.events[max(0, stream.events.stored) :]))
