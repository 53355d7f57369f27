"""Indexes: built beside the work, found out about, and as good as a look at every passage."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from operator import mul
from typing import Any

import pytest

from shared_utils.persistence.database.database import Database
from shared_utils.persistence.vectors import Scope
from shared_utils.persistence.vectors.distances import indexed_distance, query_params
from shared_utils.persistence.vectors.filter_sql import Conditions, filled
from shared_utils.persistence.vectors.filters import parsed
from shared_utils.persistence.vectors.nearest import _SQL

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]

ALL = Scope.everything()
ITERATIVE = "postgresql"  # its index looks on until there is enough
WIDENED = "opengauss-6.0.2"  # its index is asked again for more
with_vectors = pytest.mark.parametrize("engine", [ITERATIVE, WIDENED, f"{ITERATIVE}/transaction"], indirect=True)


@pytest.fixture
def indexed(make_store: Callable[..., Any]) -> Callable[..., Any]:
    """Makes stores that hardly ever compare a query with each passage."""

    def make(**settings: Any) -> Any:
        return make_store(**{"exact_below": 10, "index": {"above": 100, "ef_search": 100}, **settings})

    return make


@with_vectors
async def test_passages_are_written_and_found_while_it_is_built(
    indexed: Callable[..., Any], passage: Callable[..., Any], vectors: Callable[..., Any]
) -> None:
    store = indexed()
    given = vectors(1500, 16)
    await store.store_all([passage(f"p-{n}", vector) for n, vector in enumerate(given[:1000])])
    done = False

    async def work() -> int:
        written = 1000
        while not done or written == 1000:
            await store.store(passage(f"p-{written}", given[written]))
            assert len(await store.search({"small": given[0]}, ALL)) == 10
            written += 1
        return written

    working = asyncio.create_task(work())
    [state] = await store.build_index()
    done = True
    written = await working
    assert (state.state, state.precision) == ("ready", "single")
    [table] = (await store.statistics()).tables
    assert (table.passages, table.index.state) == (written, "ready")
    [match] = await store.search({"small": given[written - 1]}, ALL, k=1)
    assert match.passage.passage_id == f"p-{written - 1}"


@with_vectors
async def test_it_is_built_when_it_is_due(
    indexed: Callable[..., Any], passage: Callable[..., Any], vectors: Callable[..., Any], vector_database: Any
) -> None:
    store = indexed()
    given = vectors(100, 8)
    await store.store_all([passage(f"p-{n}", vector) for n, vector in enumerate(given[:99])])
    assert not await store.ensure_index()
    await store.store(passage("p-99", given[99]))
    assert await store.ensure_index()
    assert not await store.ensure_index()
    assert [state.state for state in await store.build_index()] == ["ready"]
    before = await _index_oids(vector_database)
    assert [state.state for state in await store.build_index(rebuild=True)] == ["ready"]
    assert len(await _index_oids(vector_database)) == len(before)
    assert await _index_oids(vector_database) != before


@pytest.mark.parametrize("engine", [ITERATIVE], indirect=True)
async def test_a_build_that_did_not_end_is_replaced(
    indexed: Callable[..., Any], passage: Callable[..., Any], vector_database: Any
) -> None:
    store = indexed()
    await store.store(passage("p"))
    await store.build_index()
    [table] = await store._tables.fresh()
    await vector_database.execute(
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = %(index)s::regclass", {"index": table.index}
    )
    assert (await store.statistics()).tables[0].index.state == "broken"
    assert len(await store.search({"small": (1.0, 0.0, 0.0)}, ALL)) == 1
    assert [state.state for state in await store.build_index()] == ["ready"]


@with_vectors
async def test_two_do_not_build_at_once(
    indexed: Callable[..., Any], passage: Callable[..., Any], vector_database: Any
) -> None:
    store = indexed()
    await store.store(passage("p"))
    [table] = await store._tables.fresh()

    async def work(connection: Any) -> list[Any]:
        await vector_database.send(connection, filled(_SQL["try_lock"], {"key": table.lock}))
        return [state.state for state in await store.build_index()]

    assert await vector_database.run(work) == ["building"]
    assert [state.state for state in await store.build_index()] == ["ready"]


@with_vectors
async def test_more_dimensions_than_an_index_holds(
    indexed: Callable[..., Any], passage: Callable[..., Any], vectors: Callable[..., Any], engine: str
) -> None:
    """Half precision where there is such a type; else, and beyond that, every passage is compared. Both are said."""
    given = vectors(20, 2500)
    store = indexed(exact_below=0)
    await store.store_all([passage(f"p-{n}", vector) for n, vector in enumerate(given)])
    [state] = await store.build_index()
    if engine.startswith(ITERATIVE):
        assert (state.state, state.precision, state.note) == (
            "ready",
            "half",
            "the index finds candidates in half precision",
        )
    else:
        assert (state.state, state.precision) == ("none", None)
        assert "no index supports so many dimensions" in state.note
    for wanted in (3, 17):
        [match] = await store.search({"small": given[wanted]}, ALL, k=1)
        assert match.passage.passage_id == f"p-{wanted}"
        assert match.score == pytest.approx(1, abs=1e-3)
    longest = indexed()
    await longest.store(passage("long", [1.0] * 4001))
    assert [state.state for state in await longest.build_index()] == ["none"]
    assert len(await longest.search({"small": [1.0] * 4001}, ALL)) == 1


@with_vectors
async def test_filtered_searches_are_filled_and_near(
    indexed: Callable[..., Any], passage: Callable[..., Any], vectors: Callable[..., Any], vector_database: Any
) -> None:
    """Recall@10 against a look at every passage, where one in 1, 10, 100 or 1000 meets the filter."""
    dimensions, number, queries = 64, 5000, 10
    # Points near a few hundred centres, as embeddings are; noise alone has no neighbours worth finding.
    centres = vectors(200, dimensions, seed=2)
    noise = vectors(number + queries, dimensions, seed=3)
    points = [[a + 0.5 * b for a, b in zip(centres[n % 200], part, strict=True)] for n, part in enumerate(noise)]
    store = indexed()
    await store.store_all([passage(f"p-{n:04}", point, metadata={"n": n}) for n, point in enumerate(points[:number])])
    await store.build_index()
    assert await _plans_use_the_index(store, vector_database, points[0])
    unit = [[a / math.hypot(*point) for a in point] for point in points]
    for least in (0, 4500, 4950, 4995):
        hits = wanted = 0
        for query, direction in zip(points[number:], unit[number:], strict=True):
            found = await store.search({"small": query}, ALL, where={"n": {"$gte": least}})
            assert len(found) == min(10, number - least)
            scores = [sum(map(mul, direction, unit[n])) for n in range(least, number)]
            nearest = sorted(range(least, number), key=lambda n: -scores[n - least])[:10]
            hits += len({match.passage.passage_id for match in found} & {f"p-{n:04}" for n in nearest})
            wanted += len(nearest)
        assert hits / wanted >= 0.95, f"{hits} of {wanted} nearest, from {least} on"


async def _plans_use_the_index(store: Any, database: Database, query: Any) -> Any:
    [table] = await store._tables.fresh()
    await database.execute(f"ANALYZE {table.name}")
    conditions = Conditions(ALL, parsed({"n": 1}))
    gaps = {
        "table": table.name,
        "columns": "passage_id",
        "distance": indexed_distance("cosine", "single", table.dimensions),
        "conditions": conditions.text,
        "limit": 10,
        "width": 100,
    }
    params = query_params("vector", query) | conditions.params
    texts = [f"EXPLAIN {filled(_SQL[name], gaps)}" for name in ("nearest_indexed", "nearest_widened")]
    plans = [str(await database.fetch(text, params)) for text in texts]
    return all(f"Index Scan using {table.index}" in plan for plan in plans)


async def _index_oids(database: Database) -> set[Any]:
    rows = await database.fetch("SELECT oid FROM pg_class WHERE relkind = 'i' AND relname LIKE '%%\\_nearest%%'", {})
    return {row["oid"] for row in rows}
