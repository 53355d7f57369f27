"""Passages as rows."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final

from shared_utils.persistence.vectors.passages import Passage, digest, metadata_json
from shared_utils.persistence.vectors.wire import array_text, body, numbers, packed_array
from shared_utils.text import clean_text

_PLAIN: Final = (
    "passage_id, model, text, agent_id, source_id, metadata, content_hash, created_at, updated_at"  # but the embedding
)
_AT_ONCE: Final = 100


def columns(*, embeddings: bool) -> str:
    """What is read of a passage."""
    return f"{_PLAIN}, embedding" if embeddings else _PLAIN


def passage_of(row: Mapping[str, Any]) -> Passage:
    """The passage of a row."""
    return Passage(
        passage_id=row["passage_id"],
        model=row["model"],
        embedding=numbers(row["embedding"]) if "embedding" in row else (),
        text=row["text"],
        agent_id=row["agent_id"],
        source_id=row["source_id"],
        metadata=row["metadata"] or {},  # null, where an earlier release was given none
        content_hash=row["content_hash"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
    )


async def written(passages: Sequence[Passage], oid: int | None) -> dict[str, Any]:
    """The parameters that write passages: an array per column. Other work goes on between hundreds of them.

    Args:
        passages: each with an id of its own.
        oid: the vector type's; None where embeddings are arrays.

    Raises:
        ValueRefused: metadata that are no JSON.
    """
    metadata: list[str] = []
    hashes: list[str] = []
    embeddings: list[str] = []
    bodies: list[bytes] = []
    for start in range(0, len(passages), _AT_ONCE):
        for passage in passages[start : start + _AT_ONCE]:
            part = metadata_json(passage.metadata)
            metadata.append(part)
            hashes.append(passage.content_hash or digest(passage.text, part, passage.embedding))
            if oid is None:
                embeddings.append(array_text(passage.embedding))
            else:
                bodies.append(body(passage.embedding))
        await asyncio.sleep(0)
    return {
        "passage_id": [passage.passage_id for passage in passages],
        "agent_id": [passage.agent_id for passage in passages],
        "source_id": [passage.source_id for passage in passages],
        "text": [None if passage.text is None else clean_text(passage.text) for passage in passages],
        "metadata": metadata,
        "content_hash": hashes,
        "embeddings": embeddings if oid is None else packed_array(bodies, oid),
    }


def embeddings_sql(kind: str) -> str:
    """The embeddings of :func:`written`, one a row."""
    if kind == "float8":
        return "unnest(%(embeddings)s::text[])::float8[]"
    return "unnest(%(embeddings)s::vector[])"
