"""Letta's SQLite file (0.11 and earlier), read and never written: no journal, no lock file beside it."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from letta_bridge.vectors.importing.letta_rows import SourceUnreadable


class LettaSqlite:
    """See :class:`~letta_bridge.vectors.importing.letta_tables.LettaDatabase`.

    Raises:
        SourceUnreadable: there is no such file, or it is no database.
    """

    embedding = "p.embedding"
    after = ":after"
    most = ":most"

    def __init__(self, path: Path) -> None:
        self._path = path
        if not path.is_file():
            raise SourceUnreadable(f"{path} is no file; name Letta's sqlite.db, as in sqlite:////root/.letta/sqlite.db")
        # A file nobody writes is read as it lies; SQLite would else put a file of its own beside it.
        how = "mode=ro" if path.with_name(f"{path.name}-wal").exists() else "immutable=1"
        self._connection = sqlite3.connect(f"file:{quote(str(path.resolve()))}?{how}", uri=True)
        self._connection.row_factory = sqlite3.Row

    def tables(self) -> set[str]:
        """See the port, as for all of these."""
        return {row["name"] for row in self.rows("SELECT name FROM sqlite_master WHERE type = 'table'", {})}

    def rows(self, statement: str, params: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
        try:
            return [dict(row) for row in self._connection.execute(statement, dict(params))]
        except sqlite3.Error as error:
            raise SourceUnreadable(f"{self._path} cannot be read as Letta's database ({error})") from error

    def close(self) -> None:
        self._connection.close()
