"""The tables of vectors, which are created on demand and listed in ``vector_models``."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import psycopg

from shared_utils.observability import logs
from shared_utils.persistence.database.bootstrap import connect_and_prepare
from shared_utils.persistence.database.config import DatabaseConfig
from shared_utils.persistence.database.connections import Connection
from shared_utils.persistence.database.database import Database
from shared_utils.persistence.database.error_mapping import translate
from shared_utils.persistence.errors import SchemaMissing
from shared_utils.persistence.statements import statements
from shared_utils.persistence.table_copy.tables import columns, statement
from shared_utils.persistence.vectors.engine import look
from shared_utils.persistence.vectors.filter_sql import filled

_log = logs.get(__name__)

_DDL: Final = statements("vectors_table", "shared_utils.persistence")
EMBEDDING: Final = "embedding"


@dataclass(frozen=True, slots=True)
class ListedTable:
    """A row of ``vector_models``."""

    collection: str
    number: int
    model: str
    dimensions: int
    kind: str
    """vector: a type of the server's; float8: an array."""

    @property
    def name(self) -> str:
        """The table's."""
        return f"{self.collection}_{self.number}"


async def listed(connection: Connection, schema: str) -> Sequence[ListedTable]:
    """The rows of ``vector_models``."""
    cursor = await connection.execute(statement("vector_models", schema))
    return [ListedTable(*row[:5]) for row in await cursor.fetchall()]


async def fitting_kind(config: DatabaseConfig, wanted: str) -> str:
    """The kind for a restored table on this server: ``wanted``, or float8 where the server has no vector type."""
    if wanted == "float8":
        return wanted
    database = Database(config.model_copy(update={"min_connections": 0, "max_connections": 1}))
    try:
        engine = await look(database, create=True)
    finally:
        await database.close()
    return wanted if engine.oid is not None else "float8"


async def make(connection: Connection, schema: str, table: ListedTable, kind: str) -> None:
    """Create a listed table, and record its kind. The index by nearness is built later, as for any table."""
    type_name = "float8[]" if kind == "float8" else f"vector({table.dimensions})"
    gaps = {"schema": schema, "table": table.name, "type": type_name}
    for text in _DDL.values():
        await connection.execute(filled(text, gaps).encode())
    if kind != table.kind:
        values: Mapping[str, Any] = {"kind": kind, "collection": table.collection, "table_number": table.number}
        await connection.execute(statement("set_vector_kind", schema), values)


async def absent_vector_tables(config: DatabaseConfig) -> Sequence[str]:
    """Names of tables that are listed and missing, as after a restore by an earlier release. Changes nothing.

    Raises:
        PersistenceError: the database cannot be used.
    """
    try:
        async with _connected(config.model_copy(update={"generate_schemas": False})) as connection:
            return [table.name for table in await _absent(connection, config.schema_name)]
    except SchemaMissing:
        return []  # the database does not exist yet


async def mend_vector_tables(config: DatabaseConfig) -> Sequence[str]:
    """Create missing listed tables, empty, and return their names. The command ``vectors sync`` fills them.

    Raises:
        PersistenceError: the database cannot be used, or the role may not create tables.
    """
    async with _connected(config) as connection:
        absent = await _absent(connection, config.schema_name)
        for table in absent:
            kind = await fitting_kind(config, table.kind)
            async with connection.work():
                await make(connection, config.schema_name, table, kind)
            _log.warning("vector_table_recreated", table=table.name, model=table.model)
        return [table.name for table in absent]


async def _absent(connection: Connection, schema: str) -> Sequence[ListedTable]:
    there = await columns(connection, schema)
    if "vector_models" not in there:
        return []
    return [table for table in await listed(connection, schema) if table.name not in there]


@asynccontextmanager
async def _connected(config: DatabaseConfig) -> AsyncIterator[Connection]:
    connection, _ = await connect_and_prepare(config)
    try:
        yield connection
    except psycopg.Error as error:
        raise translate(error, place=config.place, user=config.parts.get("user", "?")) from error
    finally:
        await connection.close()
