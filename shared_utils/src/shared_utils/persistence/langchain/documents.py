"""LangChain's documents as passages, and which of the nearest differ most."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from typing import Any

from langchain_core.documents import Document

from shared_utils.persistence.vectors import Match, Passage, Scope
from shared_utils.persistence.vectors.distances import score_between


def passages_of(
    texts: Iterable[Any],
    metadatas: Sequence[dict[str, Any] | None] | None,
    ids: Sequence[Any] | None,
    *,
    model: str,
    scope: Scope,
) -> list[Passage]:
    """Passages without embeddings; those without an id get one, those without metadata have none.

    Raises:
        ValueError: there are not as many metadata or ids as texts, or a text or an id is none.
    """
    texts = list(texts)
    wrong = [value for value in (*texts, *(ids or ())) if not isinstance(value, str | None)]
    if wrong or None in texts:
        raise ValueError(f"a text or an id is {wrong[0] if wrong else None!r}, and no text (str)")
    for name, given in (("metadatas", metadatas), ("ids", ids)):
        if given is not None and len(given) != len(texts):
            raise ValueError(f"there are {len(given)} {name} to {len(texts)} texts")
    return [
        Passage(
            passage_id=(ids[number] if ids else None) or str(uuid.uuid4()),
            model=model,
            text=text,
            agent_id=scope.agent_id,
            source_id=scope.source_id,
            metadata=(metadatas[number] if metadatas else None) or {},
        )
        for number, text in enumerate(texts)
    ]


def document_of(passage: Passage) -> Document:
    """The document of a passage; its id is the passage's."""
    return Document(id=passage.passage_id, page_content=passage.text or "", metadata=dict(passage.metadata))


def diverse(matches: Sequence[Match], k: int, weight: float) -> Sequence[Match]:
    """``k`` of the matches, each near the query and far from those before it (maximal marginal relevance).

    Args:
        matches: with embeddings and cosine scores.
        k: how many.
        weight: 1 counts nearness only, 0 difference only.
    """
    left, chosen = list(matches), list[Match]()
    likeness = [-1.0] * len(left)
    while left and len(chosen) < k:
        values = [
            weight * match.score - (1 - weight) * (alike if chosen else 0)
            for match, alike in zip(left, likeness, strict=True)
        ]
        best = values.index(max(values))
        chosen.append(left.pop(best))
        likeness.pop(best)
        newest = chosen[-1].passage.embedding
        likeness = [
            max(alike, score_between("cosine", newest, match.passage.embedding))
            for match, alike in zip(left, likeness, strict=True)
        ]
    return chosen
