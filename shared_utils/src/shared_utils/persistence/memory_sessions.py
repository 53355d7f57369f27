"""Sessions in memory: for tests."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from shared_utils.persistence.sessions import Session, SessionStoreError, StaleSession, utc_now


class InMemorySessionStore:
    """A session store that forgets with the process. ``broken`` makes every call fail, as a lost database would."""

    def __init__(self) -> None:
        self.sessions: dict[tuple[str, str], Session] = {}
        self.broken = False

    async def find(self, user_id: str, persona: str) -> Session | None:
        """See :class:`SessionStore`."""
        self._check()
        return self.sessions.get((user_id, persona))

    async def reserve(self, user_id: str, persona: str) -> Session:
        """See :class:`SessionStore`."""
        self._check()
        return self.sessions.setdefault((user_id, persona), Session(user_id, persona))

    async def save(self, session: Session) -> Session:
        """See :class:`SessionStore`."""
        self._check()
        key = (session.user_id, session.persona)
        stored = self.sessions.get(key)
        if stored is None or stored.session_id != session.session_id or stored.version != session.version:
            raise StaleSession
        saved = replace(session, version=session.version + 1, last_updated=utc_now())
        if saved.is_active:
            self.sessions[key] = saved
        else:
            del self.sessions[key]
        return saved

    async def touch(self, session_ids: Collection[str]) -> None:
        """See :class:`SessionStore`."""
        self._check()
        for key, session in self.sessions.items():
            if session.session_id in session_ids:
                self.sessions[key] = replace(session, last_updated=utc_now())

    async def count(self) -> Mapping[str, int]:
        """See :class:`SessionStore`."""
        self._check()
        reserved = sum(session.agent_id is None for session in self.sessions.values())
        return {"active": len(self.sessions), "reserved": reserved}

    async def close(self) -> None:
        """See :class:`SessionStore`."""

    def _check(self) -> None:
        if self.broken:
            raise SessionStoreError
