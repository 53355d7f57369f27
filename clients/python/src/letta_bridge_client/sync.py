"""The synchronous client: the asynchronous one on an event loop in a thread of its own."""

from __future__ import annotations

from collections.abc import Coroutine, Iterator
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Self, Unpack

from letta_bridge_client.bridge import DEFAULT_TIMEOUT_SECONDS, Bridge
from letta_bridge_client.events import Event, Sentence
from letta_bridge_client.interrupts import Heard
from letta_bridge_client.loop_thread import LoopThread
from letta_bridge_client.redis_url import RedisClient
from letta_bridge_client.reply import Reply
from letta_bridge_client.reply_stream import ReplyStream
from letta_bridge_client.task import TaskOptions


class SyncBridge:
    """The twin of :class:`Bridge`, for any number of threads. Make it after a fork, not before."""

    def __init__(
        self,
        redis: str | RedisClient = "redis://localhost:6379/0",
        *,
        requests: str = "letta_requests",
        task_response: str = "task_response:",
        task_stream: str = "task_stream:",
        control: str = "letta_control",
    ) -> None:
        self._bridge = Bridge(
            redis, requests=requests, task_response=task_response, task_stream=task_stream, control=control
        )
        self._loop = LoopThread()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End open calls and close the connections; may be repeated."""
        self._loop.close(self._bridge.aclose())

    def ask(
        self,
        user: str | int,
        text: str,
        *,
        timeout: float = DEFAULT_TIMEOUT_SECONDS,
        **options: Unpack[TaskOptions],
    ) -> Reply:
        """See :meth:`Bridge.ask`."""
        return self._loop.run(self._bridge.ask(user, text, timeout=timeout, **options))

    def stream(
        self,
        user: str | int,
        text: str,
        *,
        deltas: bool = False,
        timeout: float = DEFAULT_TIMEOUT_SECONDS,
        **options: Unpack[TaskOptions],
    ) -> SyncReplyStream:
        """See :meth:`Bridge.stream`."""
        return SyncReplyStream(self._bridge.stream(user, text, deltas=deltas, timeout=timeout, **options), self._loop)

    def resume_stream(
        self, task_id: str, user: str | int, *, after: int = -1, timeout: float = DEFAULT_TIMEOUT_SECONDS
    ) -> SyncReplyStream:
        """See :meth:`Bridge.resume_stream`."""
        return SyncReplyStream(self._bridge.resume_stream(task_id, user, after=after, timeout=timeout), self._loop)

    def interrupt(
        self,
        user: str | int,
        task_id: str | None = None,
        *,
        heard: Heard | str | None = None,
        timeout: float = DEFAULT_TIMEOUT_SECONDS,
    ) -> None:
        """See :meth:`Bridge.interrupt`."""
        self._loop.run(self._bridge.interrupt(user, task_id, heard=heard, timeout=timeout))

    def submit(
        self,
        user: str | int,
        text: str,
        *,
        timeout: float = DEFAULT_TIMEOUT_SECONDS,
        **options: Unpack[TaskOptions],
    ) -> str:
        """See :meth:`Bridge.submit`."""
        return self._loop.run(self._bridge.submit(user, text, timeout=timeout, **options))

    def result(self, task_id: str, user: str | int, *, timeout: float = DEFAULT_TIMEOUT_SECONDS) -> Reply | None:
        """See :meth:`Bridge.result`."""
        return self._loop.run(self._bridge.result(task_id, user, timeout=timeout))

    def resume(self, task_id: str, user: str | int, *, timeout: float = DEFAULT_TIMEOUT_SECONDS) -> Reply:
        """See :meth:`Bridge.resume`."""
        return self._loop.run(self._bridge.resume(task_id, user, timeout=timeout))

    def replies(self, after: str | None = None) -> Iterator[tuple[str, Reply]]:
        """See :meth:`Bridge.replies`."""
        replies = self._bridge.replies(after)

        async def following() -> tuple[str, Reply]:
            return await anext(replies)

        while True:
            yield self._loop.run(following())


class SyncReplyStream:
    """The twin of :class:`ReplyStream`: a plain iterator, for one thread at a time."""

    def __init__(self, stream: ReplyStream, loop: LoopThread) -> None:
        self._stream = stream
        self._loop = loop
        self._next: tuple[Future[Event | None], Coroutine[Any, Any, Event | None]] | None = None
        """An event that is awaited; it stays over a KeyboardInterrupt, so that none is lost."""

    def __enter__(self) -> Self:
        self._loop.run(self._stream.__aenter__())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def task_id(self) -> str:
        """The task's id."""
        return self._stream.task_id

    @property
    def user_id(self) -> str:
        """Whose task it is."""
        return self._stream.user_id

    @property
    def reply(self) -> Reply | None:
        """See :class:`ReplyStream`."""
        return self._stream.reply

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Event:
        """See :meth:`ReplyStream.__anext__`."""
        if self._next is None:
            call = self._following()
            self._next = self._loop.begin(call), call
        self._loop.outlast(*self._next)
        running, self._next = self._next[0], None
        event = running.result()
        if event is None:
            raise StopIteration
        return event

    def close(self) -> None:
        """See :meth:`ReplyStream.aclose`."""
        self._loop.run(self._stream.aclose())

    def heard(self, sentence: Sentence, characters: int | None = None) -> None:
        """See :meth:`ReplyStream.heard`."""
        self._stream.heard(sentence, characters)

    def interrupt(self, heard: Heard | str | None = None) -> None:
        """See :meth:`ReplyStream.interrupt`."""
        self._loop.run(self._stream.interrupt(heard))

    async def _following(self) -> Event | None:
        return await anext(self._stream, None)
