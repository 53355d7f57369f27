"""Passages in PostgreSQL or openGauss, a table for each embedding model."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

from shared_utils.persistence.database.database import Connection, Database
from shared_utils.persistence.errors import Conflict, SchemaMissing
from shared_utils.persistence.statements import statements
from shared_utils.persistence.vectors.changeover import Changeover
from shared_utils.persistence.vectors.distances import score
from shared_utils.persistence.vectors.engine import VectorEngine, look
from shared_utils.persistence.vectors.errors import ModelMismatch
from shared_utils.persistence.vectors.filter_sql import Conditions, filled
from shared_utils.persistence.vectors.filters import parsed
from shared_utils.persistence.vectors.index import IndexBuilder
from shared_utils.persistence.vectors.nearest import Nearest, Question
from shared_utils.persistence.vectors.passages import (
    Match,
    Metric,
    Passage,
    PassagePage,
    Scope,
    Stored,
    check_vector,
    checked,
)
from shared_utils.persistence.vectors.port import Filter, IndexState, StoredModel, TableStatistics, VectorStatistics
from shared_utils.persistence.vectors.ranking import check_limits, paged, ranked
from shared_utils.persistence.vectors.rows import columns, embeddings_sql, passage_of, written
from shared_utils.persistence.vectors.settings import VectorSettings
from shared_utils.persistence.vectors.tables import State, VectorTable, VectorTables, in_use, mismatch

_SQL: Final = statements("vectors", "shared_utils.persistence")
_PASSAGES_PER_STATEMENT: Final = 1000
_WRITE_ATTEMPTS: Final = 3
_WRITE_TIMEOUT: Final = 120.0
"""Seconds a thousand passages may take where each has to find its place in an index."""

_Result = TypeVar("_Result")


class DatabasePassageStore:
    """See :class:`PassageStore`.

    Args:
        database: where they are; this store closes it.
        settings: how they are kept.
    """

    def __init__(self, database: Database, settings: VectorSettings | None = None) -> None:
        self._database = database
        self._settings = settings or VectorSettings()
        self._tables = VectorTables(database, self._settings.table_name)
        self._change = Changeover(database, self._tables)
        self._engine: VectorEngine | None = None
        self._nearest: Nearest | None = None

    async def prepare(self, model: str, dimensions: int) -> None:
        """See the port, as for all of these."""
        await self._make(model, dimensions, "current")

    async def store(self, passage: Passage) -> bool:
        return (await self.store_all([passage])).unchanged == 0

    async def store_all(self, passages: Sequence[Passage]) -> Stored:
        by_model: dict[str, dict[str, Passage]] = {}
        for passage in passages:
            by_model.setdefault(passage.model, {})[passage.passage_id] = checked(passage)
        stored = Stored()
        for model, given in by_model.items():
            # In one order by everybody: two batches would else wait for each other.
            batch = [given[passage_id] for passage_id in sorted(given)]
            batches = [
                batch[start : start + _PASSAGES_PER_STATEMENT]
                for start in range(0, len(batch), _PASSAGES_PER_STATEMENT)
            ]
            stored += await self._store_in_turn(model, batches)
        return stored

    async def hashes(self, passage_ids: Sequence[str], *, model: str) -> Mapping[str, str]:
        async def ask() -> Mapping[str, str]:
            table = in_use(await self._tables.known(), model)
            if table is None:
                return {}
            rows = await self._database.fetch(
                filled(_SQL["hashes"], {"table": table.name}), {"passage_ids": list(passage_ids)}
            )
            return {row["passage_id"]: row["content_hash"] for row in rows}

        return await self._with_tables(ask)

    async def get(self, passage_ids: Sequence[str], scope: Scope, *, embeddings: bool = True) -> Sequence[Passage]:
        async def ask() -> Sequence[Passage]:
            found: dict[str, Passage] = {}
            for table in await self._answering():
                conditions = Conditions(scope, None)
                gaps = {"table": table.name, "columns": columns(embeddings=embeddings), "conditions": conditions.text}
                params = conditions.params | {"passage_ids": list(passage_ids)}
                for row in await self._database.fetch(filled(_SQL["get"], gaps), params):
                    found.setdefault(row["passage_id"], passage_of(row))
            return [found[passage_id] for passage_id in dict.fromkeys(passage_ids) if passage_id in found]

        return await self._with_tables(ask)

    async def page(
        self, scope: Scope, *, where: Filter | None = None, limit: int = 100, after: str | None = None
    ) -> PassagePage:
        check_limits(limit)
        condition = parsed(where)

        async def ask() -> PassagePage:
            found: dict[str, Passage] = {}
            newer: VectorTable | None = None
            for table in await self._answering():
                conditions = Conditions(scope, condition)
                if newer is not None:
                    conditions.without(newer.name)
                newer = table
                gaps = {"table": table.name, "columns": columns(embeddings=False), "conditions": conditions.text}
                params = conditions.params | {"after": after or "", "limit": limit + 1}
                rows = await self._database.fetch(filled(_SQL["page"], gaps), params)
                found |= {row["passage_id"]: passage_of(row) for row in rows}
            return paged([found[passage_id] for passage_id in sorted(found)], limit)

        return await self._with_tables(ask)

    async def delete(
        self, scope: Scope, *, passage_ids: Sequence[str] | None = None, where: Filter | None = None
    ) -> int:
        conditions = Conditions(scope, parsed(where))
        name = "delete" if passage_ids is None else "delete_these"
        params = conditions.params if passage_ids is None else conditions.params | {"passage_ids": list(passage_ids)}

        async def work(connection: Connection) -> int:
            gone: set[str] = set()
            done: set[int] = set()
            # The tables are looked up again after each: what waits for the current one's rows may fill a new one.
            while tables := [table for table in await self._tables.fresh(connection) if table.number not in done]:
                gaps = {"table": tables[0].name, "conditions": conditions.text}
                rows = await self._database.rows(connection, filled(_SQL[name], gaps), params)
                gone |= {row["passage_id"] for row in rows}
                done.add(tables[0].number)
            return len(gone)

        return await self._with_tables(lambda: self._database.run(work))

    async def search(
        self,
        vectors: Mapping[str, Sequence[float]],
        scope: Scope,
        *,
        k: int = 10,
        offset: int = 0,
        where: Filter | None = None,
        min_score: float | None = None,
        metric: Metric | None = None,
        embeddings: bool = False,
    ) -> Sequence[Match]:
        check_limits(k, offset)
        for model, vector in vectors.items():
            check_vector(vector, f"the query of {model}")
        condition = parsed(where)
        key = (scope, json.dumps(where, sort_keys=True, default=str))

        async def ask() -> Sequence[Match]:
            matches: list[Match] = []
            newer: VectorTable | None = None
            for table in await self._asked(vectors):
                conditions = Conditions(scope, condition)
                if newer is not None:
                    conditions.without(newer.name)
                newer = table
                chosen = metric or table.metric
                question = Question(vectors[table.model], chosen, conditions, k + offset, key, embeddings)
                nearest = await self._looking(table)
                rows = await nearest.rows(table, question)
                matches += [Match(passage_of(row), score(chosen, row["distance"])) for row in rows]
            return ranked(matches, k, offset, min_score)

        return await self._with_tables(ask)

    async def statistics(self) -> VectorStatistics:
        async def ask() -> VectorStatistics:
            tables = await self._tables.fresh()
            found = [await self._table_statistics(table) for table in tables]
            total = sum(table.passages for table in found if table.state == "current")
            by_state = {table.state: table for table in tables}
            if {"current", "filling"} <= by_state.keys():
                gaps = {"table": by_state["filling"].name, "other": by_state["current"].name}
                [row] = await self._database.fetch(filled(_SQL["only_in"], gaps))
                total += row["passages"]
            return VectorStatistics(total, found)

        return await self._with_tables(ask)

    async def build_index(self, *, rebuild: bool = False) -> Sequence[IndexState]:
        tables = await self._tables.fresh()
        builder = await self._builder(tables)
        for table in tables:
            if table.state != "retired":
                await builder.build(table, rebuild=rebuild)
        self._tables.forget()
        return [await builder.state(table) for table in tables]

    async def ensure_index(self) -> bool:
        tables = await self._tables.fresh()
        builder = await self._builder(tables)
        built = False
        for table in tables:
            if table.indexed or table.state == "retired":
                continue
            gaps = {"table": table.name, "conditions": "true"}
            [row] = await self._database.fetch(filled(_SQL["few"], gaps), {"most": self._settings.index.above})
            if row["found"] >= self._settings.index.above:
                built |= await builder.build(table, rebuild=False)
        self._tables.forget()
        return built

    async def current_model(self) -> StoredModel | None:
        current = (table for table in await self._tables.known() if table.state == "current")
        return next((StoredModel(table.model, table.dimensions) for table in current), None)

    async def begin_reembedding(self, model: str, dimensions: int) -> None:
        await self._make(model, dimensions, "filling")

    async def outdated(self, *, limit: int = 100, after: str | None = None) -> PassagePage:
        check_limits(limit)
        rows = await self._change.outdated(limit + 1, after or "")
        return paged([passage_of(row) for row in rows], limit)

    async def refill(self, passages: Sequence[Passage]) -> int:
        given = {passage.passage_id: checked(passage) for passage in passages}
        if not given:
            return 0
        oid = await self._oid(passages[0].model, passages)

        async def work(connection: Connection) -> int:
            table, fresh = await self._change.held(connection, list(given.values()))
            for passage in fresh:
                _check_model(table, passage)
            if not fresh:
                return 0
            fresh = sorted(fresh, key=lambda passage: passage.passage_id)
            row = await self._write(connection, table, await written(fresh, oid))
            return int(row["added"] + row["changed"])

        return await self._with_tables(lambda: self._database.run(work, timeout=_WRITE_TIMEOUT))

    async def finish_reembedding(self) -> None:
        await self._change.finish()

    async def abandon_reembedding(self) -> None:
        await self._change.drop("filling")

    async def drop_retired(self) -> int:
        return await self._change.drop("retired")

    async def close(self) -> None:
        await self._database.close()

    async def _store_in_turn(self, model: str, batches: Sequence[Sequence[Passage]]) -> Stored:
        """Each batch is made ready while the server is busy with the one before."""
        stored = Stored()
        busy: asyncio.Task[Stored] | None = None
        try:
            for batch in batches:
                columns = await written(batch, await self._oid(model, batch))
                if busy is not None:
                    stored += await busy
                busy = asyncio.create_task(self._store(model, batch, columns))
        except asyncio.CancelledError:
            if busy is not None:
                busy.cancel()
            raise
        except Exception:
            if busy is not None:
                await asyncio.wait([busy])
            raise
        return stored if busy is None else stored + await busy

    async def _store(self, model: str, batch: Sequence[Passage], columns: Mapping[str, Any]) -> Stored:
        async def ask() -> Stored:
            table = await self._tables.of(model, len(batch[0].embedding))
            for passage in batch:
                table.check(len(passage.embedding))
            # A table without an index is quick: one statement in one round trip.
            slow = table.indexed
            row = await self._database.run(
                lambda connection: self._write(connection, table, columns),
                transaction=slow,
                timeout=_WRITE_TIMEOUT if slow else None,
            )
            if row["taken"] is not None:
                raise Conflict(
                    f"passage {row['taken']} belongs to another agent or source; delete that passage, or use another "
                    "id for this one"
                )
            if not row["fit"]:
                raise mismatch(await self._tables.fresh(), model)
            return Stored(row["added"], row["changed"], len(batch) - row["added"] - row["changed"])

        for attempt in range(_WRITE_ATTEMPTS):
            try:
                return await self._with_tables(ask)
            except Conflict as error:
                # Another batch added one of these meanwhile; now it is known.
                if error.__cause__ is None or attempt == _WRITE_ATTEMPTS - 1:
                    raise
        raise AssertionError("the last try returns or raises")

    async def _oid(self, model: str, batch: Sequence[Passage]) -> int | None:
        """The vector type that the table of these passages has; None where it keeps arrays. It is made if need be."""
        dimensions = len(batch[0].embedding)
        if not await self._tables.known():
            await self.prepare(model, dimensions)
        table = await self._with_tables(lambda: self._tables.of(model, dimensions))
        return (await self._looked(table)).oid if table.kind == "vector" else None

    async def _write(self, connection: Connection, table: VectorTable, columns: Mapping[str, Any]) -> dict[str, Any]:
        gaps = {"table": table.name, "embeddings": embeddings_sql(table.kind)}
        params = {
            "collection": table.collection,
            "table_number": table.number,
            "dimensions": table.dimensions,
            "model": table.model,
        }
        [row] = await self._database.rows(connection, filled(_SQL["write"], gaps), params | dict(columns))
        return row

    async def _table_statistics(self, table: VectorTable) -> TableStatistics:
        [row] = await self._database.fetch(filled(_SQL["size"], {"table": table.name}))
        builder = await self._builder([table])
        return TableStatistics(
            model=table.model,
            dimensions=table.dimensions,
            state=table.state,
            kind=table.kind,
            metric=table.metric,
            passages=row["passages"],
            table_bytes=row["table_bytes"],
            index_bytes=row["index_bytes"],
            index=await builder.state(table),
        )

    async def _answering(self) -> Sequence[VectorTable]:
        """The tables that answer, the newer model's first."""
        tables = [table for table in await self._tables.known() if table.state != "retired"]
        return sorted(tables, key=lambda table: table.state != "filling")

    async def _asked(self, vectors: Mapping[str, Sequence[float]]) -> Sequence[VectorTable]:
        """The tables a search is about.

        Raises:
            ModelMismatch: there is no vector for the current model, or one of a model nobody knows.
        """
        tables = await self._answering()
        for model in vectors:
            if tables and in_use(tables, model) is None:
                self._tables.forget()
                raise mismatch(tables, model)
        asked = [table for table in tables if table.model in vectors]
        if tables and not any(table.state == "current" for table in asked):
            raise mismatch([table for table in tables if table.state == "current"], ", ".join(vectors) or "no model")
        return asked

    async def _make(self, model: str, dimensions: int, state: State) -> None:
        arrays = self._settings.arrays or (await self._looked()).oid is None
        metric, kind = self._settings.metric, "float8" if arrays else "vector"
        await self._tables.make(model, dimensions, state=state, metric=metric, kind=kind)

    async def _looked(self, table: VectorTable | None = None) -> VectorEngine:
        """What the server can do; looked up again where a table shows that it has learnt more since."""
        if self._engine is None or (self._engine.oid is None and table is not None and table.kind == "vector"):
            self._engine = await look(self._database, create=not self._settings.arrays)
            self._nearest = None
        return self._engine

    async def _looking(self, table: VectorTable) -> Nearest:
        engine = await self._looked(table)
        if self._nearest is None:
            settings = self._settings
            self._nearest = Nearest(self._database, engine, settings.exact_below, settings.index.ef_search)
        return self._nearest

    async def _builder(self, tables: Sequence[VectorTable]) -> IndexBuilder:
        engine = await self._looked()
        for table in tables:
            engine = await self._looked(table)
        return IndexBuilder(self._database, engine, self._settings.index)

    async def _with_tables(self, ask: Callable[[], Awaitable[_Result]]) -> _Result:
        """What ``ask`` returns; asked again where a table it knew of was dropped or replaced meanwhile."""
        try:
            return await ask()
        except (SchemaMissing, ModelMismatch):
            self._tables.forget()
            return await ask()


def _check_model(table: VectorTable, passage: Passage) -> None:
    if passage.model != table.model:
        raise mismatch([table], passage.model)
    table.check(len(passage.embedding))
