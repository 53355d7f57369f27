"""The asynchronous client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Self, TypeVar, Unpack

from letta_bridge_client.ending import end, within
from letta_bridge_client.errors import NoReply, RedisUnavailable, TaskFailed
from letta_bridge_client.listener import Interrupted, Listener, Watch
from letta_bridge_client.pusher import Pusher
from letta_bridge_client.redis_url import RedisClient, close, connect, subscriber
from letta_bridge_client.replies import Replies
from letta_bridge_client.reply import Reply, json_object
from letta_bridge_client.retrying import Outage
from letta_bridge_client.task import Task, TaskOptions, identifier, reply_key

_Result = TypeVar("_Result")

DEFAULT_TIMEOUT_SECONDS: Final = 120.0
_CLOSED: Final = "this Bridge is closed; make another one"
_SOON_SECONDS: Final = 0.005
_FIRST_LOOK_SECONDS: Final = 1.0
_LONGEST_LOOK_SECONDS: Final = 5.0
"""Between two looks for a kept reply whose publication did not arrive."""


class Bridge:
    """A producer of tasks that waits for their replies. Belongs to one event loop; any number of calls at once.

    Tasks of one user are answered in the order of the calls. A call that is repeated with the same task id and text,
    also by another process, is answered once.

    Args:
        redis: the address, see :func:`~letta_bridge_client.redis_url.connect`, or a client of redis-py, which
            ``aclose`` leaves open.
        requests: the list that the bridge reads.
        task_response: begins the channel of one task's reply.
    """

    def __init__(
        self,
        redis: str | RedisClient = "redis://localhost:6379/0",
        *,
        requests: str = "letta_requests",
        task_response: str = "task_response:",
    ) -> None:
        self._owned = isinstance(redis, str)
        self._closed = False
        self._calls: set[asyncio.Task[Any]] = set()
        self._client = connect(redis) if isinstance(redis, str) else redis
        self._requests = requests
        self._task_response = task_response
        self._outage = Outage()
        self._pusher = Pusher(self._client, requests, self._outage)
        near = reply_key(requests, "", "")
        self._listener = Listener(lambda: subscriber(self._client, near), task_response, self._outage)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End open calls with a ``RuntimeError`` and close the connections; may be repeated."""
        self._closed = True
        await asyncio.gather(*(end(call) for call in self._calls))
        await self._pusher.close()
        await self._listener.close()
        if self._owned:
            await close(self._client)

    async def ask(
        self,
        user: str | int,
        text: str,
        *,
        timeout: float = DEFAULT_TIMEOUT_SECONDS,
        **options: Unpack[TaskOptions],
    ) -> Reply:
        """Send a user's message and wait for the answer.

        Args:
            user: the user's id; decides whose memory it is.
            text: the message.
            timeout: seconds for the whole call.
            options: see :class:`~letta_bridge_client.task.TaskOptions`.

        Raises:
            TaskFailed: the bridge answered with an error; ``retryable`` says whether to call again with the same id.
            NoReply: none came in time; :meth:`resume` waits on.
            RedisUnavailable: Redis did not take the task in time, or refuses it.
            ValueError: an argument is none.
            RuntimeError: the client was closed.
        """
        task = Task.of(user, text, **options)
        call = _Call(task.user_id, task.task_id, task)
        return _answer(await self._within(call, timeout, self._ask(call, task)))

    async def submit(
        self,
        user: str | int,
        text: str,
        *,
        timeout: float = DEFAULT_TIMEOUT_SECONDS,
        **options: Unpack[TaskOptions],
    ) -> str:
        """Send a user's message and return its task id as soon as Redis has it; see :meth:`ask`."""
        task = Task.of(user, text, **options)
        call = _Call(task.user_id, task.task_id, task)
        await self._within(call, timeout, self._pusher.push(task.payload))
        return task.task_id

    async def result(self, task_id: str, user: str | int, *, timeout: float = DEFAULT_TIMEOUT_SECONDS) -> Reply | None:
        """The reply to a task, if there is one by now; kept for an hour unless configured otherwise.

        Raises:
            TaskFailed: the reply is an error.
            RedisUnavailable: Redis does not answer in time, or refuses.
        """
        call = _Call(identifier("user", user), identifier("task_id", task_id))
        kept = await self._within(call, timeout, self._kept(call))
        return _answer(Reply.of(kept)) if kept else None

    async def resume(self, task_id: str, user: str | int, *, timeout: float = DEFAULT_TIMEOUT_SECONDS) -> Reply:
        """Wait for the reply to a task that was sent earlier, also by another process; see :meth:`ask`."""
        call = _Call(identifier("user", user), identifier("task_id", task_id), awaits_redis=False)
        return _answer(await self._within(call, timeout, self._resume(call)))

    async def replies(self, after: str | None = None) -> AsyncIterator[tuple[str, Reply]]:
        """The replies to all users' tasks, errors among them, without end, and at least once each.

        Args:
            after: the cursor behind the last reply that was handled; None for replies from now on, ``0-0`` for all that
                the stream holds (some 10 000).

        Yields:
            A cursor, to be stored when the reply has been handled, and the reply.

        Raises:
            RepliesMissed: replies after the cursor may have been dropped from the stream.
            RedisUnavailable: Redis refuses to be read. While it is away, the call waits.
            RuntimeError: the client was closed.
        """
        following = Replies(self._client, f"{{{self._requests}}}:replies", self._outage).after(after)

        async def step() -> tuple[str, Reply]:
            return await anext(following)

        while True:
            task = self._begin(step())
            try:
                yield await within(None, task)
            except TimeoutError:
                raise RuntimeError(_CLOSED) from None

    async def _ask(self, call: _Call, task: Task) -> Reply:
        async with self._listener.watch(self._task_response + call.task_id) as watch:
            call.before = await self._kept(call) if task.is_named else {}
            if call.before and (reply := call.outcome(call.before)) is not None:
                return reply
            await self._pusher.push(task.payload)
            call.awaits_redis = False
            return await self._wait(call, watch)

    async def _resume(self, call: _Call) -> Reply:
        async with self._listener.watch(self._task_response + call.task_id) as watch:
            kept = await self._kept(call)
            return Reply.of(kept) if kept else await self._wait(call, watch)

    async def _kept(self, call: _Call) -> dict[str, Any]:
        """The kept reply's JSON object; empty if there is none."""
        key = reply_key(self._requests, call.user_id, call.task_id)
        return json_object(await self._outage.outlast(lambda: self._client.get(key)))

    async def _wait(self, call: _Call, watch: Watch) -> Reply:
        look = _FIRST_LOOK_SECONDS
        while True:
            event = await watch.next(look)
            kept = await self._kept(call)
            if kept and (reply := call.outcome(kept)) is not None:
                return reply
            if isinstance(event, bytes):
                if (reply := call.unkept(json_object(event))) is not None:
                    return reply
                look = _SOON_SECONDS  # memory-python answers a moment before the bridge keeps the reply
                continue
            if isinstance(event, Interrupted) and call.task is not None:
                # Redis may have lost the task with its last writes. If it has not, the second one is answered with the
                # reply to the first.
                await self._pusher.push(call.task.payload)
            look = min(2 * look, _LONGEST_LOOK_SECONDS)

    async def _within(self, call: _Call, seconds: float, work: Coroutine[Any, Any, _Result]) -> _Result:
        """Bound a call.

        Raises:
            NoReply, RedisUnavailable: its time is over; the latter if Redis is what it waited for.
        """
        task = self._begin(work)
        try:
            return await within(seconds, task)
        except TimeoutError:
            if self._closed:
                raise RuntimeError(_CLOSED) from None
            why = self._outage.error
            if why is None and not call.awaits_redis:
                raise NoReply(call.task_id, seconds) from None
            says = f" ({why})" if why else ""
            raise RedisUnavailable(
                f"Redis did not answer within {seconds:g} s{says}; call again with the task id {call.task_id}, the "
                "task is not answered twice",
                call.task_id,
            ) from why

    def _begin(self, work: Coroutine[Any, Any, _Result]) -> asyncio.Task[_Result]:
        """A task that ends with the client."""
        if self._closed:
            work.close()
            raise RuntimeError(_CLOSED)
        task = asyncio.create_task(work)
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)
        return task


@dataclass(slots=True)
class _Call:
    """Which kept or published reply belongs to the call, as task ids are chosen by strangers and may be used twice."""

    user_id: str
    task_id: str
    task: Task | None = None
    """None if it was pushed earlier."""
    awaits_redis: bool = True
    """Whether it waits for Redis, and not for the bridge."""
    before: Mapping[str, Any] = field(default_factory=dict)
    """What was kept under the id when the call began."""

    def outcome(self, kept: Mapping[str, Any]) -> Reply | None:
        """What a kept reply means for the call; None if the call has to wait on."""
        reply = Reply.of(kept)
        digest = kept.get("content_digest")
        if self.task is not None and isinstance(digest, str) and digest != self.task.digest:
            return None  # another text with this id; the bridge refuses one of the two
        if kept == self.before and not reply.ok and reply.retryable:
            return None
        return reply

    def unkept(self, said: Mapping[str, Any]) -> Reply | None:
        """The error in a publication whose reply is not kept; None for anything else."""
        if said.get("error") is not True:
            return None
        names_user = "user_id" in said
        if said.get("user_id") != self.user_id if names_user else self.task is None or self.task.is_named:
            return None
        of_task = {"task_id": self.task_id, "user_id": self.user_id, "message": said.get("text")}
        return Reply.of({**said, **of_task})


def _answer(reply: Reply) -> Reply:
    if not reply.ok:
        raise TaskFailed(reply)
    return reply
