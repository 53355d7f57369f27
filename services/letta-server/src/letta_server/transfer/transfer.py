"""Rows from source to target: read in one stream ordered by key, written a batch a transaction."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from psycopg import sql

from letta_server.database import Connection
from letta_server.transfer.catalog import Table
from letta_server.transfer.display import Display
from letta_server.transfer.ledger import Ledger
from letta_server.transfer.plan import Step

Row = tuple[str | None, ...]
"""A row as COPY's text format has it, which both engines write and read alike; in binary they differ."""

_BATCH_SIZE: Final = 16_000_000
"""Characters after which a batch is full, however few its rows are: an embedding alone has tens of thousands."""


@dataclass(frozen=True)
class Transfer:
    """Copies steps from ``source`` (a snapshot) to ``target`` (in autocommit)."""

    source: Connection
    target: Connection
    ledger: Ledger
    display: Display
    batch: int
    """Rows a transaction holds at most."""

    def run(self, step: Step) -> None:
        """Do a step, or what is left of it."""
        position = self.ledger.position(step)
        self.display.advance(position.copied)
        if position.done:
            return
        with _stream(self.source, step, position.last_key) as rows:
            row = next(rows, None)
            while row is not None:
                with self.target.transaction():
                    row = self._fill(step, row, rows)
        self.ledger.finish(step)

    def _fill(self, step: Step, row: Row, rows: Iterator[Row]) -> Row | None:
        """Write one batch, and note it; the row after it comes back, read but not written."""
        batch = _Batch(row, rows, self.batch)
        if step.pointers:
            _point(self.target, step, batch)
        else:
            _insert(self.target, step.table, batch)
        columns = _columns(step)
        key = [batch.last[columns.index(name)] or "" for name in step.table.key]
        self.ledger.advance(step, batch.count, key)
        self.display.advance(batch.count)
        return batch.following


class _Batch:
    """As many of the rows as make a batch."""

    def __init__(self, first: Row, rows: Iterator[Row], limit: int) -> None:
        self.last = first
        self.following: Row | None = first
        self.count = 0
        self._rows = rows
        self._limit = limit

    def __iter__(self) -> Iterator[Row]:
        size = 0
        while self.following is not None and self.count < self._limit and size < _BATCH_SIZE:
            self.last = self.following
            yield self.last
            self.count += 1
            size += sum(len(value) for value in self.last if value is not None)
            self.following = next(self._rows, None)


def _insert(target: Connection, table: Table, batch: _Batch) -> None:
    command = sql.SQL("COPY {} ({}) FROM STDIN").format(sql.Identifier(table.name), _names(table.column_names))
    with target.cursor() as cursor, cursor.copy(command) as copy:
        for row in batch:
            copy.write_row(row)


def _point(target: Connection, step: Step, batch: _Batch) -> None:
    command = sql.SQL("UPDATE {} SET {} WHERE {}").format(
        sql.Identifier(step.table.name),
        sql.SQL(", ").join(sql.SQL("{} = %s").format(sql.Identifier(name)) for name in step.pointers),
        sql.SQL(" AND ").join(sql.SQL("{} = %s").format(sql.Identifier(name)) for name in step.table.key),
    )
    with target.cursor() as cursor:
        cursor.executemany(command, batch)


@contextlib.contextmanager
def _stream(source: Connection, step: Step, after: Sequence[str] | None) -> Iterator[Iterator[Row]]:
    """The step's rows whose key follows ``after``, in the order of the key."""
    key = _names(step.table.key)
    conditions = [given(step)]
    if after is not None:
        values = sql.SQL(", ").join(sql.Literal(value) for value in after)
        conditions.append(sql.SQL("({}) > ({})").format(key, values))
    command = sql.SQL("COPY (SELECT {} FROM {} WHERE {} ORDER BY {}) TO STDOUT").format(
        sql.SQL(", ").join(_value(name, step) for name in _columns(step)),
        sql.Identifier(step.table.name),
        sql.SQL(" AND ").join(conditions),
        key,
    )
    with source.cursor() as cursor, cursor.copy(command) as copy:
        yield copy.rows()


def given(step: Step) -> sql.Composable:
    """The condition for a row to be one of the step's."""
    pointing = [sql.SQL("{} IS NOT NULL").format(sql.Identifier(name)) for name in step.pointers]
    return sql.SQL("({})").format(sql.SQL(" OR ").join(pointing)) if pointing else sql.SQL("true")


def _columns(step: Step) -> tuple[str, ...]:
    return (*step.pointers, *step.table.key) if step.pointers else step.table.column_names


def _value(name: str, step: Step) -> sql.Composable:
    return sql.SQL("NULL") if name in step.later else sql.Identifier(name)


def _names(columns: Sequence[str]) -> sql.Composed:
    return sql.SQL(", ").join(sql.Identifier(name) for name in columns)
