"""The user's sessions, of every persona, active or ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final

from letta_bridge.user_data.files import write_json_lines
from letta_bridge.user_data.port import Counts
from shared_utils.persistence.choices.port import ChoiceStore, imported_opt_out
from shared_utils.persistence.erasures.session_file import FileErasures
from shared_utils.persistence.sessions.file_store import FileSessionStore
from shared_utils.persistence.sessions.port import Session, SessionStore

_SESSIONS_PER_PAGE: Final = 100


class SessionUserData:
    """See :class:`UserDataStore`.

    Args:
        store: the sessions.
        name: of the store, in the counts.
        choices: keeps the opt-out that an earlier release wrote into a session; None where the store only is read.
    """

    def __init__(self, store: SessionStore, name: str = "sessions", *, choices: ChoiceStore | None = None) -> None:
        self.name = name
        self._store = store
        self._choices = choices

    async def count(self, user_id: str) -> Counts:
        """See :class:`UserDataStore`."""
        page = await self._store.page(limit=1, include_inactive=True, user_id=user_id)
        return {self.name: page.total}

    async def export(self, user_id: str, folder: Path) -> Counts:
        """See :class:`UserDataStore`."""
        sessions = [asdict(session) for session in await self._all(user_id)]
        return {self.name: write_json_lines(folder / f"{self.name}.jsonl", sessions)}

    async def erase(self, user_id: str) -> Counts:
        """See :class:`UserDataStore`."""
        gone = 0
        sessions = await self._all(user_id)
        if self._choices is not None and _opted_out(sessions):
            await self._choices.merge([imported_opt_out(user_id)])
        for session in sessions:
            gone += await self._store.delete(session.session_id, hard=True)
        return {self.name: gone}

    async def _all(self, user_id: str) -> list[Session]:
        found: list[Session] = []
        while True:
            page = await self._store.page(
                limit=_SESSIONS_PER_PAGE, offset=len(found), include_inactive=True, user_id=user_id
            )
            found += page.sessions
            if len(page.sessions) < _SESSIONS_PER_PAGE:
                return found


def _opted_out(sessions: Sequence[Session]) -> bool:
    """See :meth:`SessionStore.opted_out_users`."""
    opted_in = any(session.is_active and session.metadata.get("permanent_memory") is True for session in sessions)
    return any(not session.permanent_memory and (session.is_active or not opted_in) for session in sessions)


class SessionFileUserData:
    """See :class:`UserDataStore`: the session file of this host, whether it serves alone or during an outage.

    Args:
        path: the file; it is not made where it is missing.
        name: of its sessions, in the counts.
    """

    def __init__(self, path: Path, name: str = "sessions_in_file") -> None:
        self.name = name
        self._path = path
        self._file = FileErasures(path)

    async def count(self, user_id: str) -> Counts:
        """See :class:`UserDataStore`."""
        return self._named(await self._file.count(user_id))

    async def export(self, user_id: str, folder: Path) -> Counts:
        """See :class:`UserDataStore`."""
        if not self._path.exists():
            return {self.name: 0}
        store = FileSessionStore(self._path)
        try:
            return await SessionUserData(store, self.name).export(user_id, folder)
        finally:
            await store.close()

    async def erase(self, user_id: str) -> Counts:
        """See :class:`UserDataStore`. Nothing of it stays in the file's free pages."""
        return self._named(await self._file.erase(user_id))

    async def close(self) -> None:
        """Give the file back."""
        self._file.close()

    def _named(self, counts: Counts) -> Counts:
        return {
            self.name: counts["sessions"],
            "session_writes_in_file": counts["writes"],
            "session_conflicts_in_file": counts["conflicts"],
        }
