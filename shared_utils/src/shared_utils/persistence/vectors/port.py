"""The port of a passage store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from shared_utils.persistence.vectors.passages import Match, Metric, Passage, PassagePage, Scope, Stored

Filter = Mapping[str, Any]
"""See filters.py."""


@dataclass(frozen=True, slots=True)
class IndexState:
    """The index of one model's vectors."""

    state: Literal["none", "building", "broken", "ready"]
    """``broken``: a build did not end; the next one replaces it."""
    precision: str | None
    """``single``, ``half``, or None where there can be no index."""
    note: str = ""
    """Why there is no index, or how it is limited."""


@dataclass(frozen=True, slots=True)
class TableStatistics:
    """The vectors of one model."""

    model: str
    dimensions: int
    state: str
    """``current``; ``filling`` or ``retired`` while models are changed over."""
    kind: str
    """``vector``, or ``float8`` where the server has no vector type."""
    metric: Metric
    passages: int
    table_bytes: int
    index_bytes: int
    index: IndexState


@dataclass(frozen=True, slots=True)
class VectorStatistics:
    """A whole collection."""

    passages: int
    tables: Sequence[TableStatistics]

    @property
    def dimensions(self) -> Sequence[int]:
        """The distinct ones, ascending."""
        return sorted({table.dimensions for table in self.tables})


@dataclass(frozen=True, slots=True)
class StoredModel:
    """A model whose vectors a store has."""

    name: str
    dimensions: int


class PassageStore(Protocol):
    """Passages with embeddings: kept, found by nearness, forgotten.

    All embeddings of a collection are of one model, the current one, but for the time while another model's are filled
    in. Every method may raise a PersistenceError; those that take a filter FilterRefused, those that take a vector
    ModelMismatch, DimensionMismatch and ValueRefused.
    """

    async def prepare(self, model: str, dimensions: int) -> None:
        """Make the place for a model's vectors; nothing where it is there. The first passage does so as well.

        Raises:
            VectorTableMissing: it is not there, and we may not make it.
        """
        ...

    async def store(self, passage: Passage) -> bool:
        """Keep a passage; False where it is kept already, by its content hash.

        Raises:
            Conflict: its id is that of another agent's or source's passage.
        """
        ...

    async def store_all(self, passages: Sequence[Passage]) -> Stored:
        """Keep many, a thousand in one round trip; of two with one id the later.

        A thousand are kept or refused as one; those before them stay.
        """
        ...

    async def hashes(self, passage_ids: Sequence[str], *, model: str) -> Mapping[str, str]:
        """Id → content hash of those that are kept for this model, so that nothing is embedded twice."""
        ...

    async def get(self, passage_ids: Sequence[str], scope: Scope, *, embeddings: bool = True) -> Sequence[Passage]:
        """Those of these passages that are within the scope, in the order asked for."""
        ...

    async def page(
        self, scope: Scope, *, where: Filter | None = None, limit: int = 100, after: str | None = None
    ) -> PassagePage:
        """Passages without their embeddings, by id.

        Args:
            scope: whose.
            where: on their metadata.
            limit: 1 to 1000.
            after: ``next`` of the page before.
        """
        ...

    async def delete(
        self, scope: Scope, *, passage_ids: Sequence[str] | None = None, where: Filter | None = None
    ) -> int:
        """Forget passages.

        Args:
            scope: whose; with nothing else given, all of these.
            passage_ids: only these; none, where the list is empty.
            where: only those whose metadata meet it.

        Returns:
            How many there were.
        """
        ...

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
        """The nearest passages, nearest first.

        Args:
            vectors: model → the query's embedding. One is enough but while models are changed over: then a passage is
                found by the new model's where it has one, else by the current one's.
            scope: whose.
            k: matches, 1 to 1000; so many there are, where so many passages are within scope and filter.
            offset: leave out the nearest so many.
            where: on their metadata.
            min_score: leave out what is not as near.
            metric: by default the collection's, which an index is for; any other compares the query with each passage.
            embeddings: with the passages' embeddings.
        """
        ...

    async def statistics(self) -> VectorStatistics:
        """What there is."""
        ...

    async def build_index(self, *, rebuild: bool = False) -> Sequence[IndexState]:
        """Index every table that can be indexed, while it is read and written; may take minutes.

        Args:
            rebuild: also where there is one.

        Returns:
            The state of each table's index, in the order of :meth:`statistics`.
        """
        ...

    async def ensure_index(self) -> bool:
        """Build the indexes that are due: of tables that are large and have none. Whether one was built."""
        ...

    async def current_model(self) -> StoredModel | None:
        """The model whose vectors are searched and taken; None before the first. A change is seen a little later."""
        ...

    async def begin_reembedding(self, model: str, dimensions: int) -> None:
        """From now on take vectors of another model as well; nothing where that is so already.

        Raises:
            ModelMismatch: yet another model is being filled in.
        """
        ...

    async def outdated(self, *, limit: int = 100, after: str | None = None) -> PassagePage:
        """Passages that the new model's vectors are missing of, by id; as the current one has them."""
        ...

    async def refill(self, passages: Sequence[Passage]) -> int:
        """Keep new embeddings of what :meth:`outdated` gave; how many, without those changed or forgotten since.

        Args:
            passages: with the new model's name and embedding, and the content hash they were given with.
        """
        ...

    async def finish_reembedding(self) -> None:
        """Make the new model the current one. Vectors of the one before stay until :meth:`drop_retired`.

        Raises:
            ReembeddingUnfinished: passages are outdated.
        """
        ...

    async def abandon_reembedding(self) -> None:
        """Forget the new model's vectors, those of passages that were stored with no other included."""
        ...

    async def drop_retired(self) -> int:
        """Drop the tables of models that were replaced; how many."""
        ...

    async def close(self) -> None:
        """Give up what is held."""
        ...
