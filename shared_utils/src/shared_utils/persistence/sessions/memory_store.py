"""Sessions in memory: for tests."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from shared_utils.clock import utc_now
from shared_utils.persistence.errors import Conflict, RowMissing
from shared_utils.persistence.sessions.merge import plan_merge
from shared_utils.persistence.sessions.port import (
    Cleanup,
    MergeResult,
    Restoration,
    Session,
    SessionPage,
    SessionStatistics,
    SessionStoreAway,
    StaleSession,
)
from shared_utils.persistence.sessions.values import MAX_BYTES, storable

_SPANS = {"1h": timedelta(hours=1), "1d": timedelta(days=1), "7d": timedelta(days=7), "30d": timedelta(days=30)}


class InMemorySessionStore:
    """A session store that forgets with the process. ``broken`` makes every call fail, as a lost database would."""

    def __init__(self, *, max_bytes: int = MAX_BYTES) -> None:
        self.broken = False
        self._max_bytes = max_bytes
        self._sessions: dict[str, Session] = {}
        self._changed: dict[str, datetime] = {}
        self._claims: dict[str, tuple[str, float]] = {}

    @property
    def sessions(self) -> Mapping[tuple[str, str], Session]:
        """The active ones, by user and persona."""
        return {(session.user_id, session.persona): session for session in self._sessions.values() if session.is_active}

    @property
    def last_error(self) -> str | None:
        """See :class:`SessionStore`."""
        return SessionStoreAway.__doc__ if self.broken else None

    async def find(self, user_id: str, persona: str) -> Session | None:
        """See :class:`SessionStore`."""
        self._check()
        return self.sessions.get((user_id, persona))

    async def load(self, session_id: str) -> Session | None:
        """See :class:`SessionStore`."""
        self._check()
        return self._sessions.get(session_id)

    async def load_all(self, session_ids: Collection[str]) -> Sequence[Session]:
        """See :class:`SessionStore`."""
        self._check()
        return [self._sessions[one] for one in session_ids if one in self._sessions]

    async def reserve(self, user_id: str, persona: str) -> Session:
        """See :class:`SessionStore`."""
        self._check()
        return self.sessions.get((user_id, persona)) or self._write(Session(user_id, persona))

    async def claim(self, session_id: str, owner: str, seconds: float) -> bool:
        """See :class:`SessionStore`."""
        self._check()
        session = self._sessions.get(session_id)
        if session is None or not session.is_active or session.agent_id is not None:
            return False
        holder, until = self._claims.get(session_id, (owner, 0.0))
        if holder != owner and time.monotonic() < until:
            return False
        self._claims[session_id] = (owner, time.monotonic() + seconds)
        return True

    async def save(self, session: Session, *, expires_in_hours: float | None = None) -> Session:
        """See :class:`SessionStore`."""
        self._check()
        held = storable(session, self._max_bytes)
        stored = self._sessions.get(session.session_id)
        if stored is None or stored.version != session.version:
            raise StaleSession
        if expires_in_hours is not None:
            held = replace(held, expires_at=utc_now() + timedelta(hours=expires_in_hours))
        count = stored.message_count
        if session.agent_id is not None:
            self._claims.pop(session.session_id, None)
        return self._write(replace(held, version=session.version + 1, last_updated=utc_now(), message_count=count))

    async def page(
        self, *, limit: int, offset: int = 0, include_inactive: bool = False, user_id: str | None = None
    ) -> SessionPage:
        """See :class:`SessionStore`."""
        self._check()
        found = [
            session
            for session in self._newest_first()
            if (session.is_active or include_inactive) and user_id in (None, session.user_id)
        ]
        return SessionPage(found[offset : offset + limit], len(found))

    async def delete(self, session_id: str, *, hard: bool = False) -> bool:
        """See :class:`SessionStore`."""
        self._check()
        session = self._sessions.get(session_id)
        if session is None or not (hard or session.is_active):
            return False
        if hard:
            del self._sessions[session_id]
        else:
            self._write(replace(session, is_active=False, version=session.version + 1))
        return True

    async def undelete(self, session_id: str) -> Session:
        """See :class:`SessionStore`."""
        self._check()
        session = self._sessions.get(session_id)
        if session is None:
            raise RowMissing
        if session.is_active:
            return session
        expires = session.expires_at if session.expires_at and session.expires_at > utc_now() else None
        return self._write(replace(session, is_active=True, expires_at=expires, version=session.version + 1))

    async def touch(
        self,
        session_ids: Collection[str],
        *,
        messages: Mapping[str, int] | None = None,
        expires_in_hours: float | None = None,
    ) -> Collection[str]:
        """See :class:`SessionStore`."""
        self._check()
        missed = []
        for session_id in session_ids:
            session = self._sessions.get(session_id)
            if session is None or not session.is_active:
                missed.append(session_id)
                continue
            hours = expires_in_hours
            expires = session.expires_at if hours is None else utc_now() + timedelta(hours=hours)
            count = session.message_count + (messages or {}).get(session_id, 0)
            used = replace(session, last_updated=utc_now(), expires_at=expires, message_count=count)
            self._sessions[session_id] = used
        return missed

    async def changed(self, since: datetime | None) -> tuple[Collection[tuple[str, str]], datetime]:
        """See :class:`SessionStore`."""
        self._check()
        now = utc_now()
        if since is None:
            return set(), now
        ids = [session_id for session_id, at in self._changed.items() if at >= since and session_id in self._sessions]
        return {(self._sessions[one].user_id, self._sessions[one].persona) for one in ids}, now

    async def opted_out_users(self) -> Collection[str]:
        """See :class:`SessionStore`."""
        self._check()
        rows = list(self._sessions.values())
        opted_in = {row.user_id for row in rows if row.is_active and row.metadata.get("permanent_memory") is True}
        return {
            row.user_id for row in rows if not row.permanent_memory and (row.is_active or row.user_id not in opted_in)
        }

    async def cleanup(self, *, grace: timedelta) -> Cleanup:
        """See :class:`SessionStore`."""
        self._check()
        now = utc_now()
        sessions = list(self._sessions.values())
        expired = [session for session in sessions if session.is_active and _is_over(session, now)]
        for session in expired:
            self._write(replace(session, is_active=False, version=session.version + 1))
        ended = [one for one in self._sessions.values() if not one.is_active]
        old = [session for session in ended if self._changed[session.session_id] <= now - grace]
        for session in old:
            del self._sessions[session.session_id]
        return Cleanup(len(expired), len(old))

    async def restore(self, *, limit: int) -> Restoration:
        """See :class:`SessionStore`."""
        return Restoration((await self.page(limit=limit)).sessions, {})

    async def part(self, *, after: str, limit: int) -> Restoration:
        """See :class:`SessionStore`."""
        self._check()
        ids = sorted(session_id for session_id in self._sessions if session_id > after)
        return Restoration([self._sessions[session_id] for session_id in ids[:limit]], {})

    async def merge(self, sessions: Sequence[Session], *, dry_run: bool = False) -> MergeResult:
        """See :class:`SessionStore`."""
        self._check()
        held = [storable(session, self._max_bytes) for session in sessions]
        versions = {session.session_id: session.version for session in self._sessions.values()}
        holders = {key: session.session_id for key, session in self.sessions.items()}
        decided = plan_merge(held, versions, holders)
        if not dry_run:
            for session in sorted(decided.newer, key=lambda one: one.is_active) + decided.new:
                self._write(session)
        return decided.taken

    async def statistics(self) -> SessionStatistics:
        """See :class:`SessionStore`."""
        self._check()
        now = utc_now()
        active = list(self.sessions.values())
        counts = [session.message_count for session in active if session.message_count]
        recent = [one for one in self._sessions.values() if one.created_at > now - _SPANS["30d"]]
        return SessionStatistics(
            total=len(self._sessions),
            active=sum(not _is_over(session, now) for session in active),
            reserved=sum(session.agent_id is None and not _is_over(session, now) for session in active),
            expired=sum(_is_over(session, now) for session in active),
            average_messages=sum(counts) / len(counts) if counts else 0.0,
            created=dict(Counter(session.created_at.date().isoformat() for session in recent)),
            last_seen=dict.fromkeys((*_SPANS, "older"), 0)
            | Counter(_span(now - session.last_updated) for session in active),
        )

    async def count(self) -> Mapping[str, int]:
        """See :class:`SessionStore`."""
        self._check()
        now = utc_now()
        active = [session for session in self.sessions.values() if not _is_over(session, now)]
        return {"active": len(active), "reserved": sum(session.agent_id is None for session in active)}

    async def check(self) -> str:
        """See :class:`SessionStore`."""
        self._check()
        return "memory of this process"

    async def close(self) -> None:
        """See :class:`SessionStore`."""

    def _write(self, session: Session) -> Session:
        other = self.sessions.get((session.user_id, session.persona))
        if session.is_active and other is not None and other.session_id != session.session_id:
            raise Conflict
        self._sessions[session.session_id] = session
        self._changed[session.session_id] = utc_now()
        return session

    def _newest_first(self) -> list[Session]:
        return sorted(
            self._sessions.values(), key=lambda session: (-session.last_updated.timestamp(), session.session_id)
        )

    def _check(self) -> None:
        if self.broken:
            raise SessionStoreAway


def _is_over(session: Session, now: datetime) -> bool:
    """Whether the next cleanup ends it."""
    return session.expires_at is not None and session.expires_at <= now and session.permanent_memory


def _span(age: timedelta) -> str:
    return next((name for name, span in _SPANS.items() if age < span), "older")
