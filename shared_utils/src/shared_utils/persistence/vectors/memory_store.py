"""Passages in memory, for tests."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Literal

from shared_utils.persistence.errors import Conflict
from shared_utils.persistence.vectors.changeover import no_changeover
from shared_utils.persistence.vectors.distances import score_between
from shared_utils.persistence.vectors.errors import (
    DimensionMismatch,
    ModelMismatch,
    ReembeddingUnfinished,
    VectorError,
)
from shared_utils.persistence.vectors.filters import Condition, parsed
from shared_utils.persistence.vectors.passages import (
    Match,
    Metric,
    Passage,
    PassagePage,
    Scope,
    Stored,
    check_vector,
    checked,
    metadata_json,
)
from shared_utils.persistence.vectors.port import Filter, IndexState, StoredModel, TableStatistics, VectorStatistics
from shared_utils.persistence.vectors.ranking import check_limits, paged, ranked
from shared_utils.text import clean_json, clean_text

_FULL_SCAN_NOTE = "in memory every passage in scope is compared"


@dataclass
class _Shelf:
    model: str
    dimensions: int
    state: Literal["current", "filling", "retired"]
    passages: dict[str, Passage] = field(default_factory=dict)

    def check(self, vector: Sequence[float]) -> None:
        if len(vector) != self.dimensions:
            raise DimensionMismatch(
                f"the model {self.model} has vectors of {self.dimensions} dimensions here, and this one has "
                f"{len(vector)}; a model whose vectors have another length needs another name"
            )


class InMemoryPassageStore:
    """See :class:`PassageStore`."""

    def __init__(self, *, metric: Metric = "cosine") -> None:
        self._metric: Metric = metric
        self._shelves: list[_Shelf] = []

    async def prepare(self, model: str, dimensions: int) -> None:
        """See the port, as for all of these."""
        self._make(model, dimensions, "current")

    async def store(self, passage: Passage) -> bool:
        return (await self.store_all([passage])).unchanged == 0

    async def store_all(self, passages: Sequence[Passage]) -> Stored:
        given = {(passage.model, passage.passage_id): checked(passage) for passage in passages}
        if given and not self._shelves:
            first = next(iter(given.values()))
            self._make(first.model, len(first.embedding), "current")
        for passage in given.values():
            shelf = self._of(passage.model)
            shelf.check(passage.embedding)
            metadata_json(passage.metadata)
            there = shelf.passages.get(passage.passage_id)
            if there and (there.agent_id, there.source_id) != (passage.agent_id, passage.source_id):
                raise Conflict(f"passage {passage.passage_id} belongs to another agent or source")
        return sum((self._put(self._of(passage.model), passage) for passage in given.values()), Stored())

    async def hashes(self, passage_ids: Sequence[str], *, model: str) -> Mapping[str, str]:
        for shelf in self._in_use():
            if shelf.model == model:
                return {
                    passage_id: shelf.passages[passage_id].content_hash
                    for passage_id in passage_ids
                    if passage_id in shelf.passages
                }
        return {}

    async def get(self, passage_ids: Sequence[str], scope: Scope, *, embeddings: bool = True) -> Sequence[Passage]:
        there = {passage.passage_id: passage for passage in self._within(scope, None)}
        found = [there[passage_id] for passage_id in dict.fromkeys(passage_ids) if passage_id in there]
        return [passage if embeddings else replace(passage, embedding=()) for passage in found]

    async def page(
        self, scope: Scope, *, where: Filter | None = None, limit: int = 100, after: str | None = None
    ) -> PassagePage:
        check_limits(limit)
        within = sorted(self._within(scope, parsed(where)), key=lambda passage: passage.passage_id)
        return _paged(within, limit, after)

    async def delete(
        self, scope: Scope, *, passage_ids: Sequence[str] | None = None, where: Filter | None = None
    ) -> int:
        condition = parsed(where)
        gone: set[str] = set()
        for shelf in self._shelves:
            for passage in list(shelf.passages.values()):
                named = passage_ids is None or passage.passage_id in passage_ids
                if named and scope.holds(passage) and (condition is None or condition.holds(passage.metadata)):
                    del shelf.passages[passage.passage_id]
                    gone.add(passage.passage_id)
        return len(gone)

    async def search(
        self,
        vectors: Mapping[str, Sequence[float]],
        scope: Scope,
        *,
        k: int = 10,
        offset: int = 0,
        where: Filter | None = None,
        min_score: float | None = None,
        metric: Metric | None = None,
        embeddings: bool = False,
    ) -> Sequence[Match]:
        check_limits(k, offset)
        for model, vector in vectors.items():
            check_vector(vector, f"the query of {model}")
        condition = parsed(where)
        if not self._shelves:
            return []
        for model, vector in vectors.items():
            self._of(model).check(vector)
        if not any(shelf.state == "current" and shelf.model in vectors for shelf in self._shelves):
            raise self._mismatch(", ".join(vectors) or "no model")
        await asyncio.sleep(0)
        matches = [
            Match(
                passage if embeddings else replace(passage, embedding=()),
                score_between(metric or self._metric, vectors[passage.model], passage.embedding),
            )
            for passage in self._within(scope, condition, models=vectors)
        ]
        return ranked(matches, k, offset, min_score)

    async def statistics(self) -> VectorStatistics:
        tables = [
            TableStatistics(
                model=shelf.model,
                dimensions=shelf.dimensions,
                state=shelf.state,
                kind="float8",
                metric=self._metric,
                passages=len(shelf.passages),
                table_bytes=0,
                index_bytes=0,
                index=IndexState("none", None, _FULL_SCAN_NOTE),
            )
            for shelf in self._shelves
        ]
        return VectorStatistics(len(self._within(Scope.everything(), None)), tables)

    async def build_index(self, *, rebuild: bool = False) -> Sequence[IndexState]:
        del rebuild
        return [IndexState("none", None, _FULL_SCAN_NOTE) for _ in self._shelves]

    async def ensure_index(self) -> bool:
        return False

    async def current_model(self) -> StoredModel | None:
        current = (shelf for shelf in self._shelves if shelf.state == "current")
        return next((StoredModel(shelf.model, shelf.dimensions) for shelf in current), None)

    async def begin_reembedding(self, model: str, dimensions: int) -> None:
        self._make(model, dimensions, "filling")

    async def outdated(self, *, limit: int = 100, after: str | None = None) -> PassagePage:
        check_limits(limit)
        current, filling = self._pair()
        found = [
            replace(passage, embedding=())
            for _, passage in sorted(current.passages.items())
            if _is_outdated(passage, filling.passages.get(passage.passage_id))
        ]
        return _paged(found, limit, after)

    async def refill(self, passages: Sequence[Passage]) -> int:
        current, filling = self._pair()
        stored = Stored()
        for passage in map(checked, passages):
            there = current.passages.get(passage.passage_id)
            if there is None or there.content_hash != passage.content_hash:
                continue
            if passage.model != filling.model:
                raise self._mismatch(passage.model)
            filling.check(passage.embedding)
            stored += self._put(filling, passage)
        return stored.added + stored.changed

    async def finish_reembedding(self) -> None:
        current, filling = self._pair()
        if (await self.outdated(limit=1)).passages:
            raise ReembeddingUnfinished(f"passages still lack their embedding of {filling.model}")
        current.state, filling.state = "retired", "current"
        self._shelves.sort(key=lambda shelf: shelf.state != "current")

    async def abandon_reembedding(self) -> None:
        self._shelves = [shelf for shelf in self._shelves if shelf.state != "filling"]

    async def drop_retired(self) -> int:
        kept = self._in_use()
        dropped = len(self._shelves) - len(kept)
        self._shelves = kept
        return dropped

    async def close(self) -> None:
        """Nothing is held."""

    def _make(self, model: str, dimensions: int, state: Literal["current", "filling"]) -> None:
        for shelf in self._in_use():
            if shelf.model == model:
                shelf.check([0.0] * dimensions)
                return
        if any(shelf.state == state for shelf in self._shelves):
            raise self._mismatch(model)
        self._shelves.append(_Shelf(model, dimensions, state))

    def _put(self, shelf: _Shelf, passage: Passage) -> Stored:
        there = shelf.passages.get(passage.passage_id)
        if there is not None and there.content_hash == passage.hashed:
            return Stored(unchanged=1)
        now = datetime.now(UTC)
        shelf.passages[passage.passage_id] = replace(
            passage,
            embedding=list(map(float, passage.embedding)),
            text=None if passage.text is None else clean_text(passage.text),
            metadata=clean_json(passage.metadata),
            content_hash=passage.hashed,
            created_at=there.created_at if there else now,
            updated_at=now,
        )
        return Stored(changed=1) if there else Stored(added=1)

    def _within(
        self, scope: Scope, condition: Condition | None, models: Mapping[str, object] | None = None
    ) -> list[Passage]:
        """Each passage once, as the newest model that is asked has it."""
        found: dict[str, Passage] = {}
        for shelf in sorted(self._in_use(), key=lambda shelf: shelf.state == "filling"):
            if models is None or shelf.model in models:
                found |= shelf.passages
        return [
            passage
            for passage in found.values()
            if scope.holds(passage) and (condition is None or condition.holds(passage.metadata))
        ]

    def _in_use(self) -> list[_Shelf]:
        return [shelf for shelf in self._shelves if shelf.state != "retired"]

    def _of(self, model: str) -> _Shelf:
        for shelf in self._in_use():
            if shelf.model == model:
                return shelf
        raise self._mismatch(model)

    def _pair(self) -> tuple[_Shelf, _Shelf]:
        by_state = {shelf.state: shelf for shelf in self._shelves}
        if "current" not in by_state or "filling" not in by_state:
            raise VectorError(no_changeover())
        return by_state["current"], by_state["filling"]

    def _mismatch(self, model: str) -> ModelMismatch:
        held = " and ".join(shelf.model for shelf in self._in_use())
        return ModelMismatch(f"the collection holds vectors of {held}, which cannot be compared with those of {model}")


def _is_outdated(passage: Passage, newer: Passage | None) -> bool:
    if newer is None or newer.updated_at is None or passage.updated_at is None:
        return True
    return newer.content_hash != passage.content_hash and newer.updated_at < passage.updated_at


def _paged(passages: Sequence[Passage], limit: int, after: str | None) -> PassagePage:
    rest = [replace(passage, embedding=()) for passage in passages if passage.passage_id > (after or "")]
    return paged(rest, limit)
