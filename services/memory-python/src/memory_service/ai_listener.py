"""Remembers answers of the chat AI on ``ai_responses``, each once, however many instances receive it."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Final

from pydantic import ValidationError

from memory_service import records
from memory_service.input_queue import InputQueue, Letter, Settlement
from memory_service.keys import AI_RESPONSES, GLOBAL_CONTEXT
from memory_service.memory_store import MemoryStore
from memory_service.outage import Outage
from memory_service.summary import Summaries
from shared_utils.contracts.limits import MAX_ID_LENGTH, Limits
from shared_utils.contracts.messages import AiResponse
from shared_utils.errors import MalformedMessage
from shared_utils.observability import logs
from shared_utils.redis.connection import CONNECTION_ERRORS, RedisClient, subscriber
from shared_utils.text import read_json

_LOG: Final = logs.get(__name__)
_POLL_SECONDS: Final = 0.5


class AiListener:
    """Subscribes, and again after every outage. Pub/sub loses messages that are published while Redis is away."""

    def __init__(
        self,
        client: RedisClient,
        store: MemoryStore,
        queue: InputQueue,
        summaries: Summaries | None,
        outage: Outage,
        *,
        limits: Limits,
        plain_sentences: Collection[str] = (),
    ) -> None:
        self._client = client
        self._store = store
        self._queue = queue
        self._summaries = summaries
        self._outage = outage
        self._plain_sentences = plain_sentences
        self._limits = limits
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
        async with await subscriber(self._client, GLOBAL_CONTEXT) as channel:
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
            response = _read(payload, self._limits)
        except MalformedMessage as error:
            _LOG.warning("ai_response_malformed", reason=str(error))
            await self._queue.settle(Settlement(letters=[Letter(payload, error.code, str(error), origin=AI_RESPONSES)]))
            return
        if response.text in self._plain_sentences:
            return  # a canned sentence of an instance of an earlier release
        (remembered,) = await self._store.remember([records.of_ai_response(response)])
        if remembered.stored:
            await self._queue.settle(Settlement(counts={"stored_ai": 1}))
        if self._summaries is not None:
            self._summaries.consider(response.user_id, remembered.length)


def _read(payload: bytes, limits: Limits) -> AiResponse:
    if len(payload) > limits.payload_bytes:
        raise MalformedMessage(f"the answer has {len(payload)} bytes; the maximum is {limits.payload_bytes}")
    try:
        response = AiResponse.model_validate(read_json(payload))
    except ValidationError as error:
        problem = error.errors(include_input=False, include_url=False, include_context=False)[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise MalformedMessage(f"the answer cannot be read: {where} {problem['msg']}") from None
    except ValueError as error:
        raise MalformedMessage(f"the answer cannot be read: {error}") from None
    # The user of a task that was handed over is within the bridge's limit, which may be another than this service's.
    if len(response.user_id) > MAX_ID_LENGTH:
        raise MalformedMessage(f"user_id has {len(response.user_id)} characters; the maximum is {MAX_ID_LENGTH}")
    if not response.text.strip():
        raise MalformedMessage("the answer has no text")
    return response
