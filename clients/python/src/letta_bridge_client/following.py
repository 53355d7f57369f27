"""Follows one task's stream: what is published, and what was kept while nobody listened."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Final

from letta_bridge_client.call import Call, answer
from letta_bridge_client.events import LAST_EVENTS, End, Event, event_of, sequence_of
from letta_bridge_client.listener import Gap, Publication, Watch
from letta_bridge_client.progress import Progress, beginning, error_of
from letta_bridge_client.reply import Reply, json_object

_SOON_SECONDS: Final = 0.005
_FIRST_LOOK_SECONDS: Final = 1.0
_LONGEST_LOOK_SECONDS: Final = 5.0
"""Between two looks for what is kept, where nothing was published."""
_REUSED: Final = "task_id_reused"


class Looks:
    """How long to wait for a publication before what is kept is looked at."""

    def __init__(self) -> None:
        self.seconds = _FIRST_LOOK_SECONDS

    def soon(self) -> None:
        """memory-python answers a moment before the bridge keeps the reply."""
        self.seconds = _SOON_SECONDS

    def later(self) -> None:
        """Nothing has come."""
        self.seconds = min(2 * self.seconds, _LONGEST_LOOK_SECONDS)


class Follower:
    """One call that follows its task's stream.

    Args:
        call: the call.
        progress: how far the caller is.
        put: receives the events.
        kept: reads the kept reply; empty if there is none.
        events: reads the kept events from a number on.
        push: pushes the call's task.
    """

    def __init__(
        self,
        call: Call,
        progress: Progress,
        put: Callable[[Event], None],
        *,
        kept: Callable[[Call], Awaitable[dict[str, Any]]],
        events: Callable[[Call, int], Awaitable[list[dict[str, Any]]]],
        push: Callable[[bytes], Awaitable[None]],
    ) -> None:
        self._call = call
        self._progress = progress
        self._put = put
        self._kept = kept
        self._events = events
        self._push = push

    async def follow(self, watch: Watch, stream: str) -> None:
        """Put events until the stream ends; ``stream`` is its channel, one of those that are watched.

        Raises:
            TaskFailed: the stream ends with an error.
            RedisUnavailable: Redis refuses to be read.
        """
        call, looks = self._call, Looks()
        if call.may_have_past and await self._begin():
            return
        await self._push_task()
        call.awaits_redis = False
        while True:
            said = await watch.next(looks.seconds)
            if isinstance(said, Publication) and said.channel == stream:
                if await self._take_published(json_object(said.data)):
                    return
                continue
            if await self._look():
                return
            if isinstance(said, Publication):
                if (reply := call.unkept(json_object(said.data))) is not None:
                    answer(reply)
                looks.soon()
                continue
            if isinstance(said, Gap):
                # Redis may have lost the task with its last writes. If it has not, the second one is answered with the
                # reply to the first.
                await self._push_task()
            looks.later()

    async def _push_task(self) -> None:
        if self._call.task is not None:
            await self._push(self._call.task.payload)

    async def _begin(self) -> bool:
        """Take what is kept when the call begins; True if the task is answered."""
        call = self._call
        call.before = await self._kept(call)
        reply = call.outcome(call.before)
        events = await self._events(call, 0)
        self._progress.skip_to(beginning(events, is_new=reply is None and call.task is not None))
        if await self._take_all(events):
            return True
        if reply is not None:
            self._end(reply)
        return reply is not None

    async def _look(self) -> bool:
        """Take what is kept by now; True if the stream is over."""
        reply = self._call.outcome(await self._kept(self._call))
        # The last event is kept together with the reply, so it is among these if there is one.
        if await self._take_all(await self._events(self._call, self._progress.next_seq)):
            return True
        if reply is not None:
            self._end(reply)
        return reply is not None

    async def _take_published(self, content: Mapping[str, Any]) -> bool:
        if content.get("user_id") != self._call.user_id:
            return False  # another user has a task with this id
        seq = sequence_of(content)
        if seq is not None and self._progress.lacks(seq):
            missed = await self._events(self._call, self._progress.next_seq)
            if await self._take_all(missed):
                return True
        return await self._take(content)

    async def _take_all(self, events: Iterable[Mapping[str, Any]]) -> bool:
        for content in events:
            if await self._take(content):
                return True
        return False

    async def _take(self, content: Mapping[str, Any]) -> bool:
        """Take an event of this user's task; True if the stream is over."""
        if content.get("type") in LAST_EVENTS:
            return await self._take_last(content)
        for event in self._progress.take(content):
            self._put(event)
        return False

    async def _take_last(self, content: Mapping[str, Any]) -> bool:
        call, seq, event = self._call, sequence_of(content), event_of(content)
        if seq is not None and seq < self._progress.next_seq:
            return await self._look_at_reply()
        reply = event.reply if isinstance(event, End) else error_of(content)
        if call.may_have_past:
            kept = await self._kept(call)
            if (of_call := call.outcome(kept)) is not None:
                reply = of_call
            elif reply is not None and call.is_of_another(kept) and not _refuses(reply, seq):
                reply = None
        if reply is None:
            self._progress.skip_to(0 if seq is None else seq + 1)
            return False
        self._progress.skip_to(seq or 0)
        self._end(reply)
        return True

    async def _look_at_reply(self) -> bool:
        """For an event that was there before: of an earlier try, or Redis has lost what came after it."""
        reply = self._call.outcome(await self._kept(self._call))
        if reply is not None:
            self._end(reply)
        return reply is not None

    def _end(self, reply: Reply) -> None:
        for event in self._progress.end(answer(reply)):
            self._put(event)


def _refuses(reply: Reply, seq: int | None) -> bool:
    """Whether an error is the refusal of a task whose id another one had; it has no number then."""
    return not reply.ok and (seq is None or reply.code == _REUSED)
