"""All rows of the schema as COPY text, out into files and back in: works wherever the driver does, on both engines."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import psycopg
from psycopg import sql

from shared_utils.persistence.arrival import arrive
from shared_utils.persistence.connections import Connection
from shared_utils.persistence.database_config import DatabaseConfig
from shared_utils.persistence.errors import Conflict, PersistenceError
from shared_utils.persistence.failures import meaning
from shared_utils.persistence.migration import apply

_RECORD: Final = "schema_migrations"
_CHUNK: Final = 1 << 20
_COLUMNS: Final = """
    SELECT c.relname, a.attname
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_attribute a ON a.attrelid = c.oid
    WHERE n.nspname = %s AND c.relkind = 'r' AND a.attnum > 0 AND NOT a.attisdropped
    ORDER BY c.relname, a.attnum
"""
_REFERENCES: Final = """
    SELECT c.relname, r.relname
    FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_class r ON r.oid = k.confrelid
        JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = %s AND k.contype = 'f' AND c.oid <> r.oid
"""
_SEQUENCES: Final = """
    SELECT c.relname, a.attname
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_attribute a ON a.attrelid = c.oid
        JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
    WHERE n.nspname = %s AND pg_get_expr(d.adbin, d.adrelid) LIKE 'nextval(%%'
"""


async def copy_out(config: DatabaseConfig, folder: Path) -> Mapping[str, int]:
    """Write every table to ``folder/<table>.copy``: a line with its columns, then COPY text; all of one moment.

    Returns:
        Table → rows.

    Raises:
        PersistenceError: the database cannot be read.
    """
    await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
    async with _connected(config) as connection, connection.work(unlimited=True, snapshot=True):
        tables = await _tables(connection, config.schema_name)
        return {table: await _write(connection, table, columns, folder) for table, columns in tables.items()}


async def copy_in(config: DatabaseConfig, folder: Path) -> Mapping[str, int]:
    """Fill an empty database from files of :func:`copy_out`: all of them, or nothing.

    Database and schema are made where they are missing, at this release's newest migration.

    Returns:
        Table → rows.

    Raises:
        Conflict: there are rows already.
        PersistenceError: the database refuses a row, or cannot be reached.
    """
    async with _connected(config) as connection:
        await apply(connection, config)
        async with connection.work(unlimited=True):
            tables = await _tables(connection, config.schema_name)
            for table in tables:
                await _refuse_rows(connection, table, config)
            counts = {}
            for table in _in_order(tables, await _pairs(connection, _REFERENCES, config.schema_name)):
                if (file := folder / f"{table}.copy").exists():
                    counts[table] = await _read(connection, table, file)
            for table, column in await _pairs(connection, _SEQUENCES, config.schema_name):
                await _advance(connection, config.schema_name, table, column)
        return counts


@asynccontextmanager
async def _connected(config: DatabaseConfig) -> AsyncIterator[Connection]:
    connection, _ = await arrive(config)
    try:
        yield connection
    except psycopg.Error as error:
        raise meaning(error, place=config.place, user=config.parts.get("user", "?")) from error
    finally:
        await connection.close()


async def _tables(connection: Connection, schema: str) -> dict[str, list[str]]:
    tables: dict[str, list[str]] = {}
    for table, column in await _pairs(connection, _COLUMNS, schema):
        if table != _RECORD:
            tables.setdefault(table, []).append(column)
    return tables


async def _pairs(connection: Connection, statement: str, schema: str) -> list[tuple[str, str]]:
    rows = await (await connection.execute(statement.encode(), [schema])).fetchall()
    return [(str(first), str(second)) for first, second in rows]


def _in_order(tables: Iterable[str], references: Sequence[tuple[str, str]]) -> list[str]:
    """Tables, each behind those it refers to."""
    order: list[str] = []

    def place(table: str) -> None:
        if table not in order:
            for target in (target for source, target in references if source == table):
                place(target)
            order.append(table)

    for table in tables:
        place(table)
    return order


async def _write(connection: Connection, table: str, columns: Sequence[str], folder: Path) -> int:
    statement = sql.SQL("COPY {} ({}) TO STDOUT").format(sql.Identifier(table), _listed(columns))
    async with connection.cursor() as cursor:
        with (folder / f"{table}.copy").open("wb") as file:
            file.write(f"{','.join(columns)}\n".encode())
            async with cursor.copy(statement) as copy:
                async for data in copy:
                    file.write(data)
        return cursor.rowcount


async def _read(connection: Connection, table: str, path: Path) -> int:
    with path.open("rb") as file:
        columns = file.readline().decode().strip().split(",")
        statement = sql.SQL("COPY {} ({}) FROM STDIN").format(sql.Identifier(table), _listed(columns))
        async with connection.cursor() as cursor:
            async with cursor.copy(statement) as copy:
                while data := file.read(_CHUNK):
                    await copy.write(data)
            return cursor.rowcount


async def _refuse_rows(connection: Connection, table: str, config: DatabaseConfig) -> None:
    found = await connection.execute(sql.SQL("SELECT 1 FROM {} LIMIT 1").format(sql.Identifier(table)))
    if await found.fetchone():
        raise Conflict(
            f"the database {config.place} holds rows in {table} already; restore into an empty one, or into another "
            "schema (DB_SCHEMA)"
        )


async def _advance(connection: Connection, schema: str, table: str, column: str) -> None:
    statement = sql.SQL("SELECT setval(pg_get_serial_sequence({}, {}), greatest(max({}), 1)) FROM {}").format(
        sql.Literal(f"{schema}.{table}"), sql.Literal(column), sql.Identifier(column), sql.Identifier(table)
    )
    await connection.execute(statement)


def _listed(columns: Sequence[str]) -> sql.Composed:
    if not columns:
        raise PersistenceError("a table of the backup names no columns; its file is damaged")
    return sql.SQL(", ").join(map(sql.Identifier, columns))
