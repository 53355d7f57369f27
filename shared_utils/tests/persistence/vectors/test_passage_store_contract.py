"""What every passage store promises: in memory, with each kind of vector type, and without one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from shared_utils.persistence.errors import Conflict, ValueRefused
from shared_utils.persistence.vectors import (
    DimensionMismatch,
    FilterRefused,
    ModelMismatch,
    Scope,
    Stored,
    content_hash,
)
from shared_utils.persistence.vectors.port import PassageStore

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]

ADA, BOB, ALL = Scope.agent("ada"), Scope.agent("bob"), Scope.everything()
EAST, NORTH, UP = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)


def ids(found: Any) -> list[Any]:
    return [match.passage.passage_id for match in found]


async def test_nothing_is_found_where_nothing_is(store: PassageStore) -> None:
    assert await store.search({"small": EAST}, ALL) == []
    assert await store.get(["a"], ALL) == []
    assert await store.hashes(["a"], model="small") == {}
    assert await store.delete(ALL) == 0
    assert (await store.page(ALL)).passages == []
    assert (await store.statistics()).passages == 0
    assert await store.build_index() == []


async def test_stored_passage_is_read_back_unchanged(store: PassageStore, passage: Callable[..., Any]) -> None:
    metadata = {"topic": "cats", "year": 2024, "deep": {"list": [1, None, "\N{CAT}"]}, "a\u4e2d": True}
    given = passage("p-1", (0.25, -2.0, 1e-3), source_id="s", metadata=metadata, text="喵 says the 'cat' %s {}")
    assert await store.store(given)
    [found] = await store.get(["p-1"], ALL)
    assert found.embedding == pytest.approx([0.25, -2.0, 1e-3], rel=1e-6)
    kept = replace(found, embedding=given.embedding, created_at=None, updated_at=None)
    assert kept == replace(given, content_hash=given.hashed)
    assert found.created_at is not None
    assert found.updated_at is not None
    assert abs(found.created_at - datetime.now(UTC)) < timedelta(minutes=5)
    assert found.created_at <= found.updated_at


async def test_embeddings_are_returned_only_on_request(store: PassageStore, passage: Callable[..., Any]) -> None:
    await store.store(passage("p"))
    [found] = await store.get(["p"], ALL, embeddings=False)
    assert list(found.embedding) == []
    [match] = await store.search({"small": EAST}, ALL)
    assert list(match.passage.embedding) == []
    [match] = await store.search({"small": EAST}, ALL, embeddings=True)
    assert list(match.passage.embedding) == [1, 0, 0]


async def test_unchanged_passage_is_not_written_again(store: PassageStore, passage: Callable[..., Any]) -> None:
    assert await store.store(passage("p"))
    [first] = await store.get(["p"], ALL)
    assert not await store.store(passage("p"))
    assert not await store.store(passage("p", (1.0, 0.001, 0.0)))  # the same text, embedded again
    assert (await store.get(["p"], ALL)) == [first]
    assert await store.store(passage("p", NORTH, text="another"))
    [second] = await store.get(["p"], ALL)
    assert (second.text, list(second.embedding)) == ("another", [0, 1, 0])
    assert second.created_at == first.created_at
    assert first.updated_at is not None
    assert second.updated_at is not None
    assert second.updated_at > first.updated_at


async def test_batch_returns_its_results(store: PassageStore, passage: Callable[..., Any]) -> None:
    await store.store_all([passage("a"), passage("b")])
    batch = [passage("a"), passage("b", text="new"), passage("c", text="old"), passage("c", text="newer")]
    assert await store.store_all(batch) == Stored(added=1, changed=1, unchanged=1)
    assert [found.text for found in await store.get(["b", "c"], ALL)] == ["new", "newer"]
    assert await store.store_all([]) == Stored()


async def test_batches_of_the_same_passages_may_come_at_once(store: PassageStore, passage: Callable[..., Any]) -> None:
    await store.prepare("small", 3)
    batches = [[passage(f"p-{number}", metadata={"by": by}) for number in range(50)] for by in range(4)]
    came = await asyncio.gather(*map(store.store_all, batches))
    assert sum(part.added for part in came) == 50
    assert (await store.statistics()).passages == 50


async def test_first_passages_of_one_model_may_come_at_once(store: PassageStore, passage: Callable[..., Any]) -> None:
    assert all(await asyncio.gather(*(store.store(passage(f"p-{number}")) for number in range(4))))
    assert len((await store.statistics()).tables) == 1


async def test_hashes_identify_texts_to_embed(store: PassageStore, passage: Callable[..., Any]) -> None:
    given = passage("p", metadata={"n": 1})
    await store.store(given)
    assert await store.hashes(["p", "q"], model="small") == {"p": content_hash(given.text, {"n": 1})}
    assert await store.hashes(["p"], model="other") == {}


async def test_a_passage_cannot_be_taken_over(store: PassageStore, passage: Callable[..., Any]) -> None:
    await store.store(passage("p"))
    with pytest.raises(Conflict, match="passage p belongs to another agent or source"):
        await store.store_all([passage("new"), passage("p", agent_id="bob", text="mine")])
    with pytest.raises(Conflict):
        await store.store(passage("p", source_id="s", text="mine"))
    assert [found.text for found in await store.get(["p", "new"], ALL)] == ["text of p"]


async def test_text_no_database_holds_is_kept_as_well_as_it_can(
    store: PassageStore, passage: Callable[..., Any]
) -> None:
    await store.store(passage("p", text="a\x00b\ud800", metadata={"k\x00": "v\x00"}))
    [found] = await store.get(["p"], ALL)
    assert (found.text, found.metadata) == ("a\ufffdb\ufffd", {"k\ufffd": "v\ufffd"})


async def test_invalid_passage_is_refused(store: PassageStore, passage: Callable[..., Any]) -> None:
    for wrong in (
        {"embedding": ()},
        {"embedding": (0.0, 0.0, 0.0)},
        {"embedding": (float("nan"), 0.0, 1.0)},
        {"embedding": (float("inf"), 0.0, 1.0)},
        {"embedding": (1e300, 0.0, 1.0)},
        {"embedding": (1.0,) * 16_001},
        {"metadata": {"n": float("nan")}},
        {"metadata": {"n": object()}},
        {"agent_id": ""},
        {"source_id": "a\x00"},
        {"passage_id": "p" * 501},
    ):
        with pytest.raises(ValueRefused):
            await store.store(replace(passage("p"), **wrong))
    assert (await store.statistics()).passages == 0


async def test_vectors_of_another_length_or_model_are_refused_by_name(
    store: PassageStore, passage: Callable[..., Any]
) -> None:
    await store.store(passage("p"))
    with pytest.raises(DimensionMismatch, match="small has vectors of 3 dimensions here, and this one has 2"):
        await store.store(passage("q", (1.0, 0.0)))
    with pytest.raises(DimensionMismatch, match="has 2"):
        await store.store_all([passage("q"), passage("r", (1.0, 0.0))])
    with pytest.raises(ModelMismatch, match="vectors of small, which cannot be compared with those of large"):
        await store.store(passage("q", model="large"))
    with pytest.raises(DimensionMismatch):
        await store.search({"small": (1.0, 0.0)}, ALL)
    with pytest.raises(ModelMismatch, match="large"):
        await store.search({"large": EAST}, ALL)
    with pytest.raises(ModelMismatch):
        await store.search({}, ALL)
    with pytest.raises(ModelMismatch):
        await store.prepare("large", 3)
    with pytest.raises(DimensionMismatch):
        await store.prepare("small", 4)
    assert (await store.statistics()).passages == 1


async def test_the_nearest_come_first(store: PassageStore, passage: Callable[..., Any]) -> None:
    await store.store_all(
        [passage("east", EAST), passage("north", NORTH), passage("between", (2.0, 1.0, 0.0)), passage("up", UP)]
    )
    found = await store.search({"small": (1.0, 0.1, 0.0)}, ALL, k=3)
    assert ids(found) == ["east", "between", "north"]
    assert [match.score for match in found] == pytest.approx([0.99504, 0.93452, 0.09950], abs=1e-4)
    assert found[0].passage.text == "text of east"


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("cosine", [("far", 1.0), ("near", 0.98058), ("other", 0.0)]),
        ("l2", [("near", -0.2), ("other", -1.41421), ("far", -9.0)]),
        ("inner_product", [("far", 10.0), ("near", 1.0), ("other", 0.0)]),
    ],
)
async def test_nearness_has_a_metric(
    make_store: Callable[..., Any], passage: Callable[..., Any], metric: str, expected: list[Any]
) -> None:
    passages = [passage("near", (1.0, 0.2, 0.0)), passage("far", (10.0, 0.0, 0.0)), passage("other", NORTH)]
    for store, asked in ((make_store(metric=metric), None), (make_store(), metric)):
        await store.store_all(passages)
        found = await store.search({"small": EAST}, ALL, metric=asked)
        assert [(match.passage.passage_id, pytest.approx(match.score, abs=1e-4)) for match in found] == expected


async def test_a_scope_is_not_left(store: PassageStore, passage: Callable[..., Any]) -> None:
    await store.store_all(
        [
            passage("a", agent_id="ada", source_id="s"),
            passage("b", agent_id="bob", source_id="s"),
            passage("c", agent_id="ada"),
            passage("d", agent_id=None, source_id="t"),
        ]
    )
    for scope, expected in {
        ADA: {"a", "c"},
        BOB: {"b"},
        Scope.source("s"): {"a", "b"},
        Scope(agent_id="ada", source_id="s"): {"a"},
        Scope.agent("nobody"): set(),
        ALL: {"a", "b", "c", "d"},
    }.items():
        assert set(ids(await store.search({"small": EAST}, scope))) == expected
        assert {found.passage_id for found in await store.get(["a", "b", "c", "d"], scope)} == expected
        assert {found.passage_id for found in (await store.page(scope)).passages} == expected


async def test_k_offset_and_a_least_score(store: Any, passage: Callable[..., Any], vectors: Callable[..., Any]) -> None:
    await store.store_all([passage(f"p-{number:03}", v) for number, v in enumerate(vectors(60, 3))])
    query = {"small": EAST}
    everything = ids(await store.search(query, ALL, k=60))
    assert len(set(everything)) == 60
    assert ids(await store.search(query, ALL, k=7, offset=20)) == everything[20:27]
    assert ids(await store.search(query, ALL, k=7, offset=58)) == everything[58:]
    near = await store.search(query, ALL, k=60, min_score=0.5)
    assert 0 < len(near) < 60
    assert ids(near) == everything[: len(near)]
    assert all(match.score >= 0.5 for match in near)
    for wrong in ({"k": 0}, {"k": 1001}, {"offset": -1}):
        with pytest.raises(ValueError, match="not"):
            await store.search(query, ALL, **wrong)


async def test_pages_hold_every_passage_once(store: PassageStore, passage: Callable[..., Any]) -> None:
    given = [f"p-{number:02}" for number in range(25)]
    await store.store_all([passage(name, metadata={"even": number % 2 == 0}) for number, name in enumerate(given)])
    found, after = [], None
    while True:
        page = await store.page(ADA, limit=10, after=after)
        found += [one.passage_id for one in page.passages]
        if (after := page.next) is None:
            break
    assert found == given
    page = await store.page(ADA, where={"even": True}, limit=5, after="p-04")
    assert [one.passage_id for one in page.passages] == ["p-06", "p-08", "p-10", "p-12", "p-14"]


async def test_delete_removes_passages_by_id_source_or_scope(store: PassageStore, passage: Callable[..., Any]) -> None:
    given = [
        passage(name, agent_id=agent, source_id=source, metadata={"n": number})
        for number, (name, agent, source) in enumerate(
            [("a", "ada", "s"), ("b", "ada", None), ("c", "bob", "s"), ("d", "bob", None), ("e", "eve", None)]
        )
    ]
    await store.store_all(given)
    assert await store.delete(ADA, passage_ids=["c", "nothing"]) == 0
    assert await store.delete(ADA, passage_ids=[]) == 0
    assert await store.delete(BOB, passage_ids=["c"]) == 1
    assert await store.delete(Scope.source("s")) == 1
    assert await store.delete(ALL, where={"n": {"$gte": 4}}) == 1
    assert {one.passage_id for one in (await store.page(ALL)).passages} == {"b", "d"}
    assert await store.delete(ADA) == 1
    assert await store.delete(ALL) == 1
    assert await store.search({"small": EAST}, ALL) == []
    assert await store.store(given[0])


METADATA = {
    "cat": {"kind": "cat", "age": 3, "name": "Mia", "tame": True, "tags": ["x"], "weight": 4.5},
    "dog": {"kind": "dog", "age": 10, "name": "max", "tame": False, "chip": None},
    "old": {"kind": "cat", "age": 21.5, "name": "Äsop", "tame": True},
    "odd": {"kind": 7, "age": "10", "tame": "true", "a.b": 1, "quote'\"": "%s"},
    "bare": {},
}
FILTERS = [
    ({}, {"cat", "dog", "old", "odd", "bare"}),
    ({"kind": "cat"}, {"cat", "old"}),
    ({"kind": {"$eq": "cat"}, "age": {"$lt": 5}}, {"cat"}),
    ({"kind": {"$ne": "cat"}}, {"dog", "odd"}),
    ({"age": 10}, {"dog"}),
    ({"age": 10.0}, {"dog"}),
    ({"age": "10"}, {"odd"}),
    ({"age": {"$lt": 10}}, {"cat"}),
    ({"age": {"$lte": 10}}, {"cat", "dog"}),
    ({"age": {"$gt": 3}}, {"dog", "old"}),
    ({"age": {"$gte": 3, "$lt": 21.5}}, {"cat", "dog"}),
    ({"age": {"$gt": "1"}}, {"odd"}),
    ({"age": {"$between": [3, 10]}}, {"cat", "dog"}),
    ({"name": {"$between": ["A", "Z"]}}, {"cat"}),
    ({"name": {"$gt": "z"}}, {"old"}),
    ({"weight": 4.5}, {"cat"}),
    ({"tame": True}, {"cat", "old"}),
    ({"tame": {"$ne": True}}, {"dog", "odd"}),
    ({"chip": None}, {"dog"}),
    ({"chip": {"$exists": True}}, {"dog"}),
    ({"chip": {"$exists": False}}, {"cat", "old", "odd", "bare"}),
    ({"tags": {"$exists": True}}, {"cat"}),
    ({"tags": "x"}, set()),
    ({"tags": {"$ne": "x"}}, {"cat"}),
    ({"kind": {"$in": ["cat", 7, None]}}, {"cat", "old", "odd"}),
    ({"age": {"$in": [3, 21.5, "10", True]}}, {"cat", "old", "odd"}),
    ({"age": {"$in": []}}, set()),
    ({"age": {"$nin": [3, 10]}}, {"old", "odd"}),
    ({"age": {"$nin": []}}, {"cat", "dog", "old", "odd"}),
    ({"$and": [{"kind": "cat"}, {"age": {"$gt": 3}}]}, {"old"}),
    ({"$or": [{"kind": "dog"}, {"age": {"$lt": 5}}]}, {"cat", "dog"}),
    ({"$not": {"kind": "cat"}}, {"dog", "odd", "bare"}),
    ({"$not": {"age": {"$gt": 3}}}, {"cat", "odd", "bare"}),
    ({"$or": [{"$not": {"age": {"$exists": True}}}, {"$and": [{"tame": True}, {"name": "Mia"}]}]}, {"bare", "cat"}),
    ({"a.b": 1}, {"odd"}),
    ({"quote'\"": "%s"}, {"odd"}),
    ({"name'; --": "x"}, set()),
]


async def test_filters_mean_the_same_everywhere(store: Any, passage: Callable[..., Any]) -> None:
    await store.store_all([passage(name, metadata=metadata) for name, metadata in METADATA.items()])
    for where, expected in FILTERS:
        found = await store.search({"small": EAST}, ADA, where=where)
        assert set(ids(found)) == expected, where
    for where in ({"kind": {"$like": "c%"}}, {"$nor": []}):
        with pytest.raises(FilterRefused):
            await store.search({"small": EAST}, ADA, where=where)
        with pytest.raises(FilterRefused):
            await store.delete(ADA, where=where)
    assert (await store.statistics()).passages == len(METADATA)


async def test_statistics_count_passages_of_each_table(
    store: PassageStore, passage: Callable[..., Any], engine: str
) -> None:
    await store.store_all([passage(f"p-{number}") for number in range(3)])
    found = await store.statistics()
    [table] = found.tables
    assert (found.passages, found.dimensions) == (3, [3])
    assert (table.model, table.dimensions, table.state, table.passages) == ("small", 3, "current", 3)
    typed = engine.partition("/")[0] in {"postgresql", "opengauss-6.0.2", "opengauss-7.0"}
    assert table.kind == ("vector" if typed else "float8")
    assert table.index.state == "none"
    assert table.index.precision == ("single" if typed else None)
    assert bool(table.index.note) != typed
    if engine != "memory":
        assert table.table_bytes > 0
        assert table.index_bytes > 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"metadata": None},
        {"metadata": ["a"]},
        {"text": 7},
        {"passage_id": 7},
        {"passage_id": None},
        {"model": None},
        {"agent_id": 7},
        {"source_id": b"x"},
    ],
    ids=str,
)
async def test_passage_that_could_not_be_read_back_is_refused(
    store: PassageStore, passage: Callable[..., Any], wrong: Any
) -> None:
    good = passage("good")
    with pytest.raises(ValueRefused):
        await store.store_all([replace(good, **wrong)])
    await store.store(good)
    assert [found.passage_id for found in (await store.page(Scope.everything())).passages] == ["good"]
