"""Periodic work, done by one instance for all: delete old messages, and count the others."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Final

from redis.exceptions import ResponseError

from memory_service import keys, records
from memory_service.memory_store import MemoryStore
from memory_service.outage import Outage
from memory_service.settings import MemorySettings
from memory_service.survey import take_survey
from shared_utils.batches import PageSize
from shared_utils.observability import logs
from shared_utils.redis.connection import CONNECTION_ERRORS, RedisClient
from shared_utils.waiting import wait_or_timeout

_LOG: Final = logs.get(__name__)
_LOOK_SECONDS: Final = 15.0
_KEYS_PER_SCAN: Final = 100


class Upkeep:
    """Checks every few seconds whether the work is due and no other instance is doing it."""

    def __init__(
        self, client: RedisClient, store: MemoryStore, settings: MemorySettings, outage: Outage, counters: str
    ) -> None:
        self._client = client
        self._store = store
        self._settings = settings
        self._outage = outage
        self._counters = counters

    async def run(self, stopping: asyncio.Event) -> None:
        """Keep checking until ``stopping`` is set or this is cancelled."""
        while not stopping.is_set():
            try:
                await self._look()
            except CONNECTION_ERRORS as error:
                await self._outage.wait("upkeep", error)
                continue
            self._outage.over("upkeep")
            await wait_or_timeout(stopping, min(_LOOK_SECONDS, self._settings.survey_interval_seconds))

    async def _look(self) -> None:
        settings = self._settings
        every = max(1, round(settings.cleanup_interval_hours * 3600))
        if await self._client.set(keys.CLEANUP_TURN, "1", nx=True, ex=every):
            forgotten = await self.clean_up(datetime.now(UTC))
            await self._client.hincrby(self._counters, "forgotten", forgotten)
            _LOG.info("cleaned_up", forgotten=forgotten)
        if await self._client.set(keys.SURVEY_TURN, "1", nx=True, ex=settings.survey_interval_seconds):
            survey = await take_survey(self._client)
            await self._client.set(keys.SURVEY, survey.model_dump_json(), ex=2 * settings.survey_interval_seconds + 60)

    async def clean_up(self, now: datetime) -> int:
        """Delete messages older than ``cleanup_age_hours`` from all lists; returns their number."""
        cutoff = now - timedelta(hours=self._settings.cleanup_age_hours)
        forgotten = 0
        async for messages in self._lists():
            with contextlib.suppress(ResponseError):  # a foreign key of the wrong type
                forgotten += await self._clean(messages, cutoff)
        return forgotten

    async def _lists(self) -> AsyncIterator[str]:
        yield keys.GLOBAL_CONTEXT
        async for raw in self._client.scan_iter(match=keys.ALL_USER_SESSIONS, count=500):
            yield raw.decode(errors="surrogateescape")

    async def _clean(self, messages: str, cutoff: datetime) -> int:
        gone, size = 0, PageSize(_KEYS_PER_SCAN)
        while chunk := await self._store.oldest(messages, size.items):
            size.learn(len(chunk), sum(map(len, chunk)))
            expired = 0
            for raw in reversed(chunk):
                record = records.read(raw)
                written = records.written_at(record) if record else None
                if written is not None and written >= cutoff:
                    break
                expired += 1
            if not expired:
                break
            removed = await self._store.replace_oldest(messages, chunk[-expired])
            gone += removed
            if not removed or expired < len(chunk):
                break
        return gone
