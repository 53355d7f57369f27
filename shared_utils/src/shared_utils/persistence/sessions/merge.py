"""Decides which sessions a store takes over from another one, for all stores."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field

from shared_utils.persistence.sessions.port import MergeResult, Session


@dataclass(frozen=True, slots=True)
class MergePlan:
    """What is to be written."""

    new: list[Session] = field(default_factory=list)
    newer: list[Session] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    @property
    def taken(self) -> MergeResult:
        """As the port tells it."""
        return MergeResult(len(self.new) + len(self.newer), len(self.kept), tuple(self.refused))


def plan_merge(
    sessions: Sequence[Session],
    versions: Mapping[str, int],
    holders: MutableMapping[tuple[str, str], str],
) -> MergePlan:
    """What to do with each session.

    Args:
        sessions: from the other store.
        versions: of those of them that are here.
        holders: (user, persona) → id of the active session here; is brought up to date.
    """
    decided = MergePlan()
    known = [session for session in sessions if session.session_id in versions]
    # Those that end one make room for others, so they come first.
    for session in sorted(known, key=lambda one: one.is_active):
        if session.version <= versions[session.session_id]:
            decided.kept.append(session.session_id)
        elif _fits(session, holders):
            decided.newer.append(session)
        else:
            decided.refused.append(session.session_id)
    for session in sessions:
        if session.session_id in versions:
            continue
        if _fits(session, holders):
            decided.new.append(session)
        else:
            decided.refused.append(session.session_id)
    return decided


def _fits(session: Session, holders: MutableMapping[tuple[str, str], str]) -> bool:
    key = (session.user_id, session.persona)
    if session.is_active:
        return holders.setdefault(key, session.session_id) == session.session_id
    if holders.get(key) == session.session_id:
        del holders[key]
    return True
