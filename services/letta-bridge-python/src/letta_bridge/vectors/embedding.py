"""Embeds and stores new passages at a bounded rate; a refused text does not block the others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from shared_utils.llm.embeddings import Embedder, EmbeddingsRefused
from shared_utils.observability import logs
from shared_utils.persistence.vectors import Passage, PassageStore, content_hash
from shared_utils.persistence.vectors.memories import EmbedderNow

_log = logs.get(__name__)

_PROBE_TEXT: Final = "hello"


class Embedding:
    """The embedding step that all parts share.

    Args:
        store: the passages.
        embedder: gives the model.
        rate: texts a second it is given at most.
        batch: texts of one request.
        longest: characters of a text that are kept; the model is given no more of it anyway.
        stored: is told how many passages were stored anew, by their kind.
    """

    def __init__(
        self,
        store: PassageStore,
        embedder: EmbedderNow,
        *,
        rate: float,
        batch: int,
        longest: int,
        stored: Callable[[str, int], None] = lambda _kind, _count: None,
    ) -> None:
        self.store = store
        self._embedder = embedder
        self._rate = rate
        self._batch = batch
        self._longest = longest
        self._tell_stored = stored
        self._one_at_a_time = asyncio.Lock()
        self._free_at = 0.0

    async def keep(self, passages: Sequence[Passage]) -> int:
        """Store new and changed passages; returns their number.

        Raises:
            ServiceError: database or embedding model are away, or refuse everything.
        """
        cut = [replace(passage, text=(passage.text or "")[: self._longest]) for passage in passages]
        embedder = await self._embedder()
        known = await self.store.hashes([passage.passage_id for passage in cut], model=embedder.model)
        hashed = [replace(passage, content_hash=content_hash(passage.text, passage.metadata)) for passage in cut]
        fresh = [passage for passage in hashed if known.get(passage.passage_id) != passage.content_hash]
        kept = 0
        for start in range(0, len(fresh), self._batch):
            kept += await self._keep(embedder, fresh[start : start + self._batch])
        return kept

    async def _keep(self, embedder: Embedder, passages: Sequence[Passage]) -> int:
        embedded = await self._embedded(embedder, passages)
        await self.store.store_all(embedded)
        for passage in embedded:
            self._tell_stored(str(passage.metadata["kind"]), 1)
        return len(embedded)

    async def _embedded(self, embedder: Embedder, passages: Sequence[Passage]) -> list[Passage]:
        try:
            vectors = await self._vectors(embedder, [passage.text or "" for passage in passages])
        except EmbeddingsRefused:
            # Refused as well: the model is misconfigured, not the text.
            await self._vectors(embedder, [_PROBE_TEXT])
            if len(passages) == 1:
                _log.warning("vector_text_refused", passage_id=passages[0].passage_id)
                return []
            return [done for passage in passages for done in await self._embedded(embedder, [passage])]
        return [
            replace(passage, model=embedder.model, embedding=vector)
            for passage, vector in zip(passages, vectors, strict=True)
        ]

    async def _vectors(self, embedder: Embedder, texts: Sequence[str]) -> list[list[float]]:
        async with self._one_at_a_time:
            clock = asyncio.get_running_loop().time
            await asyncio.sleep(self._free_at - clock())
            self._free_at = clock() + len(texts) / self._rate
            return await embedder.embed(texts)
