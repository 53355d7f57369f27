"""The nearest passages of one table: by its index, or by comparing the query with each.

The index finds the nearest of all passages and drops those the conditions leave out. Where they leave out nearly all,
it is slow and comes back with too little. So few passages are compared one by one, which is exact; with many the index
looks on until there is enough; and where it gives up, they are compared one by one after all. So there are ``limit``
matches where there are ``limit`` passages.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from weakref import WeakKeyDictionary

from shared_utils.persistence.database.database import Connection, Database, Row
from shared_utils.persistence.statements import statements
from shared_utils.persistence.vectors.distances import exact_distance, indexed_distance, query_params
from shared_utils.persistence.vectors.engine import VectorEngine
from shared_utils.persistence.vectors.filter_sql import Conditions, filled
from shared_utils.persistence.vectors.passages import Metric
from shared_utils.persistence.vectors.rows import columns
from shared_utils.persistence.vectors.tables import VectorTable

_SQL: Final = statements("vectors", "shared_utils.persistence")
_MAX_SEARCH_WIDTH: Final = 1000
"""Passages an index looks at on one go, at most."""
_WIDENING_FACTOR: Final = 4
_SELECTIVITY_CACHE_SECONDS: Final = 60.0
"""Seconds for which the selectivity of a query is cached. A stale value costs time, not matches."""
_MOST_REMEMBERED: Final = 2000


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of one table."""

    vector: Sequence[float]
    metric: Metric
    conditions: Conditions
    limit: int
    key: Hashable
    """Tells questions about other passages apart."""
    embeddings: bool = False


@dataclass(slots=True)
class Nearest:
    """Asks tables for their nearest passages.

    Args:
        database: where they are.
        engine: what its server can do.
        few: with no more passages than these, each is compared with the query.
        width: passages the index looks at, at least.
    """

    database: Database
    engine: VectorEngine
    few: int
    width: int
    _widths: WeakKeyDictionary[Connection, int] = field(default_factory=WeakKeyDictionary)
    _memory: OrderedDict[Hashable, tuple[float, bool]] = field(default_factory=OrderedDict)

    async def rows(self, table: VectorTable, question: Question) -> Sequence[Row]:
        """Rows of passages with their ``distance``, nearest first."""
        table.check(len(question.vector))

        async def work(connection: Connection) -> Sequence[Row]:
            precision = self.engine.precision(table.kind, table.dimensions) if table.indexed else None
            by_index = precision is not None and question.metric == table.metric
            if precision is not None and by_index and not await self._is_about_few(connection, table, question):
                found = await self._indexed(connection, table, question, precision)
                if len(found) >= question.limit:
                    return sorted(found, key=lambda row: (row["distance"], row["passage_id"]))
            return await self._exact(connection, table, question)

        return await self.database.run(work, transaction=False)

    async def _is_about_few(self, connection: Connection, table: VectorTable, question: Question) -> bool:
        if question.conditions.any:
            return False
        key = (table.name, question.key)
        at, few = self._memory.get(key, (0.0, False))
        if at > time.monotonic():
            return few
        statement = filled(_SQL["few"], {"table": table.name, "conditions": question.conditions.text})
        [row] = await self.database.rows(connection, statement, {**question.conditions.params, "most": self.few + 1})
        few = int(row["found"]) <= self.few
        self._memory[key] = (time.monotonic() + _SELECTIVITY_CACHE_SECONDS, few)
        self._memory.move_to_end(key)
        while len(self._memory) > _MOST_REMEMBERED:
            self._memory.popitem(last=False)
        return few

    async def _exact(self, connection: Connection, table: VectorTable, question: Question) -> Sequence[Row]:
        gaps = self._gaps(table, question) | {"distance": exact_distance(table.kind, question.metric)}
        params = self._params(table, question) | {"limit": question.limit}
        return await self.database.rows(connection, filled(_SQL["nearest_exact"], gaps), params)

    async def _indexed(
        self, connection: Connection, table: VectorTable, question: Question, precision: str
    ) -> Sequence[Row]:
        distance = indexed_distance(question.metric, precision, table.dimensions)
        gaps = self._gaps(table, question) | {"distance": distance, "limit": question.limit}
        params = self._params(table, question)
        width = min(max(self.width, question.limit), _MAX_SEARCH_WIDTH)
        if self.engine.iterative or question.conditions.any:
            await self._widen(connection, width)
            return await self.database.rows(connection, filled(_SQL["nearest_indexed"], gaps), params)
        found: Sequence[Row] = ()
        while width <= _MAX_SEARCH_WIDTH:
            await self._widen(connection, width)
            statement = filled(_SQL["nearest_widened"], gaps | {"width": width})
            found = await self.database.rows(connection, statement, params)
            if len(found) >= question.limit or width == _MAX_SEARCH_WIDTH:
                break
            width = min(width * _WIDENING_FACTOR, _MAX_SEARCH_WIDTH)
        return found

    async def _widen(self, connection: Connection, width: int) -> None:
        """Nobody else uses these settings, so that a connection of our own keeps them."""
        if self._widths.get(connection) == width:
            return
        kind = "builtin" if self.engine.builtin else "iterative" if self.engine.iterative else "extension"
        statement = filled(_SQL[f"widen_{kind}"], {"local": str(connection.pooled).lower()})
        await self.database.send(connection, statement, {"width": str(width)})
        if not connection.pooled:
            self._widths[connection] = width

    def _gaps(self, table: VectorTable, question: Question) -> dict[str, Any]:
        return {
            "table": table.name,
            "columns": columns(embeddings=question.embeddings),
            "conditions": question.conditions.text,
        }

    def _params(self, table: VectorTable, question: Question) -> dict[str, Any]:
        return question.conditions.params | query_params(table.kind, question.vector)
