"""Follows erasures in the session file: removes an erased user's rows when this host learns of the erasure.

The file may hold sessions, writes that wait for the database, uses and conflicts. Which erasures it has followed stands
in it too, so that a file brought back from a backup follows them once more. An opt-out in a session of an earlier
release is kept as a choice, which outlives an erasure (choices/port.py).
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Final

from shared_utils.persistence.choices.file_store import merge_choices
from shared_utils.persistence.choices.port import imported_opt_out
from shared_utils.persistence.erasures.log import user_hash
from shared_utils.persistence.session_file.tables import prepare
from shared_utils.persistence.sqlite_file import SqliteFile
from shared_utils.persistence.statements import statements

_SQL: Final = statements("file_erasures")
_SESSIONS: Final = statements("file_sessions")
_LOG_TRIES: Final = 40
_LOG_PAUSE_SECONDS: Final = 0.05
_MAX_REMEMBERED_ERASURES: Final = 100_000
"""Erasures remembered as followed: as many as a ledger keeps."""


class FileErasures:
    """The session file ``path``."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = SqliteFile(path, prepare)

    async def follow(self, erasures: Mapping[str, int], *, slack_ms: int = 0) -> int:
        """Erase these users, unless that was done since; how many rows went.

        Args:
            erasures: SHA-256 of the user's id → when the user was erased, ms.
            slack_ms: an erasure is known where one up to so much earlier was followed: its time is of another clock.

        Raises:
            SessionStoreError: the file cannot be used.
        """
        if not erasures:
            return 0

        def work(connection: sqlite3.Connection) -> int:
            connection.execute(_SQL["make"])
            known = {row["user_hash"]: row["at_ms"] for row in connection.execute(_SQL["followed"])}
            new = {digest: at for digest, at in erasures.items() if at > known.get(digest, -slack_ms - 1) + slack_ms}
            if not new:
                return 0
            gone = _erase(connection, new)
            connection.executemany(_SQL["follow"], list(new.items()))
            connection.execute(_SQL["bound"], (_MAX_REMEMBERED_ERASURES,))
            return gone

        gone = await self._file.write(work)
        if gone:
            await self._file.read(_truncate_log)
        return gone

    async def count(self, user_id: str) -> Mapping[str, int]:
        """What the file holds of one user; all 0 where there is no file."""
        if not self._path.exists():
            return dict.fromkeys(_COUNTED_TABLES, 0)
        values = {"user_id": user_id}

        def count(connection: sqlite3.Connection) -> Mapping[str, int]:
            return {name: connection.execute(_SQL[f"count_{name}"], values).fetchone()[0] for name in _COUNTED_TABLES}

        return await self._file.read(count)

    async def erase(self, user_id: str) -> Mapping[str, int]:
        """Remove what the file holds of one user; how much of each kind."""
        before = await self.count(user_id)
        if any(before.values()):
            await self._file.write(lambda connection: _erase(connection, {user_hash(user_id)}))
            await self._file.read(_truncate_log)
        return before

    def close(self) -> None:
        """Give the file back."""
        self._file.close()


_COUNTED_TABLES: Final = ("sessions", "writes", "conflicts")


def erased_in_copy(connection: sqlite3.Connection, digests: Collection[str]) -> set[str]:
    """Erase users, by the SHA-256 of their ids, from a session file that nothing else has open.

    Returns:
        The hashes of users who had rows.
    """
    connection.row_factory = sqlite3.Row
    connection.execute("PRAGMA secure_delete = ON")
    with connection:
        prepare(connection)
        found = {user_hash(row["user_id"]) for row in connection.execute(_SQL["users"])}.intersection(digests)
        _erase(connection, found)
    return found


def _erase(connection: sqlite3.Connection, digests: Collection[str]) -> int:
    users = [row["user_id"] for row in connection.execute(_SQL["users"]) if user_hash(row["user_id"]) in digests]
    opted_out = {row["user_id"] for row in connection.execute(_SESSIONS["opted_out_users"])}
    merge_choices(connection, map(imported_opt_out, opted_out.intersection(users)))
    return sum(
        connection.execute(_SQL[name], {"user_id": user}).rowcount
        for user in users
        for name in ("erase_uses", "erase_writes", "erase_conflicts", "erase_sessions")
    )


def _truncate_log(connection: sqlite3.Connection) -> None:
    """The write-ahead log holds the pages as they were; a process that reads just now keeps it for a moment longer."""
    for _ in range(_LOG_TRIES):
        [busy, *_] = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if not busy:
            return
        time.sleep(_LOG_PAUSE_SECONDS)
