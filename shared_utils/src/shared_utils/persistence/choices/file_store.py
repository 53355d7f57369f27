"""Choices in the session file: the durable store without a database, else the replica of one host."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from shared_utils.clock import utc_now
from shared_utils.persistence.choices.port import IMPORTED_MS, Choice
from shared_utils.persistence.session_file.tables import prepare, time_text
from shared_utils.persistence.sqlite_file import SqliteFile
from shared_utils.persistence.statements import statements

_SQL: Final = statements("file_choices")
_CLOCK_MARGIN: Final = timedelta(seconds=2)
"""Overlap of ``changed``: a write with an earlier timestamp may still wait for its lock."""


class FileChoiceStore:
    """See :class:`ChoiceStore`. Several processes of one host may share the file ``path``."""

    def __init__(self, path: Path) -> None:
        self._file = SqliteFile(path, prepare)

    async def find(self, user_keys: Collection[str]) -> Mapping[str, Choice]:
        """See :class:`ChoiceStore`."""

        def read(connection: sqlite3.Connection) -> list[sqlite3.Row]:
            rows = (connection.execute(_SQL["find"], {"user_key": key}).fetchone() for key in user_keys)
            return [row for row in rows if row is not None]

        return {row["user_key"]: _choice(row) for row in await self._file.read(read)}

    async def merge(self, choices: Sequence[Choice]) -> None:
        """See :class:`ChoiceStore`."""
        if not choices:
            return
        await self._file.write(lambda connection: merge_choices(connection, choices))

    async def page(self, *, after: str = "", limit: int = 1000) -> Sequence[Choice]:
        """See :class:`ChoiceStore`."""
        values = {"after": after, "limit": limit}
        rows = await self._file.read(lambda connection: connection.execute(_SQL["page"], values).fetchall())
        return [_choice(row) for row in rows]

    async def changed(self, since: datetime | None) -> tuple[Sequence[Choice], datetime]:
        """See :class:`ChoiceStore`."""
        now = utc_now() - _CLOCK_MARGIN
        if since is None:
            return [], now
        values = {"since": time_text(since)}
        rows = await self._file.read(lambda connection: connection.execute(_SQL["changed"], values).fetchall())
        return [_choice(row) for row in rows], now

    async def close(self) -> None:
        """See :class:`ChoiceStore`."""
        self._file.close()


def merge_choices(connection: sqlite3.Connection, choices: Iterable[Choice]) -> None:
    """See :meth:`ChoiceStore.merge`, within a transaction on the session file."""
    now = time_text(utc_now())
    rows = [
        {
            "user_key": choice.user_key,
            "permanent_memory": int(choice.permanent_memory),
            "chosen_ms": choice.chosen_ms,
            "changed_at": now,
        }
        for choice in choices
    ]
    connection.executemany(_SQL["merge"], rows)


def every_choice(connection: sqlite3.Connection) -> list[Choice]:
    """All choices in the session file."""
    cursor = connection.cursor()
    cursor.row_factory = sqlite3.Row
    return [_choice(row) for row in cursor.execute(_SQL["all"])]


def _choice(row: sqlite3.Row) -> Choice:
    # SQLite enforces no column types; anything but a 1 with an integer timestamp is an opt-out.
    if not isinstance(row["chosen_ms"], int):
        return Choice(row["user_key"], permanent_memory=False, chosen_ms=IMPORTED_MS)
    return Choice(row["user_key"], row["permanent_memory"] == 1, row["chosen_ms"])
