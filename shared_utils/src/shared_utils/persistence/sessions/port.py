"""Sessions, which assign agents to users and hold users' choices: the port, its records and errors."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final, Protocol

from shared_utils.clock import utc_now
from shared_utils.persistence.choices.port import UNDATED_MS, Choice, user_key
from shared_utils.persistence.errors import SessionStoreAway, SessionStoreError, StaleSession

CHOICE_FIELD: Final = "permanent_memory"
CHOSEN_FIELD: Final = "permanent_memory_chosen_ms"
"""Fields of a session's metadata: the user's choice, and when it was made (``Choice.chosen_ms``).

The user owns them, and they go with the session. A bridge of the previous release writes the first alone and keeps the
second, which is then too old: an opt-out wins such a tie."""


@dataclass(frozen=True, slots=True)
class Session:
    """One row. At most one active session exists per (user, persona)."""

    user_id: str
    persona: str
    session_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    agent_id: str | None = None
    """None while the session is only reserved: its agent may or may not exist in Letta yet."""
    session_data: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """``permanent_memory`` and ``permanent_memory_chosen_ms`` (a replica of the choice, for bridges that do not read
    choices/port.py), and fields of other programs."""
    created_at: datetime = field(default_factory=utc_now)
    last_updated: datetime = field(default_factory=utc_now)
    """Last use."""
    expires_at: datetime | None = None
    version: int = 1
    """Counts writes; a write that names an older one is refused."""
    is_active: bool = True
    message_count: int = 0
    """Turns told to ``touch``; the store counts, ``save`` leaves it alone."""

    @property
    def permanent_memory(self) -> bool:
        """False if this row holds an opt-out: any value but ``true``. The decision is made by choices/port.py."""
        return self.metadata.get(CHOICE_FIELD, True) is True

    @property
    def opt_out(self) -> Choice | None:
        """The opt-out in this row; None if there is none.

        One without a readable time counts as later than every choice: a bridge of the previous release wrote it.
        """
        if self.permanent_memory:
            return None
        return self.choice or Choice(user_key(self.user_id), permanent_memory=False, chosen_ms=UNDATED_MS)

    @property
    def choice(self) -> Choice | None:
        """The choice in this row with its time; None if there is none, or none with a readable time."""
        chosen_ms = self.metadata.get(CHOSEN_FIELD)
        if not isinstance(chosen_ms, int) or isinstance(chosen_ms, bool):
            return None
        return Choice(user_key(self.user_id), self.permanent_memory, chosen_ms)


@dataclass(frozen=True, slots=True)
class SessionPage:
    """One page of a list, newest use first."""

    sessions: Sequence[Session]
    total: int
    """Of the whole list."""


@dataclass(frozen=True, slots=True)
class Cleanup:
    """What a cleanup did."""

    ended: int
    """Expired sessions that are inactive now."""
    removed: int
    """Sessions inactive for longer than the grace, gone for good."""


@dataclass(frozen=True, slots=True)
class Restoration:
    """Sessions read, and those that could not be."""

    sessions: Sequence[Session]
    failed: Mapping[str, str]
    """Session id → why its row could not be read."""


@dataclass(frozen=True, slots=True)
class MergeResult:
    """What became of sessions that came from another store."""

    written: int = 0
    """New here, or newer than the version that was here."""
    kept: int = 0
    """Already here, at this version or a newer one."""
    refused: Collection[str] = ()
    """Ids of active sessions whose user has another active one of this persona here."""


@dataclass(frozen=True, slots=True)
class SessionStatistics:
    """Numbers over all sessions."""

    total: int
    active: int
    """Neither ended nor expired."""
    reserved: int
    """Active ones without an agent."""
    expired: int
    """Those that the next cleanup ends."""
    average_messages: float
    """``message_count`` over active sessions that have one; 0 where none has."""
    created: Mapping[str, int]
    """Day (``2026-11-20``, UTC) → sessions made on it; the last 30 days."""
    last_seen: Mapping[str, int]
    """``1h``, ``1d``, ``7d``, ``30d``, ``older`` → sessions not ended, expired or not, last used within it and in no
    shorter one."""


class SessionStore(Protocol):
    """Sessions that outlive the process. Every method may raise SessionStoreError."""

    @property
    def last_error(self) -> str | None:
        """Why it is degraded, for people; None while it works."""
        ...

    async def find(self, user_id: str, persona: str) -> Session | None:
        """The active session."""
        ...

    async def reserve(self, user_id: str, persona: str) -> Session:
        """The active session, made without an agent where there was none. Safe over several processes."""
        ...

    async def claim(self, session_id: str, owner: str, seconds: float) -> bool:
        """The right to make this session's agent, for so long; False while another owner holds it.

        It ends with the time, or when the session gets an agent.
        """
        ...

    async def save(self, session: Session, *, expires_in_hours: float | None = None) -> Session:
        """Write agent, data, metadata and expiry; returns the session with its new version.

        Args:
            session: at the version it was read with.
            expires_in_hours: sets ``expires_at`` to so long after now, by the store's clock.

        Raises:
            StaleSession: somebody else wrote it since it was read.
            ValueRefused: data or metadata is larger than the store's limit; the key is named.
        """
        ...

    async def load(self, session_id: str) -> Session | None:
        """One session by its id, active or not."""
        ...

    async def load_all(self, session_ids: Collection[str]) -> Sequence[Session]:
        """Those of the sessions that there are, active or not, in any order."""
        ...

    async def page(
        self, *, limit: int, offset: int = 0, include_inactive: bool = False, user_id: str | None = None
    ) -> SessionPage:
        """A page of all sessions, or of one user's."""
        ...

    async def delete(self, session_id: str, *, hard: bool = False) -> bool:
        """End a session (soft), or remove its row; False where there is none."""
        ...

    async def undelete(self, session_id: str) -> Session:
        """Make an ended session active again.

        Raises:
            RowMissing: there is none of this id.
            Conflict: its user has another active session of this persona.
        """
        ...

    async def touch(
        self,
        session_ids: Collection[str],
        *,
        messages: Mapping[str, int] | None = None,
        expires_in_hours: float | None = None,
    ) -> Collection[str]:
        """Say that these sessions are in use.

        Args:
            session_ids: any number.
            messages: session id → how many more messages it had.
            expires_in_hours: moves ``expires_at`` to so long after now.

        Returns:
            Those of them that are no active sessions (any more).
        """
        ...

    async def changed(self, since: datetime | None) -> tuple[Collection[tuple[str, str]], datetime]:
        """(user, persona) of what was written (not merely used) after ``since``, and the store's time to ask with next.

        With None nothing is listed: only the time is wanted. A write may be listed more than once; a row that was
        removed is not listed: ``touch`` tells of those.
        """
        ...

    async def opted_out_users(self) -> Collection[str]:
        """Users whose sessions hold an opt-out, the form of earlier releases.

        An ended session counts only if no active session of the user holds an explicit opt-in.
        """
        ...

    async def cleanup(self, *, grace: timedelta) -> Cleanup:
        """End expired sessions, remove those ended for longer than ``grace``.

        A session with an opt-out does not expire, because a bridge of the previous release would lose the choice.
        """
        ...

    async def restore(self, *, limit: int) -> Restoration:
        """The active sessions, most recently used first. A row that cannot be read does not stop the others."""
        ...

    async def part(self, *, after: str, limit: int) -> Restoration:
        """The sessions, active or not, whose ids follow ``after`` (at first ``""``), in the order of their ids."""
        ...

    async def merge(self, sessions: Sequence[Session], *, dry_run: bool = False) -> MergeResult:
        """Take over sessions as another store has them, version and times included; the newer version stays.

        Args:
            sessions: each id once.
            dry_run: only say what would be done.
        """
        ...

    async def statistics(self) -> SessionStatistics:
        """Numbers over all sessions."""
        ...

    async def count(self) -> Mapping[str, int]:
        """``active`` sessions, neither ended nor expired, and those of them ``reserved`` without an agent. Cheap."""
        ...

    async def check(self) -> str:
        """What answers, for people: product, version, place.

        Raises:
            SessionStoreError: nothing does.
        """
        ...

    async def close(self) -> None:
        """Give back files and connections."""
        ...


__all__ = [
    "Cleanup",
    "MergeResult",
    "Restoration",
    "Session",
    "SessionPage",
    "SessionStatistics",
    "SessionStore",
    "SessionStoreAway",
    "SessionStoreError",
    "StaleSession",
    "utc_now",
]
