"""Rows as pydantic models: what a repository offers, and the one that keeps them in the database.

A missing row is never None by surprise: ``get`` raises, ``find`` is the one that returns None. Whatever goes wrong is
raised, as one of errors.py.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Generic, Literal, Protocol

from shared_utils.persistence.database import Database
from shared_utils.persistence.errors import RowMissing
from shared_utils.persistence.table import Model, Table
from shared_utils.text import clean_json, clean_text

Comparison = Literal["=", "!=", "<", "<=", ">", ">=", "in"]

MOST: Final = 1000
"""Rows of a page at most."""


@dataclass(frozen=True, slots=True)
class Where:
    """A condition on one column.

    A missing value (None) is compared with ``=`` and ``!=`` only; as in SQL, a row without a value meets no other one.
    """

    column: str
    comparison: Comparison
    value: Any
    """For ``in`` a collection."""


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
            limit: 1 to ``MOST``.
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

    async def update(self, record: Model) -> Model:
        """Replace the row of the same key; returns it as it is kept.

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

    async def update(self, record: Model) -> Model:
        """See :class:`BaseRepository`."""
        row = self._table.row(record)
        touched = await self._database.execute(self._table.update, row)
        return present(kept(row, self._table) if touched else None, self._table, row[self._table.key])

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


def composed(conditions: Sequence[Where], table: Table[Any]) -> tuple[list[str], dict[str, Any]]:
    """The conditions as SQL, and their parameters.

    Raises:
        ValueError: a condition is none that can be asked.
    """
    texts, params = [], {}
    for number, where in enumerate(conditions):
        check_condition(where, table)
        name = f"where_{number}"
        texts.append(condition(where, table, name))
        if where.value is not None:
            params[name] = clean_json(list(where.value) if where.comparison == "in" else where.value)
    return texts, params


def condition(where: Where, table: Table[Any], name: str) -> str:
    """One condition as SQL, its value the parameter ``name``."""
    column, kind = f'"{where.column}"', table.columns[where.column]
    if where.comparison == "in":
        return f"{column} = ANY(%({name})s::{kind}[])"
    if where.value is None:
        return f"{column} IS NULL" if where.comparison == "=" else f"{column} IS NOT NULL"
    return f"{column} {where.comparison} %({name})s::{kind}"


def check_condition(where: Where, table: Table[Any]) -> None:
    """Return where it can be asked.

    Raises:
        ValueError: no such column, a jsonb column, or a comparison its value does not allow.
    """
    if table.columns[table.check(where.column)] == "jsonb":
        raise ValueError(f"{where.column} of {table.name} is JSON, which is not compared")
    if where.comparison == "in" and (isinstance(where.value, str) or not isinstance(where.value, Collection)):
        raise ValueError(f"what {where.column} is to be in must be a collection")
    if where.value is None and where.comparison not in {"=", "!="}:
        raise ValueError(f"{where.column} {where.comparison} None holds for no row; use = or !=")
    if where.comparison not in {"=", "!=", "<", "<=", ">", ">=", "in"}:
        raise ValueError(f"{where.comparison!r} is no comparison")


def checked_limit(limit: int) -> int:
    """The limit of a page; raises ValueError where it is none."""
    if not 1 <= limit <= MOST:
        raise ValueError(f"a page holds 1 to {MOST} rows, not {limit}")
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
        raise ValueError(f"{after!r} is not where a page of {table.name} begins") from None
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
