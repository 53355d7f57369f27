"""Rows that a database may hold before it is filled from a backup: they are set aside, and merged with the backup's."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from psycopg.types.json import Jsonb

from shared_utils.persistence.database.connections import Connection
from shared_utils.persistence.table_copy.tables import statement

_CHOICES_TABLE: Final = "user_choices"
"""A running bridge fills this table by itself: it stores the choices that Redis has. The later choice wins."""
_ERASURES_TABLE: Final = "erasures"
"""The proof that users were erased at this place: a restore keeps it beside the backup's own."""
_BEGUN_ANEW: Final = "vector_sync"
"""A running bridge fills this table by itself, with positions in an empty database, which mean nothing afterwards."""
MAY_HOLD_ROWS: Final = frozenset({_CHOICES_TABLE, _ERASURES_TABLE, _BEGUN_ANEW})
_ROWS_PER_STATEMENT: Final = 1000
"""Rows per statement."""

Row = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class KeptRows:
    """Rows that were set aside."""

    choices: Sequence[Row]
    """(user_key, permanent_memory, chosen_ms)."""
    erasures: Sequence[Row]
    """(erasure_id, user_hash, started_at, finished_at, counts)."""


async def set_aside(connection: Connection, schema: str) -> KeptRows:
    """Empty the tables of :data:`MAY_HOLD_ROWS`, inside the caller's transaction; returns what :func:`merge` needs."""
    choices = await (await connection.execute(statement("choices", schema))).fetchall()
    erasures = await (await connection.execute(statement("audit", schema))).fetchall()
    for table in sorted(MAY_HOLD_ROWS):
        await connection.execute(statement("empty", schema, table=table))
    return KeptRows(choices, [(*row[:-1], Jsonb(row[-1])) for row in erasures])


async def merge(connection: Connection, schema: str, kept: KeptRows) -> None:
    """Put rows back that were set aside, inside the caller's transaction.

    Of two choices the later one stays, and an opt-out wins a tie. Of two states of one erasure the finished one stays.
    """
    await merge_choices(connection, schema, kept.choices)
    names = ("erasure_id", "user_hash", "started_at", "finished_at", "counts")
    for values in _batches(names, kept.erasures):
        for name in ("remove_older_audit", "insert_audit"):
            await connection.execute(statement(name, schema), values)


async def merge_choices(connection: Connection, schema: str, choices: Sequence[Row]) -> None:
    """Merge choices into the table, inside the caller's transaction, and have running bridges read all of it anew."""
    for values in _batches(("user_key", "permanent_memory", "chosen_ms"), choices):
        for name in ("update_choices", "insert_choices"):
            await connection.execute(statement(name, schema), values)
    await connection.execute(statement("touch_choices", schema))


def _batches(names: Sequence[str], rows: Sequence[Row]) -> Iterator[Mapping[str, Any]]:
    """Parameters of statements that take a list for each column."""
    left = iter(rows)
    while batch := list(itertools.islice(left, _ROWS_PER_STATEMENT)):
        yield {name: list(column) for name, column in zip(names, zip(*batch, strict=True), strict=True)}
