"""Copies files to tables of an empty database, in one transaction, and verifies the result."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final

import psycopg

from shared_utils.persistence.database.bootstrap import connect_and_prepare
from shared_utils.persistence.database.config import DatabaseConfig
from shared_utils.persistence.database.connections import Connection
from shared_utils.persistence.database.error_mapping import translate
from shared_utils.persistence.database.migration import apply
from shared_utils.persistence.errors import Conflict, DatabaseRefused
from shared_utils.persistence.table_copy.digest import changed_rows, embedding_in
from shared_utils.persistence.table_copy.erased_rows import remove_erased
from shared_utils.persistence.table_copy.kept_rows import MAY_HOLD_ROWS, merge, set_aside
from shared_utils.persistence.table_copy.outward import digest_of
from shared_utils.persistence.table_copy.tables import (
    BOOKKEEPING,
    columns,
    copy_statement,
    in_order,
    lock,
    migrated_tables,
    pairs,
    statement,
)
from shared_utils.persistence.table_copy.vector_tables import EMBEDDING, ListedTable, fitting_kind, listed, make

_CHUNK_BYTES: Final = 1 << 20
_AGENTS_PER_STATEMENT: Final = 1000
"""Agents per statement that replaces their ids."""


@dataclass(frozen=True, slots=True)
class Expected:
    """The file of a table, and its expected content."""

    file: Path
    rows: int | None = None
    """None where the backup does not say."""
    digest: str | None = None


@dataclass(frozen=True, slots=True)
class RestoreMarker:
    """Identifies a backup; recorded in the database it is restored into."""

    backup_id: str
    made_at: datetime


@dataclass(slots=True)
class CopyIn:
    """The result of copying files in."""

    done_before: bool = False
    """The database was restored from this backup before; nothing was changed."""
    rows: dict[str, int] = field(default_factory=dict)
    compared: int = 0
    """Number of tables whose content was compared with the expected digest."""
    moved_sessions: int = 0
    """Sessions whose agent id was replaced."""
    absent: tuple[str, ...] = ()
    """Tables of this release that the backup, made by an older one, does not have. They are empty."""
    choices_found: int = 0
    """Choices about permanent memory that the database had before; each was merged with the backup's."""
    erased: set[str] = field(default_factory=set)
    """Hashes of the ids of erased users whose rows were removed again."""


class RestoreMismatch(DatabaseRefused):
    """A restored table does not have the expected content; nothing was changed."""

    code = "restore_mismatch"


async def require_empty(config: DatabaseConfig, marker: RestoreMarker) -> bool:
    """Whether the database was restored from this backup.

    False where it is empty, or holds nothing but choices and the audit of erasures.

    Creates database and schema where they are missing, at this release's newest migration.

    Raises:
        Conflict: it holds other rows.
        PersistenceError: it cannot be used.
    """
    async with _connected(config) as connection:
        if await _done(connection, config, marker):
            return True
        await _refuse_rows(connection, config, await _ours(connection, config))
        return False


async def copy_in(
    config: DatabaseConfig,
    tables: Mapping[str, Expected],
    marker: RestoreMarker,
    agents: Mapping[str, str],
    *,
    erased: Collection[str] = (),
) -> CopyIn:
    """Fill an empty database from files of :func:`copy_out`, in one transaction.

    Choices about permanent memory that are in it already, because a bridge has stored what Redis knew, are merged, and
    so is the audit of erasures.

    A database that was filled from this backup before only gets agents' ids replaced: a repeated restore may restore
    agents that an earlier run could not.

    Args:
        config: the database.
        tables: table → file. A table that neither this release nor the backup's ``vector_models`` knows is refused.
        marker: recorded in the same transaction.
        agents: former agent id → current agent id, replaced in sessions and vectors.
        erased: hex SHA-256 of the ids of users who were erased since; their rows are removed in the same transaction.

    Raises:
        Conflict: the database holds rows already.
        RestoreMismatch: a table does not have the expected content.
        PersistenceError: the database refuses a row, or cannot be used.
    """
    async with _connected(config) as connection:
        if await _done(connection, config, marker):
            again = _Filling(connection, config.schema_name, {}, CopyIn(done_before=True))
            async with connection.work(unlimited=True):
                await again.move(agents)
            return again.done
        known = await _ours(connection, config)
        # May create the vector extension, on a connection of its own and outside of the transaction.
        kind = await fitting_kind(config, "vector") if tables.keys() - known else "vector"
        filling = _Filling(connection, config.schema_name, tables, CopyIn(absent=tuple(sorted(known - tables.keys()))))
        async with connection.work(unlimited=True):
            await lock(connection, config.schema_name, known, "SHARE ROW EXCLUSIVE")
            await _refuse_rows(connection, config, known)
            kept = await set_aside(connection, config.schema_name)
            filling.done.choices_found = len(kept.choices)
            await filling.fill(known)
            await merge(connection, config.schema_name, kept)
            await filling.fill_vectors(known, kind)
            await filling.remove_erased(erased)
            await filling.advance_sequences()
            await filling.move(agents)
            values = {"backup_id": marker.backup_id, "made_at": marker.made_at}
            await connection.execute(statement("note_restore", config.schema_name), values)
        return filling.done


async def remove_users(config: DatabaseConfig, hashes: Collection[str]) -> set[str]:
    """Remove the rows of users who were erased while their rows were being restored.

    Args:
        config: the database.
        hashes: hex SHA-256 of the ids of these users.

    Returns:
        The hashes of users who had rows.
    """
    async with _connected(config) as connection, connection.work(unlimited=True):
        vectors = [table.name for table in await listed(connection, config.schema_name)]
        return await remove_erased(connection, config.schema_name, hashes, vectors, {})


@asynccontextmanager
async def _connected(config: DatabaseConfig) -> AsyncIterator[Connection]:
    connection, _ = await connect_and_prepare(config)
    try:
        await apply(connection, config)
        yield connection
    except psycopg.Error as error:
        raise translate(error, place=config.place, user=config.parts.get("user", "?")) from error
    finally:
        await connection.close()


async def _done(connection: Connection, config: DatabaseConfig, marker: RestoreMarker) -> bool:
    question = statement("restored_before", config.schema_name)
    found = await connection.execute(question, {"backup_id": marker.backup_id})
    return await found.fetchone() is not None


async def _ours(connection: Connection, config: DatabaseConfig) -> set[str]:
    return set(migrated_tables() & (await columns(connection, config.schema_name)).keys()) - BOOKKEEPING


async def _refuse_rows(connection: Connection, config: DatabaseConfig, tables: set[str]) -> None:
    for table in sorted(tables - MAY_HOLD_ROWS):
        found = await connection.execute(statement("one_row", config.schema_name, table=table))
        if await found.fetchone():
            raise Conflict(
                f"the database {config.place} already contains rows in {table}, so bridges have used it; stop them, "
                "and restore into an empty database, or into another schema (DB_SCHEMA)"
            )


@dataclass(slots=True)
class _Filling:
    """The work of one transaction."""

    connection: Connection
    schema: str
    tables: Mapping[str, Expected]
    done: CopyIn

    async def fill(self, known: set[str]) -> None:
        """Fill the tables that migrations create."""
        references = await pairs(self.connection, "references", self.schema)
        for table in in_order(sorted(known & self.tables.keys()), references):
            await self._fill(table)

    async def fill_vectors(self, known: set[str], vector_kind: str) -> None:
        """Create and fill the tables that the backup's ``vector_models`` lists; refuse any other table."""
        lists: Sequence[ListedTable] = await listed(self.connection, self.schema)
        unknown = self.tables.keys() - known - {table.name for table in lists} - BOOKKEEPING
        if unknown:
            raise DatabaseRefused(
                f"the backup contains tables that this release does not know: {', '.join(sorted(unknown))}; "
                "upgrade, or "
                "restore with the release that made it"
            )
        for table in lists:
            if table.name not in self.tables:
                raise RestoreMismatch(
                    f"the backup lists the vectors {table.name}, but lacks their file; nothing was restored. Use "
                    "another copy of it"
                )
            kind = vector_kind if table.kind == "vector" else table.kind
            await make(self.connection, self.schema, table, kind)
            await self._fill(table.name, kind)

    async def remove_erased(self, hashes: Collection[str]) -> None:
        """Remove the rows of erased users again; see ``erased_rows.py``."""
        vectors = [table.name for table in await listed(self.connection, self.schema)]
        removed: dict[str, int] = {}
        self.done.erased |= await remove_erased(self.connection, self.schema, hashes, vectors, removed)
        for table, rows in removed.items():
            self.done.rows[table] = self.done.rows.get(table, 0) - rows

    async def advance_sequences(self) -> None:
        """Set sequences beyond the restored values."""
        for table, column in await pairs(self.connection, "sequences", self.schema):
            values = {"table_name": f"{self.schema}.{table}", "column_name": column}
            await self.connection.execute(statement("advance", self.schema, table=table, column=column), values)

    async def move(self, agents: Mapping[str, str]) -> None:
        """Replace agents' former ids in sessions and vectors."""
        vectors = await listed(self.connection, self.schema)
        left = iter(agents.items())
        while batch := list(itertools.islice(left, _AGENTS_PER_STATEMENT)):
            values = {"former_ids": [former for former, _ in batch], "new_ids": [new for _, new in batch]}
            sessions = await self.connection.execute(statement("move_sessions", self.schema), values)
            self.done.moved_sessions += sessions.rowcount
            for table in vectors:
                await self.connection.execute(statement("move_vectors", self.schema, table=table.name), values)

    async def _fill(self, table: str, vector_kind: str | None = None) -> None:
        """Copy one file in, read the table back, and compare it with the expected content."""
        expected = self.tables[table]
        with expected.file.open("rb") as file:  # read piece by piece, between waits for the server
            names = file.readline().decode().strip().split(",")
            async with (
                self.connection.cursor() as cursor,
                cursor.copy(copy_statement(self.schema, table, names, "FROM STDIN")) as copy,
            ):
                for rows in iter(lambda: b"".join(file.readlines(_CHUNK_BYTES)), b""):
                    await copy.write(_of_kind(rows, names, vector_kind))
        digest = digest_of(names)
        copying = copy_statement(self.schema, table, names, "TO STDOUT")
        async with self.connection.cursor() as cursor, cursor.copy(copying) as copy:
            async for data in copy:
                digest.feed(data)
        if expected.rows not in {None, digest.rows}:
            raise RestoreMismatch(
                f"{table} has {digest.rows} rows, but the backup lists {expected.rows}; nothing was restored"
            )
        if expected.digest not in {None, digest.hexdigest}:
            raise RestoreMismatch(f"{table} has rows that differ from those of the backup; nothing was restored")
        self.done.rows[table] = digest.rows
        self.done.compared += expected.digest is not None


def _of_kind(rows: bytes, names: Sequence[str], kind: str | None) -> bytes:
    """Complete rows of COPY text, with embeddings converted for a table of this kind; None for other tables."""
    if kind is None:
        return rows
    return changed_rows(rows, names.index(EMBEDDING), lambda value: embedding_in(value, kind))
