"""Pages of matches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from shared_utils.persistence.vectors.passages import Match, Passage, PassagePage

MAX_MATCHES: Final = 1000
"""Passages of one answer."""
MAX_OFFSET: Final = 10_000
"""Matches that may be left out before it."""


def check_limits(limit: int, offset: int = 0) -> None:
    """Return where a page may be that large and begin there.

    Raises:
        ValueError: it may not.
    """
    if not 1 <= limit <= MAX_MATCHES:
        raise ValueError(f"an answer holds 1 to {MAX_MATCHES} passages, not {limit}")
    if not 0 <= offset <= MAX_OFFSET:
        raise ValueError(f"the nearest 0 to {MAX_OFFSET} passages may be skipped, not {offset}")


def ranked(matches: Sequence[Match], k: int, offset: int, min_score: float | None) -> Sequence[Match]:
    """``k`` matches, nearest first, without the nearest ``offset``, and without those that are not near enough."""
    nearest = sorted(matches, key=lambda match: (-match.score, match.passage.passage_id))[offset : offset + k]
    return [match for match in nearest if min_score is None or match.score >= min_score]


def paged(passages: Sequence[Passage], limit: int) -> PassagePage:
    """A page of ``limit``, out of one more where there is one."""
    if len(passages) <= limit:
        return PassagePage(passages, None)
    return PassagePage(passages[:limit], passages[limit - 1].passage_id)
