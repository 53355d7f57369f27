"""The asynchronous client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from functools import partial
from types import TracebackType
from typing import Any, Final, Self, TypeVar, Unpack

from letta_bridge_client.call import Call, InterruptCall, answer
from letta_bridge_client.ending import end, within
from letta_bridge_client.errors import NoReply, RedisUnavailable
from letta_bridge_client.events import Event
from letta_bridge_client.following import Follower, Looks
from letta_bridge_client.interrupts import Heard, interrupt_message
from letta_bridge_client.listener import Gap, Listener, Publication, Watch
from letta_bridge_client.progress import Progress
from letta_bridge_client.pusher import Pusher
from letta_bridge_client.redis_url import RedisClient, close, connect, subscriber
from letta_bridge_client.replies import Replies
from letta_bridge_client.reply import Reply, json_object, text_of
from letta_bridge_client.reply_stream import ReplyStream
from letta_bridge_client.retrying import ERRORS, Outage, passes, refused
from letta_bridge_client.task import Task, TaskOptions, identifier, reply_key, stream_key

_Result = TypeVar("_Result")

DEFAULT_TIMEOUT_SECONDS: Final = 120.0
_CLOSED: Final = "this Bridge is closed; make another one"
_PAGE: Final = 500
"""Events that one command reads."""


class Bridge:
    """A producer of tasks that waits for their replies. Belongs to one event loop; any number of calls at once.

    Tasks of one user are answered in the order of the calls. A call that is repeated with the same task id and text,
    also by another process, is answered once.

    Args:
        redis: the address, see :func:`~letta_bridge_client.redis_url.connect`, or a client of redis-py, which
            ``aclose`` leaves open.
        requests: the list that the bridge reads.
        task_response: begins the channel of one task's reply.
        task_stream: begins the channel of one task's events.
        control: the list from which the bridge takes interrupts.
    """

    def __init__(
        self,
        redis: str | RedisClient = "redis://localhost:6379/0",
        *,
        requests: str = "letta_requests",
        task_response: str = "task_response:",
        task_stream: str = "task_stream:",
        control: str = "letta_control",
    ) -> None:
        self._owned = isinstance(redis, str)
        self._closed = False
        self._calls: set[asyncio.Task[Any]] = set()
        self._client = connect(redis) if isinstance(redis, str) else redis
        self._requests = requests
        self._task_response = task_response
        self._task_stream = task_stream
        self._control = control
        self._outage = Outage()
        self._pusher = Pusher(self._client, requests, self._outage)
        self._interrupts = Pusher(self._client, control, self._outage)
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
        await self._interrupts.close()
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
        call = Call(task.user_id, task.task_id, task)
        return answer(await self._within(call, timeout, self._ask(call, task)))

    def stream(
        self,
        user: str | int,
        text: str,
        *,
        deltas: bool = False,
        timeout: float = DEFAULT_TIMEOUT_SECONDS,
        **options: Unpack[TaskOptions],
    ) -> ReplyStream:
        """Send a user's message and get the answer in parts, while the agent speaks.

        Each event comes once and in order, whatever connections are lost and bridges killed on the way. Also a reply
        that was not streamed, or no longer is kept in parts, comes as one sentence.

        Args:
            user: the user's id; decides whose memory it is.
            text: the message.
            deltas: also the text as the model writes it.
            timeout: seconds until the reply is complete.
            options: see :class:`~letta_bridge_client.task.TaskOptions`.

        Returns:
            An iterator of events that ends with ``End``, or raises what :meth:`ask` raises; also a context.

        Raises:
            ValueError: an argument is none.
        """
        options["meta"] = {**(options.get("meta") or {}), "stream": True, **({"deltas": True} if deltas else {})}
        task = Task.of(user, text, **options)
        return self._streamed(Call(task.user_id, task.task_id, task), Progress(), timeout)

    def resume_stream(
        self, task_id: str, user: str | int, *, after: int = -1, timeout: float = DEFAULT_TIMEOUT_SECONDS
    ) -> ReplyStream:
        """The events of a task that was sent earlier, also by another process; see :meth:`stream`.

        Args:
            task_id: the task's id.
            user: whose task it is.
            after: ``seq`` of the last event that was handled; -1 for all. If the events are no longer kept (15 minutes
                unless configured otherwise), only ``End`` comes.
            timeout: seconds until the reply is complete.
        """
        call = Call(identifier("user", user), identifier("task_id", task_id), awaits_redis=False)
        return self._streamed(call, Progress(after), timeout)

    async def interrupt(
        self,
        user: str | int,
        task_id: str | None = None,
        *,
        heard: Heard | str | None = None,
        timeout: float = DEFAULT_TIMEOUT_SECONDS,
    ) -> None:
        """Break off a reply: no more of it is published, and with the next message the agent learns what was heard.

        Returns as soon as Redis has it. The call that waits for the reply gets one with the status ``interrupted``,
        unless it was complete before.

        Args:
            user: whose reply.
            task_id: of the reply; None for the one that is being answered.
            heard: the last event that was played (:class:`Heard`), or the beginning of the reply that was heard; None
                if that is not known.
            timeout: seconds for the whole call.

        Raises:
            RedisUnavailable: Redis did not take it in time, or refuses it. Not ``retryable`` without a task id: the
                second one could break off the next reply.
            ValueError: an argument is none.
            RuntimeError: the client was closed.
        """
        call = InterruptCall(identifier("user", user), "" if task_id is None else identifier("task_id", task_id))
        message = interrupt_message(call.user_id, call.task_id, heard)
        await self._within(call, timeout, self._interrupts.push(message) if call.task_id else self._once(message))

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
        call = Call(task.user_id, task.task_id, task)
        await self._within(call, timeout, self._pusher.push(task.payload))
        return task.task_id

    async def result(self, task_id: str, user: str | int, *, timeout: float = DEFAULT_TIMEOUT_SECONDS) -> Reply | None:
        """The reply to a task, if there is one by now; kept for an hour unless configured otherwise.

        Raises:
            TaskFailed: the reply is an error.
            RedisUnavailable: Redis does not answer in time, or refuses.
        """
        call = Call(identifier("user", user), identifier("task_id", task_id))
        kept = await self._within(call, timeout, self._kept(call))
        return answer(Reply.of(kept)) if kept else None

    async def resume(self, task_id: str, user: str | int, *, timeout: float = DEFAULT_TIMEOUT_SECONDS) -> Reply:
        """Wait for the reply to a task that was sent earlier, also by another process; see :meth:`ask`."""
        call = Call(identifier("user", user), identifier("task_id", task_id), awaits_redis=False)
        return answer(await self._within(call, timeout, self._resume(call)))

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

    async def _ask(self, call: Call, task: Task) -> Reply:
        async with self._listener.watch(self._task_response + call.task_id) as watch:
            call.before = await self._kept(call) if task.is_named else {}
            if (reply := call.outcome(call.before)) is not None:
                return reply
            await self._pusher.push(task.payload)
            call.awaits_redis = False
            return await self._wait(call, watch)

    async def _resume(self, call: Call) -> Reply:
        async with self._listener.watch(self._task_response + call.task_id) as watch:
            kept = await self._kept(call)
            return Reply.of(kept) if kept else await self._wait(call, watch)

    def _streamed(self, call: Call, progress: Progress, timeout: float) -> ReplyStream:
        async def follow(put: Callable[[Event], None]) -> None:
            await self._within(call, timeout, self._follow(call, progress, put))

        async def interrupt(heard: Heard | str | None) -> None:
            await self.interrupt(call.user_id, call.task_id, heard=heard)

        return ReplyStream(call.user_id, call.task_id, follow, interrupt)

    async def _follow(self, call: Call, progress: Progress, put: Callable[[Event], None]) -> None:
        stream = self._task_stream + call.task_id
        follower = Follower(call, progress, put, kept=self._kept, events=self._events, push=self._pusher.push)
        async with self._listener.watch(stream, self._task_response + call.task_id) as watch:
            await follower.follow(watch, stream)

    async def _events(self, call: Call, first: int) -> list[dict[str, Any]]:
        """The kept events of a task from a number on, oldest first."""
        key, events = stream_key(self._requests, call.user_id, call.task_id), list[dict[str, Any]]()
        while True:
            page: Any = await self._outage.outlast(partial(self._client.xrange, key, f"{first}-0", "+", _PAGE))
            for entry, fields in page:
                first = int(text_of(entry).partition("-")[0]) + 1
                events.append(json_object({text_of(name): value for name, value in fields.items()}.get("event")))
            if len(page) < _PAGE:
                return events

    async def _once(self, message: bytes) -> None:
        """Push an interrupt of whatever is being answered, which must not be repeated."""
        try:
            await self._client.lpush(self._control, message)
        except ERRORS as error:
            if not passes(error):
                raise RedisUnavailable(refused(error), retryable=False) from error
            raise RedisUnavailable(
                f"Redis did not confirm the interrupt ({error}); it is not repeated, because without a task id it "
                "could break off the next reply",
                retryable=False,
            ) from error

    async def _kept(self, call: Call) -> dict[str, Any]:
        """The kept reply's JSON object; empty if there is none."""
        key = reply_key(self._requests, call.user_id, call.task_id)
        return json_object(await self._outage.outlast(lambda: self._client.get(key)))

    async def _wait(self, call: Call, watch: Watch) -> Reply:
        looks = Looks()
        while True:
            said = await watch.next(looks.seconds)
            kept = await self._kept(call)
            if (reply := call.outcome(kept)) is not None:
                return reply
            if isinstance(said, Publication):
                if (reply := call.unkept(json_object(said.data))) is not None:
                    return reply
                looks.soon()
                continue
            if isinstance(said, Gap) and call.task is not None:
                # Redis may have lost the task with its last writes. If it has not, the second one is answered with the
                # reply to the first.
                await self._pusher.push(call.task.payload)
            looks.later()

    async def _within(self, call: Call, seconds: float, work: Coroutine[Any, Any, _Result]) -> _Result:
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
                f"Redis did not answer within {seconds:g} s{says}; {call.remedy}",
                call.task_id,
                retryable=bool(call.task_id),
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
