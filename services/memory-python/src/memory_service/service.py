"""Builds memory-python, runs it, and stops it in order."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Callable
from typing import Final

import httpx
from fastapi import FastAPI

from memory_service import wording
from memory_service.ai_listener import AiListener
from memory_service.answers import Answers
from memory_service.composer import Composer
from memory_service.consumer import Consumer
from memory_service.health import Health
from memory_service.input_queue import BLOCK_SECONDS, InputQueue
from memory_service.instance import instance_name
from memory_service.keys import QueueKeys
from memory_service.memory_store import MemoryStore
from memory_service.model import ChatModel, OpenAiModel
from memory_service.outage import Outage
from memory_service.recall import StoredRecall
from memory_service.settings import MemorySettings, ServiceSettings
from memory_service.summary import Summaries
from memory_service.upkeep import Upkeep
from shared_utils.config.reload import reread
from shared_utils.llm.embeddings import HttpEmbedder
from shared_utils.observability import health, logs
from shared_utils.persistence.vectors.memories import can_be_kept, embedder_of, open_memories
from shared_utils.redis.connection import CONNECTION_ERRORS, RedisClient, close, connect
from shared_utils.repeated_answers import SingleAnswerClient
from shared_utils.task_end import end

_LOG: Final = logs.get(__name__)
_NAME: Final = "memory-python"
_RELEASE_SECONDS: Final = 5.0


class Service:
    """One instance of memory-python."""

    def __init__(
        self,
        settings: ServiceSettings,
        client: RedisClient,
        blocking: RedisClient,
        web: httpx.AsyncClient,
        recall: StoredRecall | None = None,
    ) -> None:
        memory = settings.memory
        self._settings = memory
        self._keys = QueueKeys(memory.queue)
        self._stopping = asyncio.Event()
        instance = instance_name()
        outage = Outage(_LOG, self._stopping)
        self._store = MemoryStore(client, memory)
        self._queue = InputQueue(
            client,
            blocking,
            self._keys,
            instance=instance,
            lease=memory.lease_seconds,
            dead_limit=memory.max_dead_letters,
        )
        composer = Composer(
            self._store,
            memory.answer,
            window=memory.context_window,
            model=_model(web, memory, memory.answer.model),
            recall=recall,
        )
        self._answers = Answers(
            client, self._store, self._queue, composer, outage, time_limit=memory.answer.timeout_seconds
        )
        summariser = _model(web, memory, memory.summary.model or memory.answer.model)
        self._summaries = (
            Summaries(client, self._store, summariser, memory, self._keys.counters)
            if memory.summary.enabled and summariser
            else None
        )
        limits = settings.queue.limits
        self._consumer = Consumer(
            self._queue,
            self._store,
            self._answers,
            self._summaries,
            outage,
            settings=memory,
            limits=limits,
            tenant=settings.tenant.name,
        )
        self._listener = AiListener(
            client,
            self._store,
            self._queue,
            self._summaries,
            outage,
            limits=limits,
            plain_sentences=wording.plain_sentences(memory.answer.sentences),
        )
        self._upkeep = Upkeep(client, self._store, memory, outage, self._keys.counters)
        self._health = Health(client, self._keys, self._answers, composer, recall, outage=outage, instance=instance)
        self._instance = instance

    def stop(self) -> None:
        """Shut down gracefully: take no more tasks, finish, release the others, end."""
        self._stopping.set()
        self._health.stopping = True

    async def run(self) -> None:
        """Run until :meth:`stop`.

        Raises:
            OSError: the HTTP address cannot be bound.
            Exception: a part of the service failed; all tasks were released.
        """
        app = FastAPI(title=_NAME, docs_url=None, redoc_url=None, openapi_url=None)
        app.include_router(health.router(self._health))
        http = self._settings.http
        async with health.serve(app, host=http.host, port=http.port) as port:
            _LOG.info("started", instance=self._instance, queue=self._keys.queue, http=f"http://{http.host}:{port}")
            background = [asyncio.create_task(self._upkeep.run(self._stopping), name="upkeep")]
            if self._summaries is not None:
                background.append(asyncio.create_task(self._summaries.run(self._stopping), name="summaries"))
            # These two may be in the middle of reading a reply, so they are asked to end and never cancelled.
            polite = [
                asyncio.create_task(self._consumer.run(self._stopping), name="consumer"),
                asyncio.create_task(self._listener.run(self._stopping), name="ai_responses"),
            ]
            stopped = asyncio.create_task(self._stopping.wait(), name="stopped")
            await asyncio.wait([stopped, *polite, *background], return_when=asyncio.FIRST_COMPLETED)
            self.stop()
            await self._end(polite, background)

    async def _end(self, polite: list[asyncio.Task[None]], background: list[asyncio.Task[None]]) -> None:
        _LOG.info("draining")
        await end(*background)
        outcomes = await asyncio.gather(*polite, *background, return_exceptions=True)
        unanswered = await self._answers.drain(self._settings.shutdown_grace_seconds)
        try:
            async with asyncio.timeout(_RELEASE_SECONDS):
                given_back = await self._queue.release()
        except CONNECTION_ERRORS as error:
            _LOG.warning("release_failed", kind=type(error).__name__, unanswered=unanswered)
        else:
            _LOG.info("stopped", given_back=given_back, unanswered=unanswered)
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome


@contextlib.asynccontextmanager
async def open_service(settings: ServiceSettings) -> AsyncIterator[Service]:
    """A service with its connections, which are closed with the block."""
    client = connect(settings.redis, name=_NAME)
    blocking = connect(settings.redis, name=f"{_NAME}-waiting", timeout=BLOCK_SECONDS + 5, max_connections=4)
    limit = settings.memory.answer.timeout_seconds
    web = SingleAnswerClient(timeout=max(limit, settings.memory.summary.timeout_seconds))
    try:
        async with _recall(settings, web) as recall:
            yield Service(settings, client, blocking, web, recall)
    finally:
        await web.aclose()
        await close(blocking)
        await close(client)


async def run(settings: ServiceSettings, read_again: Callable[[], ServiceSettings] | None = None) -> None:
    """Run one instance until SIGTERM or SIGINT; SIGHUP reads the settings again. Raises as :meth:`Service.run`."""
    async with open_service(settings) as service:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, service.stop)
        if read_again is not None:
            loop.add_signal_handler(signal.SIGHUP, _Reloading(settings, read_again))
        await service.run()


class _Reloading:
    """Reloads settings on SIGHUP; only log settings of this service can change at runtime."""

    def __init__(self, settings: ServiceSettings, read_again: Callable[[], ServiceSettings]) -> None:
        self._settings = settings
        self._read_again = read_again

    def __call__(self) -> None:
        settings = reread(self._settings, self._read_again, _LOG)
        if settings is not None:
            self._settings = settings
            logs.adjust(settings.logs)


@contextlib.asynccontextmanager
async def _recall(settings: ServiceSettings, web: httpx.AsyncClient) -> AsyncIterator[StoredRecall | None]:
    """None if it is switched off, or no model is configured."""
    memory = settings.memory
    if not (settings.vectors.enabled and memory.recall.memories and memory.answer.model):
        yield None
        return
    if not can_be_kept(settings.vectors, settings.database):
        _LOG.warning("recall_disabled", reason="vectors.enabled is on, and there is no database; set DATABASE_URL")
        yield None
        return
    store = open_memories(settings.vectors, settings.database)
    # Another try would come too late for the answer.
    once = settings.embeddings.model_copy(update={"attempts": 1})
    recall = StoredRecall(store, embedder_of(store, HttpEmbedder(web, once)), memory.recall)
    try:
        yield recall
    finally:
        await recall.close()
        await store.close()


def _model(web: httpx.AsyncClient, settings: MemorySettings, name: str | None) -> ChatModel | None:
    if not name:
        return None
    answer = settings.answer
    return OpenAiModel(web, base_url=answer.base_url, model=name, api_key=answer.api_key)
