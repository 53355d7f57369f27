"""Whether the session file can be written now, asked of the disk itself: a read succeeds on a full one."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from shared_utils.persistence.errors import SessionStoreError
from shared_utils.persistence.session_file.tables import prepare
from shared_utils.persistence.sqlite_file import SqliteFile


class SessionFileProbe:
    """Writes a page of the session file ``path`` as it is; creates the file where it is missing."""

    def __init__(self, path: Path) -> None:
        self._file = SqliteFile(path, prepare)

    async def check(self) -> str | None:
        """Why the file cannot be written, in one sentence; None where it can."""
        try:
            await self._file.write(_rewrite)
        except SessionStoreError as error:
            return str(error)
        return None

    def close(self) -> None:
        """Give the file back."""
        self._file.close()


def _rewrite(connection: sqlite3.Connection) -> None:
    [version] = connection.execute("PRAGMA user_version").fetchone()
    # SQLite writes the first page whether the value changes or not.
    connection.execute(f"PRAGMA user_version = {int(version)}")
