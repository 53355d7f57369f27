"""Recalls a user's earlier turns by their similarity to the present message. An answer never depends on it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection, Sequence
from typing import Any, Final, Protocol

from memory_service.outage import failing
from memory_service.settings import RecallSettings
from memory_service.small_talk import SmallTalk
from shared_utils.errors import ServiceError
from shared_utils.llm.embeddings import Embedder
from shared_utils.observability import logs
from shared_utils.observability.outage import OncePerOutage
from shared_utils.persistence.vectors import Passage, PassageStore
from shared_utils.persistence.vectors.memories import EmbedderNow, user_scope

_LOG: Final = logs.get(__name__)
_FAILURES_BEFORE_REST: Final = 3
_REST_SECONDS: Final = 30.0
_MOST_AT_ONCE: Final = 16
_OVERSAMPLING: Final = 2
"""Factor by which more memories are searched for, because some repeat the conversation."""
_LONGEST_QUESTION: Final = 2000


class Recall(Protocol):
    """Finds memories."""

    async def about(self, user_id: str, text: str, *, shown: Collection[str], persona: str | None = None) -> list[str]:
        """Memories of this user only, oldest first; none for small talk, or if the search takes too long or fails.

        Args:
            user_id: whose.
            text: the user's present message.
            shown: ids of tasks the recent conversation holds; their turns are left out.
            persona: the addressed one; turns with other personas are left out. None includes all.
        """
        ...


class StoredRecall:
    """A :class:`Recall` from the passage store. The store is the caller's, and the caller closes it."""

    def __init__(self, store: PassageStore, embedder: EmbedderNow, settings: RecallSettings) -> None:
        self._store = store
        self._embedder = embedder
        self._settings = settings
        self._running: set[asyncio.Task[list[Passage]]] = set()
        self._small_talk: SmallTalk | None = None
        self._learning: asyncio.Task[None] | None = None
        self._outage = OncePerOutage()
        self._failures = 0
        self._resting_until = 0.0

    @property
    def ok(self) -> bool:
        """False where it failed lately."""
        return self._failures == 0

    @property
    def state(self) -> str:
        """For people: ``ok``, or how often it failed in a row and why."""
        return "ok" if self.ok else failing(self._failures, self._outage.last_error or "")

    async def about(self, user_id: str, text: str, *, shown: Collection[str], persona: str | None = None) -> list[str]:
        """See :class:`Recall`."""
        now = asyncio.get_running_loop().time()
        if now < self._resting_until or len(self._running) >= _MOST_AT_ONCE:
            return []
        # Not cancelled when its time is up: the first search opens the database, and shall get that done.
        search = asyncio.create_task(self._nearest(user_id, text), name="recall")
        self._running.add(search)
        search.add_done_callback(self._ended)
        done, _ = await asyncio.wait({search}, timeout=self._settings.timeout_seconds)
        if not done:
            self._failed(f"took longer than {self._settings.timeout_seconds:g} s (memory.recall.timeout_seconds)")
            return []
        if (error := search.exception()) is not None:
            self._failed(str(error) or type(error).__name__)
            return []
        self._failures = 0
        self._outage.worked(lambda: _LOG.info("recall_recovered"))
        mine = [passage for passage in search.result() if _is_of(passage, persona)]
        return self._chosen(mine, shown)

    async def close(self) -> None:
        """End what goes on."""
        tasks: list[asyncio.Task[Any]] = [*self._running, *([self._learning] if self._learning else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _nearest(self, user_id: str, text: str) -> list[Passage]:
        embedder = await self._embedder()
        [vector] = await embedder.embed([text[:_LONGEST_QUESTION]])
        if SmallTalk.possible(text) and self._is_small_talk(embedder, vector):
            return []
        matches = await self._store.search(
            {embedder.model: vector},
            user_scope(user_id),
            k=_OVERSAMPLING * self._settings.memories,
            min_score=self._settings.min_score,
            metric="cosine",
        )
        least = matches[0].score - self._settings.score_margin if matches else 0.0
        return [match.passage for match in matches if match.score >= least]

    def _is_small_talk(self, embedder: Embedder, vector: Sequence[float]) -> bool:
        """False, too, until the model has seen the examples, for which no answer waits."""
        if self._small_talk is not None and self._small_talk.model == embedder.model:
            return self._small_talk.is_near(vector)
        if self._learning is None or self._learning.done():
            self._learning = asyncio.create_task(self._learn(embedder), name="small-talk")
        return False

    async def _learn(self, embedder: Embedder) -> None:
        with contextlib.suppress(ServiceError):  # tried again with the next message
            self._small_talk = await SmallTalk.seen_by(embedder)

    def _chosen(self, nearest: Sequence[Passage], shown: Collection[str]) -> list[str]:
        """As many of the nearest as fit, in chronological order."""
        room = self._settings.characters
        chosen: dict[str, str] = {}
        for passage in nearest:
            text = (passage.text or "").strip()
            if not text or text in chosen or passage.metadata.get("task_id") in shown:
                continue
            if len(chosen) == self._settings.memories or room <= 0:
                break
            chosen[text[:room]] = str(passage.metadata.get("at", ""))
            room -= len(text)
        return [_dated(text, chosen[text]) for text in sorted(chosen, key=chosen.__getitem__)]

    def _ended(self, search: asyncio.Task[list[Passage]]) -> None:
        self._running.discard(search)
        if not search.cancelled() and (error := search.exception()) is not None and not isinstance(error, ServiceError):
            _LOG.error("recall_crashed", exc_info=error)

    def _failed(self, reason: str) -> None:
        self._failures += 1
        if self._failures >= _FAILURES_BEFORE_REST:
            self._resting_until = asyncio.get_running_loop().time() + _REST_SECONDS
        self._outage.failed(reason, lambda said: _LOG.warning("recall_failed", reason=said))


def _is_of(passage: Passage, persona: str | None) -> bool:
    return persona is None or passage.metadata.get("persona") in {None, persona}


def _dated(text: str, at: str) -> str:
    return f"[{at[:10]}]\n{text}" if at else text
