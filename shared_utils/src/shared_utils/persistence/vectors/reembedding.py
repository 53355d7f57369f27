"""Embed every passage again with another model, while the store answers and takes new ones."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from shared_utils.observability import logs
from shared_utils.persistence.vectors.passages import Passage
from shared_utils.persistence.vectors.port import PassageStore

_log = logs.get(__name__)

Texts = Callable[[Sequence[Passage]], Awaitable[Mapping[str, str]]]
"""Gives passage id → text of passages that were stored without."""


class Embedder(Protocol):
    """Turns texts into vectors; shared_utils.llm.embeddings has one."""

    @property
    def model(self) -> str:
        """Which model."""
        ...

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """One vector per text, in order, all of one length."""
        ...


@dataclass(frozen=True, slots=True)
class Progress:
    """How far it is."""

    done: int
    """Passages embedded in this run."""
    without_text: int
    """Passages without a text; while there are any, the change of models cannot finish."""


async def reembed(
    store: PassageStore,
    embedder: Embedder,
    dimensions: int,
    *,
    batch: int = 100,
    texts: Texts | None = None,
    report: Callable[[Progress], None] | None = None,
) -> Progress:
    """Change over to another model: fill in its vectors, then make it the current one.

    Stopped at any point, it goes on where it was when it is called again. The vectors of the model before stay until
    ``store.drop_retired()``.

    Args:
        store: the passages.
        embedder: of the new model.
        dimensions: of its vectors.
        batch: passages embedded at once, 1 to 1000.
        texts: finds the texts of passages stored without.
        report: is told after each batch.

    Returns:
        How it ended.

    Raises:
        ReembeddingUnfinished: passages have no text; theirs is missing still.
    """
    await store.begin_reembedding(embedder.model, dimensions)
    progress = Progress(0, 0)
    while True:
        before = progress.done
        progress = await _pass(
            store, embedder, replace(progress, without_text=0), batch=batch, texts=texts, report=report
        )
        # What was written meanwhile with the model before is found by the next look.
        if progress.done == before:
            break
    await store.finish_reembedding()
    _log.info("vectors_reembedded", model=embedder.model, passages=progress.done)
    return progress


async def _pass(
    store: PassageStore,
    embedder: Embedder,
    progress: Progress,
    *,
    batch: int,
    texts: Texts | None,
    report: Callable[[Progress], None] | None,
) -> Progress:
    after: str | None = None
    while True:
        page = await store.outdated(limit=batch, after=after)
        known = await _texts(page.passages, texts)
        if known:
            vectors = await embedder.embed(list(known.values()))
            by_id = dict(zip(known, vectors, strict=True))
            filled = [
                replace(passage, model=embedder.model, embedding=by_id[passage.passage_id])
                for passage in page.passages
                if passage.passage_id in by_id
            ]
            progress = replace(progress, done=progress.done + await store.refill(filled))
        progress = replace(progress, without_text=progress.without_text + len(page.passages) - len(known))
        if report is not None:
            report(progress)
        if page.next is None:
            return progress
        after = page.next


async def _texts(passages: Sequence[Passage], texts: Texts | None) -> dict[str, str]:
    found = {passage.passage_id: passage.text for passage in passages if passage.text is not None}
    missing = [passage for passage in passages if passage.text is None]
    if missing and texts is not None:
        found |= await texts(missing)
    return found
