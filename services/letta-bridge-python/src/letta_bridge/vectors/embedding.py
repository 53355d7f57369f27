"""Puts embeddings to passages and stores them: only what is new, at a bounded rate, and no text holds up the others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from shared_utils import logs
from shared_utils.embeddings import Embedder, EmbeddingsRefused
from shared_utils.persistence.vectors import Passage, PassageStore, content_hash

_log = logs.get(__name__)

_PROBE: Final = "hello"


class Embedding:
    """Where all parts of the work store their passages.

    Args:
        store: the passages.
        embedder: the model.
        rate: texts a second it is given at most.
        batch: texts of one request.
        longest: characters of a text that are kept; the model is given no more of it anyway.
        stored: is told how many passages were stored anew, by their kind.
    """

    def __init__(
        self,
        store: PassageStore,
        embedder: Embedder,
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

    @property
    def model(self) -> str:
        """Whose vectors these are."""
        return self._embedder.model

    async def keep(self, passages: Sequence[Passage]) -> int:
        """Store what is not stored as it is; how many that were.

        Raises:
            ServiceError: database or embedding model are away, or refuse everything.
        """
        cut = [replace(passage, text=(passage.text or "")[: self._longest]) for passage in passages]
        known = await self.store.hashes([passage.passage_id for passage in cut], model=self._embedder.model)
        hashed = [replace(passage, content_hash=content_hash(passage.text, passage.metadata)) for passage in cut]
        fresh = [passage for passage in hashed if known.get(passage.passage_id) != passage.content_hash]
        kept = 0
        for start in range(0, len(fresh), self._batch):
            kept += await self._keep(fresh[start : start + self._batch])
        return kept

    async def _keep(self, passages: Sequence[Passage]) -> int:
        embedded = await self._embedded(passages)
        await self.store.store_all(embedded)
        for passage in embedded:
            self._tell_stored(str(passage.metadata["kind"]), 1)
        return len(embedded)

    async def _embedded(self, passages: Sequence[Passage]) -> list[Passage]:
        try:
            vectors = await self._vectors([passage.text or "" for passage in passages])
        except EmbeddingsRefused:
            await self._vectors([_PROBE])  # refused as well: the model is set up wrongly, and no text is to blame
            if len(passages) == 1:
                _log.warning("vector_text_refused", passage_id=passages[0].passage_id)
                return []
            return [done for passage in passages for done in await self._embedded([passage])]
        model = self._embedder.model
        return [
            replace(passage, model=model, embedding=vector) for passage, vector in zip(passages, vectors, strict=True)
        ]

    async def _vectors(self, texts: Sequence[str]) -> list[list[float]]:
        async with self._one_at_a_time:
            clock = asyncio.get_running_loop().time
            await asyncio.sleep(self._free_at - clock())
            self._free_at = clock() + len(texts) / self._rate
            return await self._embedder.embed(texts)
