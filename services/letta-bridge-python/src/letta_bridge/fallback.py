"""memory-python as the bridge uses it: a turn is handed over, and its answer waited for.

One key decides whose word counts: memory-python SETs its answer there with NX and publishes only if that succeeded;
the bridge, when it gives up, SETs a tombstone with NX. So a late answer is never published after an error reply.
Somebody else's memory-python knows nothing of that key; its chat AI answers on ``task_response:{task_id}``, which is
listened to as well.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import defaultdict
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Final, Protocol

from pydantic import ValidationError
from pydantic_core import to_json
from redis.asyncio.cluster import RedisCluster

from letta_bridge.errors import FallbackUnavailable
from letta_bridge.request_queue.keys import Keys
from letta_bridge.settings import FallbackSettings, QueueSettings
from shared_utils import logs
from shared_utils.messages import HANDOVER_KEY, Handover, Reply, Task
from shared_utils.redis_connection import CONNECTION_ERRORS, RedisClient, close, persistently

_log = logs.get(__name__)
_TOMBSTONE: Final = b'{"abandoned":true}'
_POLL_SECONDS: Final = 1.0
"""A publication lost with a connection is made up for by looking at the key this often."""
_OWN_SOURCES: Final = frozenset({"letta", "letta_bridge", "memory-python"})
"""Who publishes on task_response without being somebody else's answer to this turn."""

_LISTEN_ERRORS: Final[tuple[type[Exception], ...]] = (*CONNECTION_ERRORS, RuntimeError)
"""RuntimeError is what redis-py raises where the connection was given up at that moment."""


@dataclass(frozen=True, slots=True)
class FallbackAnswer:
    """What memory-python said."""

    text: str
    reply: bytes | None
    """The reply it has published already; None where somebody else's chat AI answered and nobody published one."""
    canned: bool = False
    """A plain configured sentence, which no model said: nobody's answer, and remembered by nobody."""

    def as_canned(self) -> FallbackAnswer:
        """The same, and its reply says so."""
        if self.canned:
            return self
        reply = None if self.reply is None else self.reply.rstrip()[:-1] + b',"canned":true}'
        return FallbackAnswer(self.text, reply, canned=True)


class Fallback(Protocol):
    """Who answers when Letta does not."""

    async def answer(
        self, task: Task, number: str, reason: str, *, cause: str | None = None, persona: str | None = None
    ) -> FallbackAnswer:
        """Hand the task over and wait for the answer. A task handed over before is only waited for.

        Args:
            task: with its task id and content.
            number: names this task for ever; the same producer's task id pushed again has another.
            reason: why, for the reply and the log.
            cause: what exactly failed, for the reply; one of few words.
            persona: who would have answered.

        Raises:
            FallbackUnavailable: nobody answered in time, and nobody will any more.
        """
        ...

    async def was_handed_over(self, number: str) -> bool:
        """Whether a bridge has handed this task over already."""
        ...


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
        self._listener = _Listener(listener, queue.task_response)
        self._keys = keys
        self._settings = settings
        self._queue = queue
        self._tenant = tenant
        self._ttl = int(max(queue.reply_ttl, settings.timeout * 4))

    async def was_handed_over(self, number: str) -> bool:
        """See :class:`Fallback`."""
        key = self._keys.handed(number)
        return bool(await persistently(lambda: self._client.exists(key)))

    async def answer(
        self, task: Task, number: str, reason: str, *, cause: str | None = None, persona: str | None = None
    ) -> FallbackAnswer:
        """See :class:`Fallback`."""
        answer_key = self._keys.fallback(number)
        channel = self._queue.task_response + task.task_id
        async with self._listener.subscribed(channel) as messages:
            await persistently(lambda: self._hand_over(task, number, reason, cause, persona))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._settings.timeout):
                    return await self._awaited(answer_key, messages)
        if not await self._claim(answer_key) and (answer := await self._look(answer_key)) is not None:
            return answer
        raise FallbackUnavailable(f"memory-python gave no answer within {self._settings.timeout:g} s; is it running?")

    def reload(self, settings: FallbackSettings) -> None:
        """Take over the time an answer may take."""
        self._settings = settings

    async def close(self) -> None:
        """Stop listening, and give back connections."""
        await self._listener.close()
        await close(self._client)

    async def _hand_over(
        self, task: Task, number: str, reason: str, cause: str | None = None, persona: str | None = None
    ) -> None:
        handed, answer_key = self._keys.handed(number), self._keys.fallback(number)
        if await self._client.exists(handed):
            return
        handover = Handover(
            version=2 if self._tenant else 1,
            tenant=self._tenant or None,
            answer_key=answer_key,
            answer_ttl=self._ttl,
            responses_channel=self._queue.responses,
            reason=reason,
            cause=cause,
            persona=persona,
        )
        content = task.model_dump(exclude_none=True)
        content["meta"] = {**content.get("meta", {}), HANDOVER_KEY: handover.model_dump(exclude_none=True)}
        # One transaction, so that a kill leaves both or neither. On a Cluster the two keys lie in different slots:
        # there a kill in between hands the task over twice, which this project's memory-python recognises.
        pipeline = self._client.pipeline(transaction=not isinstance(self._client, RedisCluster))
        pipeline.lpush(self._settings.queue, to_json(content, inf_nan_mode="null"))
        pipeline.set(handed, 1, ex=self._ttl)
        await pipeline.execute()

    async def _awaited(self, answer_key: str, messages: asyncio.Queue[bytes]) -> FallbackAnswer:
        while True:
            if (answer := await self._look(answer_key)) is not None:
                return answer
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_POLL_SECONDS):
                    text = _foreign_text(await messages.get())
                    if text is not None and await self._claim(answer_key):
                        return FallbackAnswer(text, None)

    async def _claim(self, answer_key: str) -> bool:
        """Forbid memory-python to answer; False where it has answered already."""
        return bool(await persistently(lambda: self._client.set(answer_key, _TOMBSTONE, nx=True, ex=self._ttl)))

    async def _look(self, answer_key: str) -> FallbackAnswer | None:
        kept = await persistently(lambda: self._client.get(answer_key))
        if not isinstance(kept, bytes) or kept == _TOMBSTONE:
            return None
        try:
            reply = Reply.model_validate_json(kept)
        except ValidationError:
            _log.error("fallback_answer_unreadable", key=answer_key)
            return None
        return FallbackAnswer(reply.response_text, kept, canned=bool(reply.canned))


def _foreign_text(message: bytes) -> str | None:
    try:
        content: Any = json.loads(message)
    except ValueError:
        return None
    if not isinstance(content, dict) or content.get("source") in _OWN_SOURCES or content.get("error"):
        return None
    text = content.get("text")
    return text if isinstance(text, str) and text.strip() else None


class _Listener:
    """Subscriptions that come and go on one connection, and survive its loss.

    Args:
        client: of its own.
        silent: a channel nobody publishes on. It is always subscribed to: without any, redis-py asks before a
            subscription whether the connection is well, and reads that answer beside whoever listens.
    """

    def __init__(self, client: RedisClient, silent: str) -> None:
        self._client = client
        self._silent = silent
        self._pubsub: Any = None
        self._waiting: dict[str, list[asyncio.Queue[bytes]]] = defaultdict(list)
        self._task: asyncio.Task[None] | None = None
        self._connecting = asyncio.Lock()
        self._closing = False

    @contextlib.asynccontextmanager
    async def subscribed(self, channel: str) -> AsyncIterator[asyncio.Queue[bytes]]:
        """The messages of ``channel`` from now on."""
        messages: asyncio.Queue[bytes] = asyncio.Queue()
        self._waiting[channel].append(messages)
        try:
            await self._connect()
            await persistently(lambda: self._pubsub.subscribe(channel))
            if self._task is None:
                self._task = asyncio.create_task(self._listen(), name="fallback-listener")
            yield messages
        finally:
            self._waiting[channel].remove(messages)
            if not self._waiting[channel]:
                del self._waiting[channel]
                with contextlib.suppress(*CONNECTION_ERRORS):
                    if self._pubsub is not None:
                        await self._pubsub.unsubscribe(channel)

    async def _connect(self) -> None:
        async with self._connecting:
            if self._pubsub is None:
                # A Cluster client knows its nodes only after a command.
                await persistently(self._client.ping)
                pubsub = self._client.pubsub(ignore_subscribe_messages=True)
                await persistently(lambda: pubsub.subscribe(self._silent))
                self._pubsub = pubsub

    async def close(self) -> None:
        self._closing = True
        if self._task is not None:
            # Not cancelled: redis-py now and then swallows that. It looks up once a second.
            await self._task
        if self._pubsub is not None:
            with contextlib.suppress(*CONNECTION_ERRORS):
                await self._pubsub.aclose()
        await close(self._client)

    async def _listen(self) -> None:
        while not self._closing:
            try:
                message = await self._pubsub.get_message(timeout=_POLL_SECONDS)
            except _LISTEN_ERRORS:
                await asyncio.sleep(_POLL_SECONDS / 5)
                continue
            if message is None:
                continue
            for queue in self._waiting.get(message["channel"].decode(), []):
                queue.put_nowait(message["data"])
