"""The tables of vectors: one per model, listed in ``vector_models``."""

from __future__ import annotations

import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from psycopg.errors import InsufficientPrivilege

from shared_utils.observability import logs
from shared_utils.operator_commands import command
from shared_utils.persistence.database.database import Connection, Database
from shared_utils.persistence.errors import DatabaseRefused
from shared_utils.persistence.installed_names import LOCKS
from shared_utils.persistence.statements import statements
from shared_utils.persistence.vectors.errors import DimensionMismatch, ModelMismatch, VectorTableMissing
from shared_utils.persistence.vectors.filter_sql import filled
from shared_utils.persistence.vectors.passages import Metric

_log = logs.get(__name__)

State = Literal["current", "filling", "retired"]

_SQL: Final = statements("vectors", "shared_utils.persistence")
_DDL: Final = statements("vectors_table", "shared_utils.persistence")
_TABLE_CACHE_SECONDS: Final = 15.0
"""Seconds after which changes of other processes are seen; dropped tables are detected at once."""


@dataclass(frozen=True, slots=True)
class VectorTable:
    """The vectors of one model."""

    collection: str
    number: int
    model: str
    dimensions: int
    kind: str
    metric: Metric
    state: State
    indexed: bool = False

    @property
    def name(self) -> str:
        """The table's."""
        return f"{self.collection}_{self.number}"

    @property
    def index(self) -> str:
        """The name of its nearest-neighbour index."""
        return f"{self.name}_nearest"

    @property
    def lock(self) -> int:
        """Of the advisory lock held by who builds its index."""
        return zlib.crc32(f"{LOCKS} vectors {self.name}".encode())

    def check(self, dimensions: int) -> None:
        """Return where vectors of this length fit.

        Raises:
            DimensionMismatch: they do not.
        """
        if dimensions != self.dimensions:
            raise DimensionMismatch(
                f"the model {self.model} has vectors of {self.dimensions} dimensions here, and this one has "
                f"{dimensions}; a model whose vectors have another length needs another name"
            )


class VectorTables:
    """Which tables there are.

    Args:
        database: where they are.
        collection: what their names begin with.
    """

    def __init__(self, database: Database, collection: str) -> None:
        self.collection = collection
        self._database = database
        self._known: Sequence[VectorTable] = ()
        self._until = 0.0

    async def known(self) -> Sequence[VectorTable]:
        """Those there are, the current one first; what another process did to them is seen a little later."""
        if time.monotonic() >= self._until:
            await self.fresh()
        return self._known

    async def fresh(self, connection: Connection | None = None) -> Sequence[VectorTable]:
        """Those there are now, as seen by this connection."""
        params = {"collection": self.collection, "schema": self._database.config.schema_name}
        if connection is None:
            rows = await self._database.fetch(_SQL["models"], params)
        else:
            rows = await self._database.rows(connection, _SQL["models"], params)
        self._known = [_table(self.collection, row) for row in rows]
        self._until = time.monotonic() + _TABLE_CACHE_SECONDS
        return self._known

    def forget(self) -> None:
        """Look again next time."""
        self._until = 0.0

    async def of(self, model: str, dimensions: int) -> VectorTable:
        """The table that takes vectors of this model.

        Raises:
            ModelMismatch, DimensionMismatch: there is none.
        """
        for tables in (await self.known(), None):
            if found := in_use(tables if tables is not None else await self.fresh(), model):
                found.check(dimensions)
                return found
        raise mismatch(self._known, model)

    async def make(self, model: str, dimensions: int, *, state: State, metric: Metric, kind: str) -> None:
        """Make the table of a model; nothing where it is there. Several processes may do this at once.

        Raises:
            DimensionMismatch: it is there for vectors of another length.
            ModelMismatch: another model has that state.
            VectorTableMissing: we may not.
        """

        async def work(connection: Connection) -> None:
            await self._database.send(connection, _SQL["lock_models"], {"key": self._key})
            tables = await self.fresh(connection)
            if (there := in_use(tables, model)) is not None:
                there.check(dimensions)
                return
            if any(table.state == state for table in tables):
                raise mismatch(tables, model)
            self._refuse_where_we_may_not(model, dimensions)
            number = max((table.number for table in tables), default=0) + 1
            made = VectorTable(self.collection, number, model, dimensions, kind, metric, state)
            await self._make(connection, made)

        try:
            await self._database.run(work)
        except DatabaseRefused as error:
            if isinstance(error.__cause__, InsufficientPrivilege):
                raise self._may_not(model, dimensions) from error
            raise
        await self.fresh()

    async def drop(self, connection: Connection, table: VectorTable) -> None:
        """Drop one, and what is known of it."""
        await self._database.send(connection, filled(_SQL["drop_table"], {"table": table.name}))
        params = {"collection": self.collection, "table_number": table.number}
        await self._database.send(connection, _SQL["remove_model"], params)
        _log.info("vector_table_dropped", table=table.name, model=table.model)

    async def set_state(self, connection: Connection, table: VectorTable, state: State) -> None:
        """Give one another state."""
        params = {"collection": self.collection, "table_number": table.number, "state": state}
        await self._database.send(connection, _SQL["set_state"], params)

    async def lock(self, connection: Connection) -> Sequence[VectorTable]:
        """Keep others from changing which tables there are, until this transaction ends; those there are."""
        await self._database.send(connection, _SQL["lock_models"], {"key": self._key})
        return await self.fresh(connection)

    async def _make(self, connection: Connection, table: VectorTable) -> None:
        column = "float8[]" if table.kind == "float8" else f"vector({table.dimensions})"
        for statement in _DDL.values():
            await self._database.send(connection, filled(statement, {"table": table.name, "type": column}))
        await self._database.send(
            connection,
            _SQL["add_model"],
            {
                "collection": self.collection,
                "table_number": table.number,
                "model": table.model,
                "dimensions": table.dimensions,
                "kind": table.kind,
                "metric": table.metric,
                "state": table.state,
            },
        )
        _log.info("vector_table_created", table=table.name, model=table.model, dimensions=table.dimensions)

    def _refuse_where_we_may_not(self, model: str, dimensions: int) -> None:
        if not self._database.config.generate_schemas:
            raise self._may_not(model, dimensions)

    def _may_not(self, model: str, dimensions: int) -> VectorTableMissing:
        return VectorTableMissing(
            f"there is no table for vectors of {model} in the database {self._database.config.place}, and this role "
            f"may not create it; run as its owner: {command(f'vectors prepare {model} {dimensions}')}"
        )

    @property
    def _key(self) -> int:
        return zlib.crc32(f"{LOCKS} vectors {self._database.config.schema_name} {self.collection}".encode())


def in_use(tables: Sequence[VectorTable], model: str) -> VectorTable | None:
    """The table of a model that takes vectors and answers."""
    return next((table for table in tables if table.model == model and table.state != "retired"), None)


def mismatch(tables: Sequence[VectorTable], model: str) -> ModelMismatch:
    """Why vectors of this model do not fit."""
    held = " and ".join(table.model for table in tables if table.state != "retired") or "no model"
    return ModelMismatch(
        f"the collection holds vectors of {held}, which cannot be compared with those of {model}; name that model, or "
        f"switch to the new one: {command('vectors reembed')}"
    )


def _table(collection: str, row: dict[str, Any]) -> VectorTable:
    return VectorTable(
        collection,
        row["table_number"],
        row["model"],
        row["dimensions"],
        row["kind"],
        row["metric"],
        row["state"],
        row["indexed"],
    )
