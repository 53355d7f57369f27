"""From one embedding model to another, on every kind of store."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from shared_utils.persistence.vectors import ModelMismatch, ReembeddingUnfinished, Scope, VectorError, reembed
from shared_utils.persistence.vectors.port import PassageStore

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]

SHARED = ["postgresql", "postgresql-plain", "opengauss-6.0", "opengauss-7.0"]  # several processes have the same store
KINDS = ["memory", *SHARED]
ALL = Scope.everything()
EAST, NORTH = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0)
SMALL, LARGE = {"small": EAST}, {"small": EAST, "large": (1.0, 0.0, 0.0, 0.0)}


@pytest.fixture(scope="session", params=KINDS)
def engine(request: pytest.FixtureRequest) -> Any:
    """With a vector type and without, of either product."""
    return request.param


class Axes:
    """Embeds ``text of p-7`` as a vector of four dimensions that says 7."""

    model = "large"

    def __init__(self, broken_after: Any = None) -> None:
        self.asked: list[Any] = []
        self._broken_after = broken_after

    async def embed(self, texts: Any) -> list[list[float]]:
        if self._broken_after is not None and len(self.asked) >= self._broken_after:
            raise ConnectionError
        self.asked += texts
        return [[1.0, float(text.rpartition("-")[2]), 0.0, 0.0] for text in texts]


def ids(found: Any) -> list[Any]:
    return [match.passage.passage_id for match in found]


async def filled(store: Any, passage: Any, number: int = 10) -> None:
    await store.store_all([passage(f"p-{n}", (1.0, float(n), 0.0)) for n in range(number)])


async def test_another_model_becomes_the_current_one(store: PassageStore, passage: Callable[..., Any]) -> None:
    await filled(store, passage)
    reports: list[Any] = []
    progress = await reembed(store, Axes(), 4, batch=3, report=reports.append)
    assert progress.done == 10
    assert [report.done for report in reports[:4]] == [3, 6, 9, 10]
    assert {table.model: table.state for table in (await store.statistics()).tables} == {
        "large": "current",
        "small": "retired",
    }
    [first, *_] = await store.search({"large": (1.0, 7.0, 0.0, 0.0)}, ALL)
    assert (first.passage.passage_id, first.passage.model) == ("p-7", "large")
    with pytest.raises(ModelMismatch, match="vectors of large, which cannot be compared with those of small"):
        await store.search(SMALL, ALL)
    with pytest.raises(ModelMismatch):
        await store.store(passage("q"))
    assert await store.drop_retired() == 1
    assert await store.drop_retired() == 0
    assert len((await store.statistics()).tables) == 1


async def test_it_resumes_where_it_stopped(store: PassageStore, passage: Callable[..., Any]) -> None:
    await filled(store, passage)
    with pytest.raises(ConnectionError):
        await reembed(store, Axes(broken_after=4), 4, batch=2)
    embedder = Axes()
    await reembed(store, embedder, 4, batch=2)
    assert len(embedder.asked) == 6


async def test_every_passage_is_found_once_meanwhile(store: PassageStore, passage: Callable[..., Any]) -> None:
    await filled(store, passage)
    await store.begin_reembedding("large", 4)
    page = await store.outdated(limit=4)
    assert [one.passage_id for one in page.passages] == ["p-0", "p-1", "p-2", "p-3"]
    vectors = await Axes().embed([one.text for one in page.passages])
    assert await store.refill([_with(one, vector) for one, vector in zip(page.passages, vectors, strict=True)]) == 4
    await store.store(passage("p-20", (1.0, 20.0, 0.0, 0.0), model="large"))
    await store.store(passage("p-30", (1.0, 30.0, 0.0)))
    found = await store.search(LARGE, ALL, k=20)
    assert sorted(ids(found)) == sorted([*(f"p-{n}" for n in range(10)), "p-20", "p-30"])
    assert {match.passage.passage_id for match in found if match.passage.model == "large"} == {
        "p-0",
        "p-1",
        "p-2",
        "p-3",
        "p-20",
    }
    assert len(ids(await store.search(SMALL, ALL, k=20))) == 11  # the current model's alone
    with pytest.raises(ModelMismatch):
        await store.search({"large": LARGE["large"]}, ALL)
    assert (await store.statistics()).passages == 12
    assert len((await store.page(ALL)).passages) == 12
    assert len(await store.get([f"p-{n}" for n in range(40)], ALL)) == 12


async def test_changeover_does_not_restore_deleted_passages(store: PassageStore, passage: Callable[..., Any]) -> None:
    await filled(store, passage, 4)
    await store.begin_reembedding("large", 4)
    page = await store.outdated()
    await store.store(passage("p-1", NORTH, text="changed meanwhile"))
    assert await store.delete(ALL, passage_ids=["p-0"]) == 1
    vectors = await Axes().embed([one.text for one in page.passages])
    stale = [_with(one, vector) for one, vector in zip(page.passages, vectors, strict=True)]
    assert await store.refill(stale) == 2  # p-0 is gone, p-1 is another
    assert [one.passage_id for one in (await store.outdated()).passages] == ["p-1"]
    with pytest.raises(ReembeddingUnfinished):
        await store.finish_reembedding()
    assert await store.delete(ALL, passage_ids=["p-2"]) == 1  # from both
    assert await store.delete(Scope.agent("ada")) == 2
    await store.finish_reembedding()
    assert (await store.statistics()).passages == 0


async def test_changeover_keeps_newer_passages_of_the_new_model(
    store: PassageStore, passage: Callable[..., Any]
) -> None:
    await filled(store, passage, 1)
    await store.begin_reembedding("large", 4)
    await store.store(passage("p-0", (1.0, 2.0, 3.0, 4.0), model="large", text="newer"))
    assert (await store.outdated()).passages == []
    await store.finish_reembedding()
    [found] = await store.get(["p-0"], ALL)
    assert found.text == "newer"


async def test_passages_without_text_need_it_from_elsewhere(store: PassageStore, passage: Callable[..., Any]) -> None:
    await store.store_all([passage("p-1", text=None), passage("p-2")])
    with pytest.raises(ReembeddingUnfinished):
        await reembed(store, Axes(), 4)

    async def texts(passages: Any) -> dict[Any, str]:
        return {one.passage_id: f"kept elsewhere: {one.passage_id}" for one in passages}

    await reembed(store, Axes(), 4, texts=texts)
    assert [one.text for one in await store.get(["p-1", "p-2"], ALL)] == [None, "text of p-2"]


async def test_it_can_be_given_up(store: PassageStore, passage: Callable[..., Any]) -> None:
    await filled(store, passage)
    with pytest.raises(VectorError, match="no change of the model is in progress"):
        await store.finish_reembedding()
    await store.begin_reembedding("large", 4)
    await store.begin_reembedding("large", 4)
    with pytest.raises(ModelMismatch):
        await store.begin_reembedding("third", 5)
    await store.abandon_reembedding()
    assert len(await store.search(SMALL, ALL, k=20)) == 10
    await reembed(store, Axes(), 4)


@pytest.mark.parametrize("engine", SHARED, indirect=True)
async def test_another_process_notices_a_changeover(
    make_store: Callable[..., Any], passage: Callable[..., Any]
) -> None:
    here, there = make_store("shared"), make_store("shared")
    await filled(here, passage)
    assert len(await there.search(SMALL, ALL, k=20)) == 10
    await reembed(here, Axes(), 4)
    with pytest.raises(ModelMismatch):
        await there.store(passage("p-11"))
    await here.drop_retired()
    assert len(await there.search({"large": (1.0, 0.0, 0.0, 0.0)}, ALL, k=20)) == 10


def _with(passage: Any, vector: Any) -> Any:
    return replace(passage, model="large", embedding=vector)
