"""The fallback: hands a turn over to memory-python and waits for its answer.

The bridge gives the task an id of its own, because two users may use the same producer's id, and programs of other
projects answer on ``task_response:`` plus the id that they received. Only the bridge listens on that channel, and it
publishes the answer under the producer's id.

One key decides who answers: memory-python SETs its answer there with NX and publishes only if that succeeded; at the
timeout, the bridge SETs a tombstone with NX. So a late answer is never published after an error reply. A memory-python
of another project does not use that key; the first text on the channel is its answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

from pydantic_core import to_json
from redis.asyncio.cluster import RedisCluster
from redis.exceptions import ResponseError

from letta_bridge.errors import FallbackUnavailable
from letta_bridge.request_queue.keys import Keys
from letta_bridge.settings import FallbackSettings, QueueSettings
from letta_bridge.turn.answer_relay import AnswerRelay, under
from letta_bridge.turn.channel_listener import ChannelListener, Subscription
from shared_utils.contracts.limits import MAX_ANSWER_TTL
from shared_utils.contracts.messages import (
    HANDOVER_KEY,
    AnswerPart,
    Handover,
    Reply,
    Task,
    TaskResponse,
    dump,
    json_object,
)
from shared_utils.llm.model_text import text_for_user
from shared_utils.observability import logs
from shared_utils.redis.connection import RedisClient, close, retry_until_available
from shared_utils.redis.failures import explain
from shared_utils.text import read_json

_log = logs.get("letta_bridge.fallback")
_TOMBSTONE: Final = b'{"abandoned":true}'
_HANDED_BEFORE: Final = b"1"
"""The mark of a handover by a release that handed tasks over under the producer's id."""
_HANDED_IDS: Final = uuid.UUID("6d0f3c0a-6a2e-4c58-9a53-0c8b7f1f5a11")
_POLL_SECONDS: Final = 1.0
"""Interval of reading the key, in case a publication was lost with a connection."""
_ANSWERING_SHARE: Final = 0.9
"""Part of the wait in which memory-python answers; the rest is for the ways there and back."""
_MAX_EARLY: Final = 100
"""Maximum number of messages kept from before the text."""
_OWN_SOURCES: Final = frozenset({"letta", "letta_bridge", "memory-python"})
"""Sources on a producer's channel that are not a foreign answer to this turn."""


@dataclass(frozen=True, slots=True)
class FallbackAnswer:
    """memory-python's answer."""

    text: str
    reply: bytes | None
    """The reply that it has published already; None if it has not."""
    response: bytes | None = None
    """The message still to be published on the producer's channel; None if it was published."""
    canned: bool = False
    """A canned sentence, which no memory keeps."""

    def as_canned(self) -> FallbackAnswer:
        """The same answer, marked as canned in its reply."""
        if self.canned:
            return self
        reply = None if self.reply is None else self.reply.rstrip()[:-1] + b',"canned":true}'
        return replace(self, reply=reply, canned=True)


class Fallback(Protocol):
    """The service that answers when Letta does not."""

    async def answer(
        self,
        task: Task,
        number: str,
        reason: str,
        *,
        seconds: float,
        cause: str | None = None,
        persona: str | None = None,
        hear: Callable[[AnswerPart], object] | None = None,
    ) -> FallbackAnswer:
        """Hand the task over, unless that was done before, and wait for the answer.

        Args:
            task: with its task id and content.
            number: the task's unique number, ``<seq>-<first_ms>``; the same task id pushed again has another.
            reason: why, for the reply and the log.
            seconds: how long the user can still wait.
            cause: the failure, for the reply; one of a few words.
            persona: whose agent would have answered.
            hear: is called with the parts of the answer that arrive before it; some may be missing.

        Raises:
            FallbackUnavailable: no answer came in time, and none is accepted any more.
        """
        ...

    async def was_handed_over(self, number: str) -> bool:
        """Whether a bridge has handed this task over already."""
        ...

    async def withdraw(self, task: Task, number: str) -> FallbackAnswer | None:
        """Forbid further answers to a task that was handed over; returns the answer, if one exists.

        Raises:
            FallbackUnavailable: Redis refuses the commands.
        """
        ...


@dataclass(slots=True)
class _Wait:
    """One turn that waits for its answer."""

    task: Task
    number: str
    handed_id: str
    """The task id under which it was handed over."""
    hear: Callable[[AnswerPart], object] | None = None
    hand_over: Callable[[], Awaitable[None]] = field(init=False)
    """Does nothing while Redis knows that the task was handed over."""
    reported: bool = False
    """An answer that cannot be used was logged."""

    @property
    def renamed(self) -> bool:
        return self.handed_id != self.task.task_id

    def report(self) -> bool:
        """Whether the unusable value under the answer's key must still be logged."""
        first, self.reported = not self.reported, True
        return first


class MemoryPython:
    """The fallback over Redis."""

    def __init__(
        self,
        client: RedisClient,
        listener: RedisClient,
        keys: Keys,
        settings: FallbackSettings,
        queue: QueueSettings,
        *,
        tenant: str = "",
    ) -> None:
        self._client = client
        self._listener = ChannelListener(listener, queue.requests, queue.task_response)
        self._keys = keys
        self._settings = settings
        self._queue = queue
        self._tenant = tenant
        self._ttl = min(MAX_ANSWER_TTL, int(max(queue.reply_ttl_seconds, settings.timeout_seconds * 4)))
        self._relay = AnswerRelay(client)

    async def was_handed_over(self, number: str) -> bool:
        """See :class:`Fallback`."""
        key = self._keys.handed(number)
        return bool(await retry_until_available(lambda: self._client.exists(key)))

    async def withdraw(self, task: Task, number: str) -> FallbackAnswer | None:
        """See :class:`Fallback`."""
        with _refusals():
            if not await self.was_handed_over(number) or await self._claim(number):
                return None
            return await self._look(_Wait(task, number, await self._handed_id(task, number)))

    async def answer(
        self,
        task: Task,
        number: str,
        reason: str,
        *,
        seconds: float,
        cause: str | None = None,
        persona: str | None = None,
        hear: Callable[[AnswerPart], object] | None = None,
    ) -> FallbackAnswer:
        """See :class:`Fallback`. memory-python has at most the configured time, however long the user can wait."""
        with _refusals():
            seconds = min(seconds, self._settings.timeout_seconds)
            wait = _Wait(task, number, await self._handed_id(task, number), hear)
            wait.hand_over = lambda: self._hand_over(wait, reason, seconds, cause, persona)
            return await self._answer(wait, seconds)

    async def _answer(self, wait: _Wait, seconds: float) -> FallbackAnswer:
        async with AsyncExitStack() as held:
            subscription = await self._listener.subscribe(self._queue.task_response + wait.handed_id, wait.number)
            held.push_async_callback(subscription.close)
            await retry_until_available(wait.hand_over)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    return await self._awaited(wait, subscription, held)
            if not await self._claim(wait.number) and (answer := await self._look(wait)) is not None:
                return answer
        raise FallbackUnavailable(f"memory-python gave no answer within {seconds:.3g} s; is it running?")

    def reload(self, settings: FallbackSettings) -> None:
        """Apply a changed timeout."""
        self._settings = settings

    async def close(self) -> None:
        """Stop listening, and release connections."""
        await self._relay.close()
        await self._listener.close()
        await close(self._client)

    async def _handed_id(self, task: Task, number: str) -> str:
        """The id of the hand-over, by this bridge or an earlier one."""
        mark = await retry_until_available(lambda: self._client.get(self._keys.handed(number)))
        if mark == _HANDED_BEFORE:
            return task.task_id
        # Made from the number, so that a bridge that takes the turn over waits on the same channel.
        return (
            mark.decode()
            if isinstance(mark, bytes)
            else str(uuid.uuid5(_HANDED_IDS, f"{self._queue.requests} {number}"))
        )

    async def _hand_over(
        self, wait: _Wait, reason: str, seconds: float, cause: str | None, persona: str | None
    ) -> None:
        task, handed = wait.task, self._keys.handed(wait.number)
        if await self._client.exists(handed):
            return
        handover = Handover(
            version=2 if self._tenant else 1,
            tenant=self._tenant or None,
            answer_key=self._keys.fallback(wait.number),
            answer_ttl=self._ttl,
            responses_channel=self._queue.responses,
            reason=reason,
            cause=cause,
            persona=persona,
            task_id=task.task_id,
            response_channel=self._queue.task_response + task.task_id,
            taken_ms=int(wait.number.rpartition("-")[2]),
            parts_channel=self._queue.task_response + wait.handed_id if wait.hear is not None else None,
            time_limit_seconds=seconds * _ANSWERING_SHARE,
        )
        content = task.model_dump(exclude_none=True) | {"task_id": wait.handed_id}
        content["meta"] = {**content.get("meta", {}), HANDOVER_KEY: handover.model_dump(exclude_none=True)}
        # One transaction, so that a kill leaves both or neither. On a Cluster the two keys lie in different slots:
        # there a kill in between hands the task over twice, which this project's memory-python recognises.
        pipeline = self._client.pipeline(transaction=not isinstance(self._client, RedisCluster))
        pipeline.lpush(self._settings.queue, to_json(content, inf_nan_mode="null"))
        pipeline.set(handed, wait.handed_id, ex=self._ttl)
        await pipeline.execute()

    async def _awaited(self, wait: _Wait, subscription: Subscription, held: AsyncExitStack) -> FallbackAnswer:
        early: list[bytes] = []
        while True:
            if (answer := await self._look(wait)) is not None:
                return answer
            try:
                async with asyncio.timeout(_POLL_SECONDS):
                    message = await subscription.messages.get()
            except TimeoutError:
                await retry_until_available(wait.hand_over)  # if Redis has lost it meanwhile
                continue
            if wait.hear is not None and (part := _part(message)) is not None:
                wait.hear(part)
                continue
            text = None if subscription.ambiguous else _foreign_text(message, renamed=wait.renamed)
            if text is None:
                early = [*early, message][-_MAX_EARLY:]
            elif await self._claim(wait.number):
                if not wait.renamed:  # the producer received it, too
                    return FallbackAnswer(text, None)
                ids = (wait.task.task_id, wait.handed_id)
                channel = self._queue.task_response + wait.task.task_id
                seconds = self._settings.timeout_seconds
                self._relay.begin(held.pop_all(), subscription, early=early, channel=channel, ids=ids, seconds=seconds)
                return FallbackAnswer(text, None, under(*ids, message))

    async def _claim(self, number: str) -> bool:
        """Forbid memory-python to answer; False if it has answered already."""
        key = self._keys.fallback(number)
        return bool(await retry_until_available(lambda: self._client.set(key, _TOMBSTONE, nx=True, ex=self._ttl)))

    async def _look(self, wait: _Wait) -> FallbackAnswer | None:
        kept = await retry_until_available(lambda: self._client.get(self._keys.fallback(wait.number)))
        if not isinstance(kept, bytes) or kept == _TOMBSTONE:
            return None
        try:
            reply = Reply.model_validate(read_json(kept))
        except ValueError:
            if wait.report():
                _log.error("fallback_answer_unreadable", number=wait.number)
            return None
        if reply.user_id != wait.task.user_id or reply.task_id not in {wait.task.task_id, wait.handed_id}:
            if wait.report():
                _log.error("fallback_answer_of_another_task", number=wait.number)
            return None
        canned = bool(reply.canned)
        if reply.task_id != wait.task.task_id:  # a memory-python that reads only the id of the hand-over
            response = TaskResponse(text=reply.response_text, source=reply.source, canned=reply.canned)
            return FallbackAnswer(reply.response_text, None, dump(response), canned=canned)
        return FallbackAnswer(reply.response_text, kept, canned=canned)


@contextlib.contextmanager
def _refusals() -> Iterator[None]:
    """Raise FallbackUnavailable if Redis refuses a command."""
    try:
        yield
    except ResponseError as error:
        raise FallbackUnavailable(f"memory-python cannot be asked: {explain(error)}") from error


def _part(message: bytes) -> AnswerPart | None:
    if b'"part"' not in message:
        return None
    try:
        return AnswerPart.model_validate(json_object(message))
    except ValueError:
        return None


def _foreign_text(message: bytes, *, renamed: bool) -> str | None:
    """The text of a foreign answer. On the bridge's own channel (``renamed``), any text is one."""
    content = json_object(message)
    if content.get("error") or (not renamed and content.get("source") in _OWN_SOURCES):
        return None
    text = content.get("text")
    text = text_for_user(text) if isinstance(text, str) else ""
    return text if text.strip() else None
