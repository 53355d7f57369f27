"""LangChain's own tests for vector stores, and what they leave out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest
from langchain_core.documents import Document
from langchain_tests.integration_tests.vectorstores import EMBEDDING_SIZE, VectorStoreIntegrationTests

from shared_utils.persistence.database.database import Database
from shared_utils.persistence.errors import ValueRefused
from shared_utils.persistence.langchain import PassageVectorStore
from shared_utils.persistence.vectors import Scope

pytestmark = pytest.mark.integration

MINE = Scope.agent("mine")


@pytest.fixture(scope="session", params=["postgresql", "postgresql-plain"])
def engine(request: pytest.FixtureRequest) -> Any:
    """With a vector type and without."""
    return request.param


class TestStandard(VectorStoreIntegrationTests):
    """The public suite, synchronous and asynchronous."""

    @pytest.fixture
    def vectorstore(self, make_store: Callable[..., Any], vector_config: Any) -> Iterator[PassageVectorStore]:
        made = make_store(database=Database(vector_config))
        store = PassageVectorStore(made, self.get_embeddings(), model="fake", scope=MINE)
        yield store
        store.close()


@pytest.fixture
def embedding() -> Any:
    return VectorStoreIntegrationTests.get_embeddings()


@pytest.mark.parametrize("engine", ["memory"], indirect=True)
async def test_it_stays_within_its_scope(make_store: Callable[..., Any], embedding: Any) -> None:
    store = make_store()
    mine = PassageVectorStore(store, embedding, model="fake", scope=MINE)
    other = await PassageVectorStore.afrom_texts(
        ["theirs"], embedding, ids=["t"], store=store, model="fake", scope=Scope.agent("other")
    )
    await mine.aadd_texts(["ours", "also ours"], [{"n": 1}, {"n": 2}], ids=["a", "b"])
    assert {found.id for found in await mine.asimilarity_search("theirs", k=10)} == {"a", "b"}
    assert await mine.aget_by_ids(["t"]) == []
    await mine.adelete(["t"])
    await mine.adelete(filter={"n": {"$gt": 1}})
    assert [found.id for found in await other.asimilarity_search("theirs")] == ["t"]
    assert await mine.asimilarity_search("x", filter={"n": 1}) == [
        Document(id="a", page_content="ours", metadata={"n": 1})
    ]
    with pytest.raises(ValueError, match="ids or a filter"):
        await mine.adelete()


@pytest.mark.parametrize("engine", ["memory"], indirect=True)
async def test_the_synchronous_methods_work_from_another_thread(make_store: Callable[..., Any], embedding: Any) -> None:
    store = PassageVectorStore(make_store(), embedding, model="fake", scope=MINE)
    await asyncio.to_thread(store.add_texts, ["foo"], ids=["f"])
    [(found, score)] = await asyncio.to_thread(store.similarity_search_with_relevance_scores, "foo")
    assert found.id == "f"
    assert score == pytest.approx(1)
    with pytest.raises(RuntimeError, match="another thread"):
        store.similarity_search("foo")


@pytest.mark.parametrize("engine", ["memory"], indirect=True)
async def test_marginal_relevance_prefers_different_passages(make_store: Callable[..., Any], embedding: Any) -> None:
    store = PassageVectorStore(make_store(), embedding, model="fake", scope=MINE)
    await store.aadd_texts(["same", "same", "other"], [{"n": n} for n in range(3)], ids=["1", "2", "3"])
    found = await store.amax_marginal_relevance_search("same", k=2, lambda_mult=0.3)
    assert [one.id for one in found] == ["1", "3"]
    vector = [1.0] * EMBEDDING_SIZE
    assert len(await store.amax_marginal_relevance_search_by_vector(vector, k=9)) == 3
    assert len(await store.asimilarity_search_by_vector(vector, k=2)) == 2


async def test_texts_without_metadata_are_found_like_all_others(make_store: Callable[..., Any], embedding: Any) -> None:
    store = PassageVectorStore(make_store(), embedding, model="m", scope=Scope.agent("ada"))
    assert await store.aadd_texts(["one", "two"], [{"k": 1}, cast("Any", None)], ids=["1", "2"]) == ["1", "2"]
    assert {found.id: found.metadata for found in await store.asimilarity_search("one")} == {"1": {"k": 1}, "2": {}}
    assert [found.id for found in await store.asimilarity_search("two", filter={"k": 1})] == ["1"]
    assert [found.metadata for found in await store.aget_by_ids(["2"])] == [{}]
    assert await store.adelete(filter={"k": 7})


@pytest.mark.parametrize(
    ("texts", "given"),
    [
        (["one"], {"ids": [1]}),
        (["one"], {"ids": [0]}),
        ([None], {}),
        ([7], {}),
        (["one"], {"metadatas": [["a"]]}),
        (["one"], {"metadatas": ["text"]}),
    ],
)
async def test_add_texts_refuses_unreadable_values(
    make_store: Callable[..., Any], embedding: Any, texts: Any, given: Any
) -> None:
    store = PassageVectorStore(make_store(), embedding, model="m", scope=Scope.agent("ada"))
    with pytest.raises((ValueError, ValueRefused)):
        await store.aadd_texts(texts, **given)
    assert await store.asimilarity_search("one") == []
