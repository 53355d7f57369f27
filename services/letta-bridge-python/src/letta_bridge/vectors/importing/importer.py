"""Brings Letta's passages into the store with the embeddings they have, and compares what arrived."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from letta_bridge.vectors.embedding import Embedding
from letta_bridge.vectors.importing.letta_rows import LettaPassage, unpadded
from letta_bridge.vectors.importing.letta_tables import LettaPassages
from letta_bridge.vectors.passage_factory import imported_passage
from shared_utils.persistence.vectors import Passage, PassageStore, Scope, content_hash

_PASSAGES_PER_PAGE: Final = 500
_SAMPLE_SIZE: Final = 200
_RELATIVE_TOLERANCE: Final = 1e-6
"""How far a number may be from the one in the source: both are single precision."""


@dataclass(slots=True)
class Imported:
    """What came of it."""

    found: int = 0
    stored: int = 0
    """With the embedding they had; in a dry run those that would be."""
    embedded: int = 0
    """Embedded again."""
    there_already: int = 0
    """Of an earlier run, or kept in step by a bridge."""
    left_out: Counter[str] = field(default_factory=Counter)
    """Why → how many."""
    missing: int = 0
    """Not in the store afterwards."""
    compared: int = 0
    different: int = 0
    """Whose vector in the store is not that of the source."""

    @property
    def whole(self) -> bool:
        """Whether every imported passage arrived unchanged."""
        return not self.missing and not self.different


@dataclass(slots=True)
class Importer:
    """One import.

    Args:
        source: Letta's passages.
        embedding: where to.
        model: the one it embeds with: only its vectors can be stored beside those that will come.
        dimensions: of its vectors; None believes what Letta says.
        embed: whether passages of other models are embedded again; else they are left out.
        longest: characters of a text that are kept.
        progress: is told how many were gone through.
        foreign: whether an agent with these tags belongs to another tenant.
        done: counts as it goes.
    """

    source: LettaPassages
    embedding: Embedding
    model: str
    dimensions: int | None
    embed: bool
    longest: int
    progress: Callable[[int], None]
    foreign: Callable[[Collection[str]], bool]
    done: Imported = field(default_factory=Imported)
    _every: int = 1
    _sample: dict[str, Sequence[float]] = field(default_factory=dict)

    async def run(self, *, dry: bool) -> Imported:
        """Import missing passages. After an interruption, a repeated call continues.

        Args:
            dry: change nothing, only count.

        Raises:
            ServiceError: source, store or embedding model cannot be used.
        """
        done = self.done
        self._every = max(1, self.source.count() // _SAMPLE_SIZE)
        for everything in self._pages():
            page = [(row, passage) for row, passage, tags in everything if not self.foreign(tags)]
            done.left_out["of another tenant"] += len(everything) - len(page)
            ready, to_embed = await self._sorted(page, done)
            if not dry:
                await self._store.store_all(ready)
                await self.embedding.keep(to_embed)
                known = await self._store.hashes([p.passage_id for p in (*ready, *to_embed)], model=self.model)
                done.missing += len(ready) + len(to_embed) - len(known)
            done.stored += len(ready)
            done.embedded += len(to_embed)
            done.found += len(everything)
            self.progress(done.found)
        if not dry:
            await self._compare(done)
        done.left_out += Counter()  # without what was not there
        return done

    @property
    def _store(self) -> PassageStore:
        return self.embedding.store

    def _pages(self) -> Iterator[list[tuple[LettaPassage, Passage, Collection[str]]]]:
        tags = self.source.tags()
        for page in self.source.pages(_PASSAGES_PER_PAGE):
            tagged = [(row, tags.get(row.agent_id or "", [])) for row in page]
            yield [(row, self._passage(row, found), found) for row, found in tagged]

    def _passage(self, row: LettaPassage, tags: Sequence[str]) -> Passage:
        passage = imported_passage(row.passage_id, row.text[: self.longest], row.created_at, row.agent_id, tags)
        if row.source_id is not None:
            passage = replace(passage, source_id=row.source_id)
        return replace(passage, content_hash=content_hash(passage.text, passage.metadata))

    async def _sorted(
        self, page: Sequence[tuple[LettaPassage, Passage]], done: Imported
    ) -> tuple[list[Passage], list[Passage]]:
        """Those that bring a vector of our model, and those to embed."""
        ids = [passage.passage_id for _, passage in page]
        hashes = await self._store.hashes(ids, model=self.model)
        held = {there.passage_id: there for there in await self._store.get(ids, Scope.everything(), embeddings=False)}
        ready: list[Passage] = []
        to_embed: list[Passage] = []
        for number, (row, passage) in enumerate(page, done.found):
            there = held.get(row.passage_id)
            vector = self._vector(row)
            ours = there is None or bool(there.metadata.get("imported"))
            if not ours or hashes.get(row.passage_id) == passage.content_hash:
                done.there_already += 1
            elif not passage.agent_id and not passage.source_id:
                done.left_out["of no agent and no source"] += 1
                continue
            elif vector:
                ready.append(replace(passage, model=self.model, embedding=vector))
            elif self.embed and row.text.strip():
                to_embed.append(passage)
            else:
                done.left_out[_reason(row, self.model)] += 1
                continue
            if vector and ours and number % self._every == 0:
                self._sample[row.passage_id] = vector
        return ready, to_embed

    def _vector(self, row: LettaPassage) -> Sequence[float]:
        """Of our model, without padding; empty where there is none."""
        if row.model.rpartition("/")[2] != self.model.rpartition("/")[2]:
            return ()
        vector = unpadded(row.embedding, self.dimensions or row.dimensions)
        return vector if any(vector) else ()

    async def _compare(self, done: Imported) -> None:
        stored = await self._store.get(list(self._sample), Scope.everything()) if self._sample else ()
        vectors = {passage.passage_id: passage.embedding for passage in stored}
        for passage_id, expected in self._sample.items():
            done.compared += 1
            done.different += not _same(expected, vectors.get(passage_id, ()))


def _reason(row: LettaPassage, model: str) -> str:
    if not row.text.strip():
        return "without text"
    if row.model.rpartition("/")[2] != model.rpartition("/")[2]:
        return f"embedded with {row.model or 'no model'}"
    return "with an embedding that cannot be read, or of another length"


def _same(expected: Sequence[float], found: Sequence[float]) -> bool:
    size = max(map(abs, expected), default=0.0)
    return len(expected) == len(found) and all(
        abs(one - other) <= _RELATIVE_TOLERANCE * size for one, other in zip(expected, found, strict=True)
    )
