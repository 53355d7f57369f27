"""Which model's vectors the memories have, and who follows when that changes."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from shared_utils.llm.embeddings import EmbeddingSettings, HttpEmbedder
from shared_utils.persistence.vectors import InMemoryPassageStore, Passage, reembed
from shared_utils.persistence.vectors.memories import embedder_of, user_scope, user_source

OLD = {"model": "old", "base_url": "http://model/v1"}


@pytest.fixture
def asked() -> list[Any]:
    return []


@pytest.fixture
def embedder(asked: list[Any]) -> Callable[..., Any]:
    """Makes embedders of one server, whose models have vectors of 3 dimensions or as many as asked for."""

    def handle(request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        asked.append(body)
        length = body.get("dimensions", 3)
        items = [{"index": index, "embedding": [1.0] * length} for index, _ in enumerate(body["input"])]
        return httpx.Response(200, json={"data": items})

    client = httpx.AsyncClient(transport=httpx.MockTransport(handle))
    return lambda **settings: HttpEmbedder(client, EmbeddingSettings.model_validate(OLD | settings))


async def put(store: InMemoryPassageStore, now: Callable[..., Any], passage_id: str) -> None:
    model = await now()
    [vector] = await model.embed(["hello"])
    await store.store(
        Passage(passage_id=passage_id, model=model.model, embedding=vector, text="hello", source_id=user_source("怡"))
    )


async def found(store: InMemoryPassageStore, now: Callable[..., Any]) -> set[str]:
    model = await now()
    [vector] = await model.embed(["hello"])
    matches = await store.search({model.model: vector}, user_scope("怡"))
    return {match.passage.passage_id for match in matches}


async def test_the_configured_model_counts_where_there_are_no_vectors(embedder: Callable[..., Any]) -> None:
    store = InMemoryPassageStore()
    assert (await embedder_of(store, embedder(model="new"))()).model == "new"


async def test_every_user_follows_the_changeover_restarted_or_not(embedder: Callable[..., Any]) -> None:
    store = InMemoryPassageStore()
    before, restarted = embedder_of(store, embedder()), embedder_of(store, embedder(model="new"))
    await put(store, before, "first")
    await put(store, restarted, "second")
    for now in (before, restarted):
        assert (await now()).model == "old"
        assert await found(store, now) == {"first", "second"}
    await reembed(store, embedder(model="new"), 3)
    for now in (before, restarted):
        assert (await now()).model == "new"
        assert await found(store, now) == {"first", "second"}
    await put(store, before, "third")
    assert await found(store, restarted) == {"first", "second", "third"}


async def test_a_model_that_chooses_its_dimensions_is_asked_for_those_in_store(
    embedder: Callable[..., Any], asked: list[Any]
) -> None:
    store = InMemoryPassageStore()
    await put(store, embedder_of(store, embedder(dimensions=5)), "first")
    restarted = embedder_of(store, embedder(model="new", dimensions=7))
    assert await found(store, restarted) == {"first"}
    assert (asked[-1]["model"], asked[-1]["dimensions"]) == ("old", 5)


async def test_a_configured_model_that_is_not_in_use_is_reported_once(
    embedder: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    store = InMemoryPassageStore()
    await put(store, embedder_of(store, embedder()), "first")
    restarted = embedder_of(store, embedder(model="new"))
    await restarted()
    await restarted()
    told = [line for line in capsys.readouterr().out.splitlines() if "other_embedding_model" in line]
    assert len(told) == 1
