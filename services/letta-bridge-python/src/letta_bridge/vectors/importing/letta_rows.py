"""A passage as Letta keeps it: its embedding padded to 4096 numbers, in a form that changed with the releases."""

from __future__ import annotations

import array
import base64
import binascii
import contextlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shared_utils.errors import ServiceError


class SourceUnreadable(ServiceError):
    """The database to import from cannot be read."""

    code = "import_source"


@dataclass(frozen=True, slots=True)
class LettaPassage:
    """One passage."""

    passage_id: str
    text: str
    embedding: Sequence[float]
    """As it was found, padding included; empty where there is none, or none that can be read."""
    model: str
    """Empty where it is not known."""
    dimensions: int
    """According to the embedding configuration, without padding; 0 if unknown."""
    agent_id: str | None
    source_id: str | None
    created_at: str


def letta_passage(row: Mapping[str, Any]) -> LettaPassage:
    """A row: id, text, embedding, embedding_config, agent_id, source_id, created_at."""
    config = _object(row["embedding_config"])
    dimensions = config.get("embedding_dim")
    return LettaPassage(
        passage_id=str(row["id"]),
        text=str(row["text"] or ""),
        embedding=_numbers(row["embedding"]),
        model=str(config.get("embedding_model") or ""),
        dimensions=dimensions if isinstance(dimensions, int) else 0,
        agent_id=row["agent_id"],
        source_id=row["source_id"],
        created_at=str(row["created_at"] or ""),
    )


def unpadded(embedding: Sequence[float], dimensions: int) -> Sequence[float]:
    """The embedding without its padding; empty where it is shorter, or goes on behind so many dimensions."""
    if dimensions <= 0 or len(embedding) < dimensions or any(embedding[dimensions:]):
        return ()
    return embedding[:dimensions]


def _numbers(stored: Any) -> Sequence[float]:
    """From PostgreSQL's text ``[1,2]`` or ``{1,2}``, or SQLite's bytes: base64 up to 0.10, plain ones from 0.11 on."""
    if stored is None:
        return ()
    if isinstance(stored, str):
        try:
            found = json.loads(f"[{stored.strip('[]{} ')}]")
        except ValueError:
            return ()
        return found if all(isinstance(number, int | float) for number in found) else ()
    data = bytes(stored)
    with contextlib.suppress(binascii.Error):
        # Plain numbers have zero bytes in their padding, which base64 has not.
        data = base64.b64decode(data, validate=True)
    numbers = array.array("f")
    if len(data) % numbers.itemsize:
        return ()
    numbers.frombytes(data)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers


def _object(stored: Any) -> Mapping[str, Any]:
    if isinstance(stored, str | bytes):
        try:
            stored = json.loads(stored)
        except ValueError:
            return {}
    return stored if isinstance(stored, dict) else {}
