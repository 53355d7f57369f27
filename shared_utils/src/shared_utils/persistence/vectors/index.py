"""Building the indexes of a vector table while it is read and written."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Final

import psycopg
from psycopg import errors

from shared_utils.observability import logs
from shared_utils.operator_commands import command
from shared_utils.persistence.database.bootstrap import connect_and_prepare
from shared_utils.persistence.database.config import DatabaseConfig
from shared_utils.persistence.database.database import Connection, Database
from shared_utils.persistence.errors import QueryTimeout
from shared_utils.persistence.statements import statements
from shared_utils.persistence.vectors.engine import VectorEngine, operator_class
from shared_utils.persistence.vectors.filter_sql import filled
from shared_utils.persistence.vectors.port import IndexState
from shared_utils.persistence.vectors.settings import IndexSettings
from shared_utils.persistence.vectors.tables import VectorTable

_log = logs.get(__name__)

_SQL: Final = statements("vectors", "shared_utils.persistence")
_NO_TYPE: Final = "the server has no vector type, so every passage in scope is compared"
_TOO_LONG: Final = "no index supports so many dimensions, so every passage in scope is compared"
_HALF_PRECISION_NOTE: Final = "the index finds candidates in half precision"


@dataclass(frozen=True, slots=True)
class IndexBuilder:
    """Builds the indexes of vector tables: one by nearness, one by metadata."""

    database: Database
    engine: VectorEngine
    settings: IndexSettings

    async def state(self, table: VectorTable) -> IndexState:
        """As it is now."""
        precision = self.engine.precision(table.kind, table.dimensions)
        if precision is None:
            return IndexState("none", None, _NO_TYPE if table.kind == "float8" else _TOO_LONG)
        note = _HALF_PRECISION_NOTE if precision == "half" else ""
        if await self.database.fetch(_SQL["locked"], {"key": table.lock}):
            return IndexState("building", precision, note)
        rows = await self.database.fetch(_SQL["indexes"], self._names(table))
        valid = next((row["indisvalid"] for row in rows if row["relname"] == table.index), None)
        if valid is None:
            return IndexState("none", precision, note)
        return IndexState("ready" if valid else "broken", precision, note)

    async def build(self, table: VectorTable, *, rebuild: bool) -> bool:
        """Whether one was built: not where there is one, there can be none, or somebody is at it."""
        precision = self.engine.precision(table.kind, table.dimensions)
        if precision is None:
            return False

        async def work(connection: Connection) -> bool:
            try:
                return await self._build_alone(connection, table, precision, rebuild=rebuild)
            except errors.QueryCanceled as error:
                raise QueryTimeout(
                    f"the server cancelled the build of the index {table.index} after its own statement_timeout; "
                    f"raise that for this user, or run `{command('vectors reindex')}` with a DATABASE_URL that "
                    "bypasses the pooler"
                ) from error

        async with _alone(self.database.config, table.lock) as alone:
            return alone and await self.database.run_outside(work, timeout=self.settings.build_timeout_seconds)

    async def _build_alone(self, connection: Connection, table: VectorTable, precision: str, *, rebuild: bool) -> bool:
        rows = await self.database.rows(connection, _SQL["indexes"], self._names(table))
        valid = {row["relname"]: row["indisvalid"] for row in rows}
        if valid.get(table.index) and not rebuild:
            return False
        async with self._settings(connection):
            await self._nearest(connection, table, precision)
            if not valid.get(_metadata(table)):
                await self._metadata(connection, table)
        _log.info("vector_index_built", table=table.name, model=table.model, precision=precision)
        return True

    @contextlib.asynccontextmanager
    async def _settings(self, connection: Connection) -> AsyncIterator[None]:
        """Time and memory for a build; behind a pooler those of the server: ours would reach other sessions."""
        if connection.pooled:
            yield
            return
        milliseconds = max(1, round(self.database.config.query_timeout * 1000))
        await self.database.send(connection, _SQL["unlimited"])
        await self.database.send(
            connection, filled(_SQL["index_memory"], {"megabytes": self.settings.memory_megabytes})
        )
        try:
            yield
        finally:
            if not connection.closed:
                await self.database.send(connection, _SQL["reset_memory"])
                await self.database.send(connection, filled(_SQL["limited"], {"milliseconds": milliseconds}))

    async def _nearest(self, connection: Connection, table: VectorTable, precision: str) -> None:
        """Beside the one there is, which answers until this one takes its name."""
        newer = f"{table.index}_new"
        expression = f"embedding::{self.engine.named('halfvec')}({table.dimensions})"
        gaps = {
            "index": newer,
            "table": table.name,
            "embedding": f"(({expression}))" if precision == "half" else "embedding",
            # With their schema: behind a pooler the search path is not ours.
            "operators": self.engine.named(operator_class(table.metric, precision)),
            "m": self.settings.m,
            "ef_construction": self.settings.ef_construction,
        }
        await self._drop(connection, newer)
        try:
            await self.database.send(connection, filled(_SQL["create_nearest"], gaps))
        except errors.DiskFull:
            # Workers share memory, of which a container has little: 64 MB, where nobody asked for more.
            await self._drop(connection, newer)
            if connection.pooled:
                raise
            await self.database.send(connection, _SQL["one_worker"])
            await self.database.send(connection, filled(_SQL["create_nearest"], gaps))
            await self.database.send(connection, _SQL["reset_workers"])
        await self._drop(connection, table.index)
        await self.database.send(connection, filled(_SQL["rename_index"], {"index": newer, "name": table.index}))

    async def _metadata(self, connection: Connection, table: VectorTable) -> None:
        await self._drop(connection, _metadata(table))
        gaps = {"index": _metadata(table), "table": table.name}
        await self.database.send(connection, filled(_SQL["create_metadata"], gaps))

    async def _drop(self, connection: Connection, index: str) -> None:
        await self.database.send(connection, filled(_SQL["drop_index"], {"index": index}))

    def _names(self, table: VectorTable) -> dict[str, Any]:
        return {"schema": self.database.config.schema_name, "names": [table.index, _metadata(table)]}


@contextlib.asynccontextmanager
async def _alone(config: DatabaseConfig, key: int) -> AsyncIterator[bool]:
    """Whether nobody else holds the lock ``key``; if so, nobody else gets it meanwhile.

    It belongs to a transaction on a connection of its own, in which nothing else happens: a pooler leaves a session to
    whoever has a transaction open in it, and a build waits for no transaction that has looked at nothing.
    """
    connection, _ = await connect_and_prepare(config)
    try:
        await connection.begin(unlimited=True)
        found = await (await connection.execute(filled(_SQL["try_lock"], {"key": key}).encode())).fetchone()
        yield bool(found and found[0])
    finally:
        with contextlib.suppress(psycopg.Error):  # where the connection was lost, the lock is free already
            await connection.rollback()
        await connection.close()


def _metadata(table: VectorTable) -> str:
    return f"{table.name}_metadata"
