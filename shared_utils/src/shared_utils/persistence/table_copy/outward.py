"""Copies tables to files, from one consistent snapshot."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

import psycopg

from shared_utils.clock import utc_now
from shared_utils.persistence.database.bootstrap import connect_and_prepare
from shared_utils.persistence.database.config import DatabaseConfig
from shared_utils.persistence.database.connections import Connection
from shared_utils.persistence.database.error_mapping import translate
from shared_utils.persistence.table_copy.digest import RowDigest, embedding_form
from shared_utils.persistence.table_copy.tables import (
    BOOKKEEPING,
    columns,
    copy_statement,
    lock,
    migrated_tables,
)
from shared_utils.persistence.table_copy.vector_tables import EMBEDDING, listed
from shared_utils.private_files import make_folder, replacing

_COPY_ATTEMPTS: Final = 3
"""Attempts: a table of vectors may be dropped between being listed and being locked."""
ENDING: Final = ".copy"


@dataclass(frozen=True, slots=True)
class CopiedTable:
    """A table in a file, whose first line names the columns; COPY text follows."""

    name: str
    file: str
    rows: int
    digest: str
    """See ``digest.py``."""


@dataclass(frozen=True, slots=True)
class CopiedSchema:
    """A copied schema."""

    product: str
    at: datetime
    """The moment of the snapshot."""
    tables: tuple[CopiedTable, ...]
    left_out: tuple[str, ...]
    """Tables that do not belong to this project, and tables of vectors that are listed and missing."""


async def copy_out(config: DatabaseConfig, folder: Path) -> CopiedSchema:
    """Write every table of this project to ``folder/<table>.copy``, from one REPEATABLE READ snapshot.

    Raises:
        PersistenceError: the database cannot be read.
    """
    await asyncio.to_thread(make_folder, folder)
    connection, dialect = await connect_and_prepare(config)
    try:
        for left in reversed(range(_COPY_ATTEMPTS)):
            try:
                return await _copied(connection, config.schema_name, folder, dialect.product)
            except psycopg.errors.UndefinedTable:
                if not left:
                    raise
        raise AssertionError("the last try returns or raises")
    except psycopg.Error as error:
        raise translate(error, place=config.place, user=config.parts.get("user", "?")) from error
    finally:
        await connection.close()


async def _copied(connection: Connection, schema: str, folder: Path, product: str) -> CopiedSchema:
    async with connection.work(unlimited=True, snapshot=True):
        at = utc_now()
        there = await columns(connection, schema)
        vectors = {table.name for table in await listed(connection, schema)} if "vector_models" in there else set()
        ours = {name: names for name, names in there.items() if name in migrated_tables() | vectors}
        await lock(connection, schema, ours, "ACCESS SHARE")
        tables = [await _write(connection, schema, name, folder, names) for name, names in ours.items()]
    foreign = sorted(there.keys() - ours.keys() - BOOKKEEPING)
    return CopiedSchema(product, at, tuple(tables), (*foreign, *sorted(vectors - there.keys())))


async def _write(connection: Connection, schema: str, table: str, folder: Path, names: Sequence[str]) -> CopiedTable:
    digest = digest_of(names)
    file_name = f"{table}{ENDING}"
    copying = copy_statement(schema, table, names, "TO STDOUT")
    with replacing(folder / file_name) as file:
        file.write(f"{','.join(names)}\n".encode())
        async with connection.cursor() as cursor, cursor.copy(copying) as copy:
            async for data in copy:
                digest.feed(data)
                file.write(data)
    return CopiedTable(table, file_name, digest.rows, digest.hexdigest)


def digest_of(names: Sequence[str]) -> RowDigest:
    """A digest for COPY text of these columns."""
    return RowDigest({names.index(EMBEDDING): embedding_form} if EMBEDDING in names else None)
