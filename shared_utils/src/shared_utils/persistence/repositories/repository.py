"""Rows as pydantic models: what a repository offers, and the one that keeps them in the database.

A missing row is never None by surprise: ``get`` raises, ``find`` is the one that returns None. Whatever goes wrong is
raised, as one of errors.py.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Generic, Protocol

from shared_utils.persistence.database.database import Connection, Database
from shared_utils.persistence.errors import RowChanged, RowMissing
from shared_utils.persistence.repositories.conditions import Comparison, Where, composed
from shared_utils.persistence.repositories.table import Model, Table
from shared_utils.text import clean_text

MAX_PAGE_ROWS: Final = 1000
"""Rows of a page at most."""


@dataclass(frozen=True, slots=True)
class Page(Generic[Model]):
    """A page of rows, in their table's order."""

    rows: Sequence[Model]
    next: str | None
    """Where the next page begins; None on the last one. It stays good while rows come and go."""


class BaseRepository(Protocol[Model]):
    """Rows of one table. Every method may raise a PersistenceError."""

    async def get(self, key: str) -> Model:
        """The row of this key.

        Raises:
            RowMissing: there is none.
        """
        ...

    async def find(self, key: str) -> Model | None:
        """The row of this key, or None."""
        ...

    async def list(self, *, limit: int = 100, after: str | None = None, newest_first: bool = False) -> Page[Model]:
        """A page of all rows.

        Args:
            limit: 1 to ``MAX_PAGE_ROWS``.
            after: ``next`` of the page before.
            newest_first: turns the order round; all pages of a list must agree on it.

        Raises:
            ValueError: limit or ``after`` is none.
        """
        ...

    async def filter(
        self, *conditions: Where, limit: int = 100, after: str | None = None, newest_first: bool = False
    ) -> Page[Model]:
        """A page of the rows that meet every condition.

        Raises:
            ValueError: a condition names no column, or cannot be met by any value; as in :meth:`list`.
        """
        ...

    async def add(self, record: Model) -> Model:
        """Add a row; returns it as it is kept.

        Raises:
            Conflict: its key is taken.
            ValueRefused: a value no column can hold.
        """
        ...

    async def update(self, record: Model, *, expected: Model | None = None) -> Model:
        """Replace the row of the same key; returns it as it is kept.

        Args:
            record: what it shall be.
            expected: what it was when it was read. Without it, whatever somebody else wrote since is lost.

        Raises:
            RowMissing: there is none.
            RowChanged: the row has changed; read it again. Nothing is written.
        """
        ...

    async def modify(self, key: str, change: Callable[[Model], Model]) -> Model:
        """Replace the row of this key by what ``change`` makes of it; returns it as it is kept.

        Changes of one row are made one after another, so that each sees what the one before it wrote.

        Args:
            key: of the row.
            change: gets the row as it is, and returns what it shall be, its key the same. It may be called again, and
                must wait for nothing: the row is locked meanwhile.

        Raises:
            RowMissing: there is none.
        """
        ...

    async def delete(self, key: str) -> bool:
        """Remove a row; False where there was none."""
        ...

    async def exists(self, key: str) -> bool:
        """Whether there is a row of this key."""
        ...

    async def count(self, *conditions: Where) -> int:
        """How many rows meet every condition; all where there is none."""
        ...

    async def bulk_create(self, records: Sequence[Model], *, ignore_existing: bool = False) -> int:
        """Add many rows at once: all, or none where one cannot be added.

        Args:
            records: any number.
            ignore_existing: leave out those whose key is taken.

        Returns:
            How many were added.

        Raises:
            Conflict: a key is taken.
        """
        ...


class PostgresRepository(Generic[Model]):
    """Rows in PostgreSQL or openGauss."""

    def __init__(self, database: Database, table: Table[Model]) -> None:
        self._database = database
        self._table = table

    async def get(self, key: str) -> Model:
        """See :class:`BaseRepository`."""
        return present(await self.find(key), self._table, key)

    async def find(self, key: str) -> Model | None:
        """See :class:`BaseRepository`."""
        rows = await self._database.fetch(self._table.select, {self._table.key: clean_text(key)})
        return self._table.read(rows[0]) if rows else None

    async def list(self, *, limit: int = 100, after: str | None = None, newest_first: bool = False) -> Page[Model]:
        """See :class:`BaseRepository`."""
        return await self.filter(limit=limit, after=after, newest_first=newest_first)

    async def filter(
        self, *conditions: Where, limit: int = 100, after: str | None = None, newest_first: bool = False
    ) -> Page[Model]:
        """See :class:`BaseRepository`."""
        texts, params = composed(conditions, self._table)
        params["most"] = checked_limit(limit) + 1
        if after is not None:
            texts.append(self._table.beyond(newest_first=newest_first))
            params |= {f"after_{column}": value for column, value in position(after, self._table).items()}
        rows = await self._database.fetch(self._table.page(texts, newest_first=newest_first), params)
        return paged([self._table.read(row) for row in rows], limit, self._table)

    async def add(self, record: Model) -> Model:
        """See :class:`BaseRepository`."""
        row = self._table.row(record)
        await self._database.execute(self._table.insert, row)
        return kept(row, self._table)

    async def update(self, record: Model, *, expected: Model | None = None) -> Model:
        """See :class:`BaseRepository`."""
        row = self._table.row(record)
        key = row[self._table.key]
        if expected is None:
            touched = await self._database.execute(self._table.update, row)
            return present(kept(row, self._table) if touched else None, self._table, key)
        before = {f"expected_{column}": value for column, value in self._table.row(expected).items()}
        if not await self._database.execute(self._table.update_expected, row | before):
            raise not_as_expected(await self.exists(key), self._table, key)
        return kept(row, self._table)

    async def modify(self, key: str, change: Callable[[Model], Model]) -> Model:
        """See :class:`BaseRepository`."""
        identity = {self._table.key: clean_text(key)}

        async def work(connection: Connection) -> Model:
            rows = await self._database.rows(connection, self._table.select_locked, identity)
            before = present(self._table.read(rows[0]) if rows else None, self._table, key)
            row = changed_row(before, change, self._table)
            await self._database.send(connection, self._table.update, row)
            return kept(row, self._table)

        return await self._database.run(work)

    async def delete(self, key: str) -> bool:
        """See :class:`BaseRepository`."""
        return await self._database.execute(self._table.delete, {self._table.key: clean_text(key)}) > 0

    async def exists(self, key: str) -> bool:
        """See :class:`BaseRepository`."""
        return bool(await self._database.fetch(self._table.exists, {self._table.key: clean_text(key)}))

    async def count(self, *conditions: Where) -> int:
        """See :class:`BaseRepository`."""
        texts, params = composed(conditions, self._table)
        [row] = await self._database.fetch(self._table.count(texts), params)
        return int(row["rows"])

    async def bulk_create(self, records: Sequence[Model], *, ignore_existing: bool = False) -> int:
        """See :class:`BaseRepository`."""
        if not records:
            return 0
        statement = self._table.insert_new if ignore_existing else self._table.insert_all
        return await self._database.execute(statement, self._table.rows(records))


def checked_limit(limit: int) -> int:
    """The limit of a page; raises ValueError where it is none."""
    if not 1 <= limit <= MAX_PAGE_ROWS:
        raise ValueError(f"a page holds 1 to {MAX_PAGE_ROWS} rows, not {limit}")
    return limit


def paged(records: Sequence[Model], limit: int, table: Table[Model]) -> Page[Model]:
    """A page of ``limit`` rows, out of one row more where there is one."""
    if len(records) <= limit:
        return Page(records, None)
    last = table.row(records[limit - 1])
    values = [value.isoformat() if isinstance(value := last[column], datetime) else value for column in table.order]
    return Page(records[:limit], base64.urlsafe_b64encode(json.dumps(values).encode()).decode())


def position(after: str, table: Table[Any]) -> Mapping[str, Any]:
    """Ordering column → value of the row a page begins after.

    Raises:
        ValueError: ``after`` is not the ``next`` of a page of this table.
    """
    try:
        values = json.loads(base64.urlsafe_b64decode(after))
        found = dict(zip(table.order, values, strict=True))
        for column in table.order:
            if table.columns[column] == "timestamptz":
                found[column] = datetime.fromisoformat(found[column])
    except (ValueError, TypeError):
        raise ValueError(f"{after!r} is not a position in {table.name}") from None
    return found


def kept(row: Mapping[str, Any], table: Table[Model]) -> Model:
    """The model of a row that was written."""
    parsed = {
        column: json.loads(value) if table.columns[column] == "jsonb" and value is not None else value
        for column, value in row.items()
    }
    return table.read(parsed)


def present(record: Model | None, table: Table[Model], key: str) -> Model:
    """The record.

    Raises:
        RowMissing: there is none.
    """
    if record is None:
        raise RowMissing(f"{table.name} has no row {key}")
    return record


def changed_row(before: Model, change: Callable[[Model], Model], table: Table[Model]) -> dict[str, Any]:
    """The row that a change makes of another.

    Raises:
        ValueError: its key is another one.
    """
    row = table.row(change(before))
    if row[table.key] != table.row(before)[table.key]:
        raise ValueError(f"a change of a row of {table.name} must not change its {table.key}")
    return row


def not_as_expected(there: bool, table: Table[Any], key: str) -> RowChanged | RowMissing:
    """Why an update with a condition touched nothing."""
    if there:
        return RowChanged(f"the row {key} of {table.name} has changed; read it again")
    return RowMissing(f"{table.name} has no row {key}")


__all__ = [
    "MAX_PAGE_ROWS",
    "BaseRepository",
    "Comparison",
    "Page",
    "PostgresRepository",
    "Where",
    "changed_row",
    "checked_limit",
    "kept",
    "not_as_expected",
    "paged",
    "position",
    "present",
]
