"""The records of a passage store."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Literal, Self

from shared_utils.persistence.errors import ValueRefused
from shared_utils.text import clean_json, clean_text

Metric = Literal["cosine", "l2", "inner_product"]

MOST_DIMENSIONS: Final = 16_000
"""What a column of the servers' vector type holds."""
_LONGEST_ID: Final = 500
_JSON: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False, sort_keys=True)
_UNCLEAN: Final = re.compile(r"\\u0000|[\ud800-\udfff]")
_SHORTEST, _LONGEST = 1e-15, 1e15
"""Lengths of a vector whose square single precision holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """A searchable text of a user's agent, and its embedding."""

    passage_id: str
    model: str
    """Which model the embedding is of."""
    embedding: Sequence[float] = ()
    """Empty in an answer that was not asked for embeddings."""
    text: str | None = None
    agent_id: str | None = None
    source_id: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """JSON."""
    content_hash: str = ""
    """Detects changed passages; computed by :func:`content_hash` if it is empty."""
    created_at: datetime | None = None
    updated_at: datetime | None = None

    @property
    def hashed(self) -> str:
        """Its content hash, given or made."""
        return self.content_hash or content_hash(self.text, self.metadata, embedding=self.embedding)


@dataclass(frozen=True, slots=True)
class Scope:
    """The owner of the passages in a query. There is no default; use :meth:`everything` for all.

    Raises:
        ValueError: it names nobody.
    """

    agent_id: str | None = None
    source_id: str | None = None
    all: bool = False

    def __post_init__(self) -> None:
        if self.all == bool(self.agent_id or self.source_id) or "" in {self.agent_id, self.source_id}:
            raise ValueError("a scope names an agent, a source or both; or it is Scope.everything()")

    @classmethod
    def agent(cls, agent_id: str) -> Self:
        """The passages of one agent."""
        return cls(agent_id=agent_id)

    @classmethod
    def source(cls, source_id: str) -> Self:
        """The passages of one source."""
        return cls(source_id=source_id)

    @classmethod
    def everything(cls) -> Self:
        """Every passage of every user."""
        return cls(all=True)

    def holds(self, passage: Passage) -> bool:
        """Whether the passage is within."""
        return (self.agent_id is None or passage.agent_id == self.agent_id) and (
            self.source_id is None or passage.source_id == self.source_id
        )


@dataclass(frozen=True, slots=True)
class Match:
    """A passage found, and how near it is."""

    passage: Passage
    score: float
    """More is nearer. Cosine: the cosine, -1 to 1; inner product: the product; L2: minus the distance."""


@dataclass(frozen=True, slots=True)
class PassagePage:
    """Passages by their ids."""

    passages: Sequence[Passage]
    next: str | None
    """The ``after`` of the next page; None on the last."""


@dataclass(frozen=True, slots=True)
class Stored:
    """What a batch came to."""

    added: int = 0
    changed: int = 0
    unchanged: int = 0

    def __add__(self, other: Stored) -> Stored:
        return Stored(self.added + other.added, self.changed + other.changed, self.unchanged + other.unchanged)


def content_hash(
    text: str | None, metadata: Mapping[str, Any] | None = None, *, embedding: Sequence[float] = ()
) -> str:
    """The hash of a passage's content: known before anything is embedded, where the passage has a text.

    Args:
        text: the passage's, whether or not it is to be stored.
        metadata: the passage's.
        embedding: counts where there is no text.

    Raises:
        ValueRefused: the metadata is no JSON.
    """
    return digest(text, metadata_json(metadata or {}), embedding)


def digest(text: str | None, metadata: str, embedding: Sequence[float]) -> str:
    """The same, of metadata as :func:`metadata_json` writes them."""
    content = list(map(float, embedding)) if text is None else clean_text(text)
    return hashlib.sha256(f"{json.dumps(content)}\n{metadata}".encode()).hexdigest()


def metadata_json(metadata: Mapping[str, Any]) -> str:
    """Metadata as JSON text a database holds, its keys in order.

    Raises:
        ValueRefused: it is none.
    """
    try:
        text = _JSON.encode(metadata)
        # Cleaning walks through all of it, and hardly ever finds anything.
        return _JSON.encode(clean_json(metadata)) if _UNCLEAN.search(text) else text
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueRefused(
            f"a passage's metadata contains a value that JSON cannot represent ({error}); remove it"
        ) from None


def checked(passage: Passage) -> Passage:
    """The passage as it is to be stored.

    Raises:
        ValueRefused: an id, the text, the metadata or the embedding is none a database holds.
    """
    for name, required in (("passage_id", True), ("model", True), ("agent_id", False), ("source_id", False)):
        if required or getattr(passage, name) is not None:
            _check_id(name, getattr(passage, name))
    if not (passage.text is None or isinstance(passage.text, str)):
        raise ValueRefused(f"the text of passage {passage.passage_id} is {_kind(passage.text)}; give a text, or None")
    if not isinstance(passage.metadata, Mapping):
        raise ValueRefused(
            f"the metadata of passage {passage.passage_id} is {_kind(passage.metadata)}; give a mapping, {{}} for none"
        )
    check_vector(passage.embedding, f"the embedding of passage {passage.passage_id}")
    return passage


def _check_id(name: str, value: object) -> None:
    if not isinstance(value, str):
        raise ValueRefused(f"{name} {str(value)[:80]} is {_kind(value)}; an id is a text")
    if not value or len(value) > _LONGEST_ID or clean_text(value) != value:
        raise ValueRefused(f"{name} {value[:80]!r} is no id: 1 to {_LONGEST_ID} characters, none of them NUL")


def _kind(value: object) -> str:
    return f"a value of type {type(value).__name__}"


def check_vector(vector: Sequence[float], what: str) -> None:
    """Return where it is a vector that has a direction.

    Raises:
        ValueRefused: it is empty or too long, zero or not finite.
    """
    if not 1 <= len(vector) <= MOST_DIMENSIONS:
        raise ValueRefused(f"{what} has {len(vector)} dimensions; 1 to {MOST_DIMENSIONS:,} can be stored")
    length = math.hypot(*vector)
    if not _SHORTEST <= length <= _LONGEST:  # nor is it where one of the numbers is none
        raise ValueRefused(
            f"{what} has the length {length:g}, so single precision loses its direction; embed the text again"
        )


__all__ = [
    "MOST_DIMENSIONS",
    "Match",
    "Metric",
    "Passage",
    "PassagePage",
    "Scope",
    "Stored",
    "check_vector",
    "checked",
    "content_hash",
    "digest",
    "metadata_json",
]
