"""Lists the tables of the schema.

The tables of this project are those that migrations create, read from the migrations' own text, and those that
``vector_models`` lists. So a backup cannot miss a new table.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Final

from psycopg import sql

from shared_utils.persistence.database.connections import Connection
from shared_utils.persistence.database.migration import migrations
from shared_utils.persistence.errors import PersistenceError
from shared_utils.persistence.statements import statements
from shared_utils.persistence.vectors.filter_sql import filled

_SQL: Final = statements("table_copy", "shared_utils.persistence")
BOOKKEEPING: Final = frozenset({"schema_migrations", "restores"})
"""Tables about the schema itself, which a backup does not hold."""
_CREATE: Final = re.compile(r"^CREATE TABLE (?:IF NOT EXISTS )?(\w+)", re.MULTILINE)


@cache
def migrated_tables() -> frozenset[str]:
    """The tables that migrations create, without bookkeeping."""
    made = {name for migration in migrations() for name in _CREATE.findall(migration.text)}
    return frozenset(made) - BOOKKEEPING


def statement(name: str, schema: str, **gaps: str) -> bytes:
    """A statement of ``table_copy.sql``, which names tables with their schema."""
    return filled(_SQL[name], {"schema": schema, **gaps}).encode()


async def columns(connection: Connection, schema: str) -> Mapping[str, Sequence[str]]:
    """Every table in the schema → its columns, in order."""
    tables: dict[str, list[str]] = {}
    for table, column in await pairs(connection, "columns", schema):
        tables.setdefault(table, []).append(column)
    return tables


async def pairs(connection: Connection, name: str, schema: str) -> list[tuple[str, str]]:
    """The rows of a catalog query with two columns."""
    cursor = await connection.execute(statement(name, schema), {"schema": schema})
    return [(str(first), str(second)) for first, second in await cursor.fetchall()]


def in_order(tables: Iterable[str], references: Sequence[tuple[str, str]]) -> list[str]:
    """Sort tables so that each follows the tables it references."""
    order: list[str] = []

    def place(table: str) -> None:
        if table not in order:
            for target in (target for source, target in references if source == table):
                place(target)
            order.append(table)

    for table in tables:
        place(table)
    return order


def copy_statement(schema: str, table: str, names: Sequence[str], direction: str) -> sql.Composed:
    """A COPY statement for these columns. ``direction`` is TO STDOUT or FROM STDIN."""
    if not names:
        raise PersistenceError(f"the copy of the table {table} names no columns; its file is damaged")
    listed = sql.SQL(", ").join(map(sql.Identifier, names))
    return sql.SQL("COPY {} ({}) " + direction).format(sql.Identifier(schema, table), listed)


async def lock(connection: Connection, schema: str, tables: Iterable[str], mode: str) -> None:
    """Lock tables until the transaction ends, in alphabetical order."""
    for table in sorted(tables):
        await connection.execute(sql.SQL("LOCK TABLE {} IN " + mode + " MODE").format(sql.Identifier(schema, table)))
