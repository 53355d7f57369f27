"""Rows in memory: for tests, and a readable model of what the statements of a repository mean."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Generic

from shared_utils.persistence.errors import Conflict
from shared_utils.persistence.repositories.conditions import Where, check_condition
from shared_utils.persistence.repositories.repository import (
    Page,
    changed_row,
    checked_limit,
    kept,
    not_as_expected,
    paged,
    position,
    present,
)
from shared_utils.persistence.repositories.table import Model, Table
from shared_utils.text import clean_json, clean_text

_COMPARISONS: Final[Mapping[str, Callable[[Any, Any], bool]]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "in": lambda value, values: value in values,
}


class InMemoryRepository(Generic[Model]):
    """A repository that forgets with the process."""

    def __init__(self, table: Table[Model]) -> None:
        self._table = table
        self._rows: dict[str, dict[str, Any]] = {}

    async def get(self, key: str) -> Model:
        """See :class:`BaseRepository`."""
        return present(await self.find(key), self._table, key)

    async def find(self, key: str) -> Model | None:
        """See :class:`BaseRepository`."""
        row = self._rows.get(clean_text(key))
        return None if row is None else kept(row, self._table)

    async def list(self, *, limit: int = 100, after: str | None = None, newest_first: bool = False) -> Page[Model]:
        """See :class:`BaseRepository`."""
        return await self.filter(limit=limit, after=after, newest_first=newest_first)

    async def filter(
        self, *conditions: Where, limit: int = 100, after: str | None = None, newest_first: bool = False
    ) -> Page[Model]:
        """See :class:`BaseRepository`."""
        rows = sorted(self._meeting(conditions), key=self._place, reverse=newest_first)
        checked_limit(limit)
        if after is not None:
            begin = tuple(position(after, self._table).values())
            beyond = operator.lt if newest_first else operator.gt
            rows = [row for row in rows if beyond(self._place(row), begin)]
        return paged([kept(row, self._table) for row in rows[: limit + 1]], limit, self._table)

    async def add(self, record: Model) -> Model:
        """See :class:`BaseRepository`."""
        await self.bulk_create([record])
        return kept(self._table.row(record), self._table)

    async def update(self, record: Model, *, expected: Model | None = None) -> Model:
        """See :class:`BaseRepository`."""
        row = self._table.row(record)
        key = row[self._table.key]
        there = present(await self.find(key), self._table, key)
        if expected is not None and there != kept(self._table.row(expected), self._table):
            raise not_as_expected(True, self._table, key)
        self._rows[key] = row
        return kept(row, self._table)

    async def modify(self, key: str, change: Callable[[Model], Model]) -> Model:
        """See :class:`BaseRepository`."""
        before = present(await self.find(key), self._table, key)
        row = changed_row(before, change, self._table)
        self._rows[row[self._table.key]] = row
        return kept(row, self._table)

    async def delete(self, key: str) -> bool:
        """See :class:`BaseRepository`."""
        return self._rows.pop(clean_text(key), None) is not None

    async def exists(self, key: str) -> bool:
        """See :class:`BaseRepository`."""
        return clean_text(key) in self._rows

    async def count(self, *conditions: Where) -> int:
        """See :class:`BaseRepository`."""
        return len(self._meeting(conditions))

    async def bulk_create(self, records: Sequence[Model], *, ignore_existing: bool = False) -> int:
        """See :class:`BaseRepository`."""
        new: dict[str, dict[str, Any]] = {}
        for row in map(self._table.row, records):
            key = row[self._table.key]
            if key not in self._rows and key not in new:
                new[key] = row
            elif not ignore_existing:
                raise Conflict(f"such a row already exists ({key})")
        self._rows |= new
        return len(new)

    def _meeting(self, conditions: Sequence[Where]) -> Sequence[Mapping[str, Any]]:
        for where in conditions:
            check_condition(where, self._table)
        return [row for row in self._rows.values() if all(_meets(row[where.column], where) for where in conditions)]

    def _place(self, row: Mapping[str, Any]) -> tuple[Any, ...]:
        return tuple(row[column] for column in self._table.order)


def _meets(value: Any, where: Where) -> bool:
    if where.value is None:
        return (value is None) is (where.comparison == "=")
    if value is None:
        return False
    return _COMPARISONS[where.comparison](value, clean_json(where.value))
