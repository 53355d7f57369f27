"""The writes during an outage of the database, in order, and the conflicts of their replay.

The tables lie in the session file, so that a write and its entry are one transaction.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from shared_utils.clock import utc_now
from shared_utils.persistence.session_file.tables import prepare, time_text
from shared_utils.persistence.sessions.port import Session
from shared_utils.persistence.sessions.rows import row_of, session_of
from shared_utils.persistence.sqlite_file import SqliteFile
from shared_utils.persistence.statements import statements

_SQL: Final = statements("session_journal")

NEW_SESSION: Final = 0
"""Base of a session that did not exist."""
UNKNOWN_BASE: Final = -1
"""Base of a write that follows one which could not be replayed."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One write."""

    number: int
    session_id: str
    base: int | None
    """Version before it, or NEW, or DOUBTFUL; None where the session was removed."""
    session: Session | None
    """As it was afterwards; None where it was removed."""


@dataclass(frozen=True, slots=True)
class SessionConflict:
    """A write that lost against another."""

    happened: str
    """ISO 8601, UTC."""
    session_id: str
    reason: str
    lost: Mapping[str, Any] | None
    """The row of the losing write; None if a removal lost."""
    won: Mapping[str, Any] | None


def record(connection: sqlite3.Connection, session: Session, base: int | None) -> None:
    """Add a write to the journal, within its transaction."""
    text = None if base is None else json.dumps(row_of(session), ensure_ascii=False)
    connection.execute(_SQL["add"], {"session_id": session.session_id, "base_version": base, "session": text})


class SessionOutageLog:
    """The journal in the session file ``path``."""

    def __init__(self, path: Path) -> None:
        self._file = SqliteFile(path, prepare)

    async def oldest(self, limit: int) -> Sequence[Entry]:
        """The oldest entries, in the order they were written."""
        rows = await self._file.read(lambda connection: connection.execute(_SQL["oldest"], {"limit": limit}).fetchall())
        return [_entry(row) for row in rows]

    async def done(self, *entries: Entry) -> None:
        """The database has them."""
        numbers = [{"number": entry.number} for entry in entries]
        await self._file.write(lambda connection: connection.executemany(_SQL["done"], numbers))

    async def lost(
        self, entry: Entry, reason: str, *, lost: Session | None, won: Session | None, drop: bool, kept: bool = True
    ) -> None:
        """The entry did not get into the database as it is.

        Args:
            entry: is taken out; later ones of its session are doubtful from now on.
            reason: for people.
            lost: what is nowhere else any more.
            won: what is in the database.
            drop: forget the session's row in the file, since the database has another in its place.
            kept: False where nothing was lost that people would want to see.
        """
        conflict = {
            "happened": time_text(utc_now()),
            "session_id": entry.session_id,
            "reason": reason,
            "lost": lost and json.dumps(row_of(lost), ensure_ascii=False),
            "won": won and json.dumps(row_of(won), ensure_ascii=False),
        }

        def write(connection: sqlite3.Connection) -> None:
            if kept:
                connection.execute(_SQL["conflict"], conflict)
            connection.execute(_SQL["done"], {"number": entry.number})
            connection.execute(_SQL["doubt"], {"session_id": entry.session_id})
            if drop:
                connection.execute(_SQL["drop"], {"session_id": entry.session_id})

        await self._file.write(write)

    async def use(self, session_ids: Collection[str], messages: Mapping[str, int]) -> None:
        """Remember that these sessions were used, and how many messages they had."""
        values = [{"session_id": one, "messages": messages.get(one, 0)} for one in session_ids]
        await self._file.write(lambda connection: connection.executemany(_SQL["use"], values))

    async def uses(self) -> Mapping[str, int]:
        """Session id → messages, of what :meth:`use` remembered."""
        return {row["session_id"]: row["messages"] for row in await self._file.read(_uses)}

    async def forget_uses(self, uses: Mapping[str, int]) -> None:
        """The database has these uses."""
        values = [{"session_id": one, "messages": count} for one, count in uses.items()]

        def forget(connection: sqlite3.Connection) -> None:
            connection.executemany(_SQL["forget_use"], values)

        await self._file.write(forget)

    async def counts(self) -> Mapping[str, int]:
        """``waiting`` writes, and ``conflicts`` so far."""
        row = await self._file.read(lambda connection: connection.execute(_SQL["counts"]).fetchone())
        return {"waiting": row["waiting"], "conflicts": row["conflicts"]}

    async def conflicts(self, limit: int = 100) -> Sequence[SessionConflict]:
        """What lost, newest first."""
        rows = await self._file.read(
            lambda connection: connection.execute(_SQL["conflicts"], {"limit": limit}).fetchall()
        )
        return [
            SessionConflict(row["happened"], row["session_id"], row["reason"], _json(row["lost"]), _json(row["won"]))
            for row in rows
        ]

    async def erase(self, user_id: str) -> int:
        """Forget what is kept of a user's sessions: waiting writes and conflicts; returns how many there were."""

        def erase(connection: sqlite3.Connection) -> int:
            values = {"user_id": user_id}
            return sum(connection.execute(_SQL[name], values).rowcount for name in ("erase_entries", "erase_conflicts"))

        return await self._file.write(erase)

    def close(self) -> None:
        """Give the file back."""
        self._file.close()


def _uses(connection: sqlite3.Connection) -> Sequence[sqlite3.Row]:
    return connection.execute(_SQL["uses"]).fetchall()


def _entry(row: sqlite3.Row) -> Entry:
    values = _json(row["session"])
    session = None if values is None else session_of(values)
    return Entry(row["number"], row["session_id"], row["base_version"], session)


def _json(text: str | None) -> Mapping[str, Any] | None:
    return None if text is None else json.loads(text)
