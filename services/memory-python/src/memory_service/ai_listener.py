"""What the chat AI says on ``ai_responses`` is remembered too, once, however many instances hear it."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Final

from pydantic import ValidationError

from memory_service import records
from memory_service.input_queue import InputQueue, Letter, Settlement
from memory_service.keys import AI_RESPONSES
from memory_service.memory_store import MemoryStore
from memory_service.outage import Outage
from memory_service.summary import Summaries
from shared_utils import logs
from shared_utils.errors import MalformedMessage
from shared_utils.messages import AiResponse, Limits
from shared_utils.redis_connection import CONNECTION_ERRORS, RedisClient

_LOG: Final = logs.get(__name__)
_LIMITS: Final = Limits()
_POLL_SECONDS: Final = 0.5


class AiListener:
    """Subscribes, and subscribes again after every outage. What is said while Redis is away is lost to pub/sub."""

    def __init__(
        self,
        client: RedisClient,
        store: MemoryStore,
        queue: InputQueue,
        summaries: Summaries | None,
        outage: Outage,
        *,
        plain_sentences: Collection[str] = (),
    ) -> None:
        self._client = client
        self._store = store
        self._queue = queue
        self._summaries = summaries
        self._outage = outage
        self._plain_sentences = plain_sentences
        self.listening = asyncio.Event()
        """Set once subscribed."""

    async def run(self, stopping: asyncio.Event) -> None:
        """Listen until ``stopping`` is set."""
        while not stopping.is_set():
            try:
                await self._listen(stopping)
            except CONNECTION_ERRORS as error:
                await self._outage.wait("ai_responses", error)

    async def _listen(self, stopping: asyncio.Event) -> None:
        await self._client.ping()  # a Cluster client must have met its nodes before it can subscribe
        async with self._client.pubsub(ignore_subscribe_messages=True) as channel:
            await channel.subscribe(AI_RESPONSES)
            self._outage.over("ai_responses")
            self.listening.set()
            while not stopping.is_set():
                message = await channel.get_message(timeout=_POLL_SECONDS)
                if message is not None:
                    await self._hear(message["data"], stopping)

    async def _hear(self, payload: bytes, stopping: asyncio.Event) -> None:
        while not stopping.is_set():
            try:
                await self._remember(payload)
            except CONNECTION_ERRORS as error:
                await self._outage.wait("ai_responses", error)
            else:
                return

    async def _remember(self, payload: bytes) -> None:
        try:
            response = _read(payload)
        except MalformedMessage as error:
            _LOG.warning("ai_response_malformed", reason=str(error))
            await self._queue.settle(Settlement(letters=[Letter(payload, error.code, str(error), origin=AI_RESPONSES)]))
            return
        if response.text in self._plain_sentences:
            return  # an instance of an earlier release said it, without any model
        (remembered,) = await self._store.remember([records.of_ai_response(response)])
        if remembered.stored:
            await self._queue.settle(Settlement(counts={"stored_ai": 1}))
        if self._summaries is not None:
            self._summaries.consider(response.user_id, remembered.length)


def _read(payload: bytes) -> AiResponse:
    if len(payload) > _LIMITS.payload_bytes:
        raise MalformedMessage(f"the answer has {len(payload)} bytes, {_LIMITS.payload_bytes} are allowed")
    try:
        response = AiResponse.model_validate_json(payload)
    except ValidationError as error:
        problem = error.errors(include_input=False, include_url=False, include_context=False)[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise MalformedMessage(f"the answer cannot be read: {where} {problem['msg']}") from None
    if len(response.user_id) > _LIMITS.id_length:
        raise MalformedMessage(f"user_id has {len(response.user_id)} characters, {_LIMITS.id_length} are allowed")
    if not response.text.strip():
        raise MalformedMessage("the answer has no text")
    return response
