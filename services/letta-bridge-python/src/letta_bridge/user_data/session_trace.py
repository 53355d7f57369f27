"""The user's sessions, of every persona, active or ended."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Final

from letta_bridge.user_data.files import write_json_lines
from letta_bridge.user_data.trace import Counts
from shared_utils.persistence.file_sessions import FileSessionStore
from shared_utils.persistence.session_journal import SessionJournal
from shared_utils.persistence.sessions import Session, SessionStore

_PAGE: Final = 100


class SessionTrace:
    """See :class:`Trace`; ``name`` tells one store's sessions from another's."""

    def __init__(self, store: SessionStore, name: str = "sessions") -> None:
        self._store = store
        self._name = name

    async def count(self, user_id: str) -> Counts:
        """See :class:`Trace`."""
        page = await self._store.page(limit=1, include_inactive=True, user_id=user_id)
        return {self._name: page.total}

    async def export(self, user_id: str, folder: Path) -> Counts:
        """See :class:`Trace`."""
        sessions = [asdict(session) for session in await self._all(user_id)]
        return {self._name: write_json_lines(folder / f"{self._name}.jsonl", sessions)}

    async def erase(self, user_id: str) -> Counts:
        """See :class:`Trace`."""
        gone = 0
        for session in await self._all(user_id):
            gone += await self._store.delete(session.session_id, hard=True)
        return {self._name: gone}

    async def _all(self, user_id: str) -> list[Session]:
        found: list[Session] = []
        while True:
            page = await self._store.page(limit=_PAGE, offset=len(found), include_inactive=True, user_id=user_id)
            found += page.sessions
            if len(page.sessions) < _PAGE:
                return found


class SessionFileTrace:
    """See :class:`Trace`: what this host's bridges keep in the session file for an outage of the database."""

    def __init__(self, path: Path) -> None:
        self._store = FileSessionStore(path)
        self._journal = SessionJournal(path)
        self._sessions = SessionTrace(self._store, "sessions_in_file")

    async def count(self, user_id: str) -> Counts:
        """See :class:`Trace`."""
        return await self._sessions.count(user_id)

    async def export(self, user_id: str, folder: Path) -> Counts:
        """See :class:`Trace`."""
        return await self._sessions.export(user_id, folder)

    async def erase(self, user_id: str) -> Counts:
        """See :class:`Trace`. Writes that wait for the database go first, so that none brings the session back."""
        waiting = await self._journal.erase(user_id)
        return {**await self._sessions.erase(user_id), "session_writes_in_file": waiting}

    async def close(self) -> None:
        """Give the file back."""
        self._journal.close()
        await self._store.close()
