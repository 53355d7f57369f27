"""All sessions of one store copied into another: from the file to the database, and back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from shared_utils.persistence.sessions.port import Restoration, SessionStore

_SESSIONS_PER_PART: Final = 500


@dataclass(frozen=True, slots=True)
class CopyCounts:
    """What was copied; in a dry run, what would be."""

    read: int = 0
    written: int = 0
    """New in the target, or newer than the version there."""
    kept: int = 0
    """Already in the target, at this version or a newer one."""
    refused: tuple[str, ...] = ()
    """Ids of active sessions whose user has another active one of this persona in the target; that one stays."""
    unreadable: dict[str, str] = field(default_factory=dict)
    """Session id → why its row could not be read."""


async def copy_sessions(
    source: SessionStore,
    target: SessionStore,
    dry_run: bool = False,
    progress: Callable[[CopyCounts], None] = lambda _counts: None,
) -> CopyCounts:
    """Copy every session, ended ones too; the source is left as it is. It may be run again: what is there is kept.

    Args:
        source: is read part by part, so that it may be large.
        target: keeps what it has in as new a version.
        dry_run: write nothing, only count.
        progress: is given the counts so far, after each part.

    Raises:
        SessionStoreError: one of the two went away; what was copied so far stays.
    """
    counts = CopyCounts()
    after = ""
    while True:
        part = await source.part(after=after, limit=_SESSIONS_PER_PART)
        if not part.sessions and not part.failed:
            return counts
        taken = await target.merge(part.sessions, dry_run=dry_run)
        counts = CopyCounts(
            counts.read + len(part.sessions) + len(part.failed),
            counts.written + taken.written,
            counts.kept + taken.kept,
            (*counts.refused, *taken.refused),
            {**counts.unreadable, **part.failed},
        )
        progress(counts)
        after = _last(part)


def _last(part: Restoration) -> str:
    return max([*(session.session_id for session in part.sessions), *part.failed])
