"""Earlier conversations are recalled for an answer: the user's own alone, bounded, and never waited for."""

from __future__ import annotations

import asyncio
import json
import random
from typing import Any

import httpx
import pytest

from memory_service import recall as recall_module
from memory_service import service as service_module
from memory_service.composer import Composer
from memory_service.recall import StoredRecall
from memory_service.settings import AnswerSettings, RecallSettings, ServiceSettings
from scripted_model.embeddings import embedding
from shared_utils.contracts.messages import Task
from shared_utils.llm.embeddings import EmbeddingsUnavailable
from shared_utils.persistence.vectors import InMemoryPassageStore, Passage, VectorSettings
from shared_utils.persistence.vectors.memories import open_memories, user_source


class Embedder:
    model = "model-a"

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.release: asyncio.Event | None = None
        self.asked = 0
        self.most_texts = 100

    async def now(self) -> Embedder:
        return self

    async def embed(self, texts: Any) -> list[list[float]]:
        self.asked += 1
        if self.release is not None:
            await self.release.wait()
        if self.error is not None:
            raise self.error
        if len(texts) > self.most_texts:
            raise EmbeddingsUnavailable("too many")
        return [embedding(text, 256) for text in texts]


class Library:
    """A store with an embedder, and a recall of them."""

    def __init__(self) -> None:
        self.store = InMemoryPassageStore()
        self.embedder = Embedder()

    async def put(self, user: str, text: str, **about: Any) -> None:
        await self.store.store(
            Passage(
                passage_id=f"p{random.getrandbits(60)}",
                model=self.embedder.model,
                embedding=embedding(text, 256),
                text=text,
                source_id=user_source(user),
                metadata={"kind": "turn", **about},
            )
        )

    def recall(self, **settings: Any) -> StoredRecall:
        return StoredRecall(self.store, self.embedder.now, RecallSettings(**{"timeout_seconds": 5.0, **settings}))


@pytest.fixture
def library() -> Library:
    return Library()


async def test_recall_never_returns_passages_of_another_user(library: Library) -> None:
    users = [f"user {number}" for number in range(20)]
    for user in users:
        for number in range(5):
            await library.put(user, f"user: the canary number {number} of mine is {user}-{number}")
    recall = library.recall(memories=50, characters=100_000, min_score=-1)
    for user in users:
        found = await recall.about(user, "what is the canary number of mine", shown=())
        assert len(found) == 5
        assert all(f"is {user}-" in text for text in found)
    assert await recall.about("user", "what is the canary number of mine", shown=()) == []


async def test_recalled_passages_are_near_bounded_dated_and_chronological(library: Library) -> None:
    await library.put("ada", "user: my cat is called Mochi", at="2026-09-30T10:00:00+00:00")
    await library.put("ada", "user: the cat is ill", at="2026-08-30T10:00:00+00:00", task_id="shown already")
    await library.put("ada", "user: is the cat called Tama?", at="2026-07-30T10:00:00+00:00")
    await library.put("ada", "user: 今天天气很好", at="2026-06-30T10:00:00+00:00")
    ask = "what is my cat called?"
    recall = library.recall(memories=2)
    assert await recall.about("ada", ask, shown={"shown already"}) == [
        "[2026-07-30]\nuser: is the cat called Tama?",
        "[2026-09-30]\nuser: my cat is called Mochi",
    ]
    assert len(await library.recall(memories=1).about("ada", ask, shown=())) == 1
    [cut] = await library.recall(characters=100, min_score=0.3, memories=1).about("ada", ask, shown=())
    await library.put("ada", "user: " + "what is my cat called? " * 20, at="2026-10-30T10:00:00+00:00")
    [cut] = await library.recall(characters=100).about("ada", ask, shown=())
    assert len(cut) == len("[2026-10-30]\n") + 100
    assert await library.recall(min_score=0.99).about("ada", "something else", shown=()) == []


async def learnt(recall: StoredRecall) -> None:
    """Until the model has seen the examples of small talk."""
    await recall.about("nobody", "hi", shown=())
    assert recall._learning is not None
    await recall._learning


async def test_nothing_is_recalled_for_small_talk(library: Library) -> None:
    await library.put("ada", "user: thanks, that's nice")
    await library.put("ada", "user: my cat is called Mochi")
    recall = library.recall(score_margin=2.0)
    assert len(await recall.about("ada", "Thanks!", shown=())) == 2  # no answer waits for the examples
    await learnt(recall)
    for said in ("Thanks!", "Okay, thanks a lot", "谢谢啦!", "好,拜拜"):
        assert await recall.about("ada", said, shown=()) == [], said
    for asked in ("What is my cat called?", "我最好的朋友叫什么?", "thanks a lot " * 10):
        assert await recall.about("ada", asked, shown=()) != [], asked


async def test_the_examples_are_seen_once_by_each_model_and_again_after_a_failure(library: Library) -> None:
    recall = library.recall()
    await learnt(recall)
    asked = library.embedder.asked
    await recall.about("ada", "Thanks!", shown=())
    assert library.embedder.asked == asked + 1
    assert recall._small_talk is not None
    library.embedder.model, library.embedder.most_texts = "model-b", 1
    await learnt(recall)
    assert recall._small_talk.model == "model-a"
    library.embedder.most_texts = 100
    await learnt(recall)
    assert [recall._small_talk.model] == ["model-b"]


async def test_memories_far_behind_the_nearest_are_left_out(library: Library) -> None:
    await library.put("ada", "user: my cat is called Mochi")
    await library.put("ada", "user: 今天天气很好")
    ask = "my cat is called Mochi, remember?"
    assert await library.recall().about("ada", ask, shown=()) == ["user: my cat is called Mochi"]
    assert len(await library.recall(score_margin=2.0).about("ada", ask, shown=())) == 2


async def test_a_slow_model_is_not_waited_for_and_its_answer_still_counts(library: Library) -> None:
    await library.put("ada", "user: my cat is called Mochi")
    library.embedder.release = asyncio.Event()
    recall = library.recall(timeout_seconds=0.02)
    assert await recall.about("ada", "my cat", shown=()) == []
    assert not recall.ok
    assert recall.state.startswith("failed once: took longer than 0.02 s")
    library.embedder.release.set()
    assert await library.recall().about("ada", "my cat", shown=()) == ["user: my cat is called Mochi"]
    await recall.close()


async def test_recall_pauses_after_repeated_failures(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    await library.put("ada", "user: my cat is called Mochi")
    library.embedder.error = EmbeddingsUnavailable("away")
    recall = library.recall()
    for _ in range(5):
        assert await recall.about("ada", "my cat", shown=()) == []
    assert library.embedder.asked == 3
    assert recall.state == "failed 3 times in a row: away"
    library.embedder.error = None
    monkeypatch.setattr(recall, "_resting_until", 0.0)
    assert len(await recall.about("ada", "my cat", shown=())) == 1
    assert recall.ok


async def test_too_many_at_once_do_without(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recall_module, "_MOST_AT_ONCE", 2)
    library.embedder.release = asyncio.Event()
    recall = library.recall(timeout_seconds=0.02)
    await asyncio.gather(*(recall.about("ada", "my cat", shown=()) for _ in range(5)))
    assert library.embedder.asked == 2
    await recall.close()


class InMemoryQueueState:
    def __init__(self, *newest_first: Any) -> None:
        self.records = list(newest_first)

    async def newest(self, user_id: str, limit: int) -> list[Any]:
        return self.records[:limit]


@pytest.mark.parametrize("long_term", [True, False])
async def test_the_model_is_shown_memories_before_the_conversation(
    library: Library, model: Any, record: Any, long_term: bool
) -> None:
    await library.put("ann", "user: my cat is called Mochi", at="2026-09-30T10:00:00+00:00", task_id="t1")
    await library.put("ann", "user: my cat sleeps", at="2026-10-30T10:00:00+00:00", task_id="t2")
    shelf = InMemoryQueueState(record("my cat sleeps", metadata={"task_id": "t2"}))
    composer = Composer(shelf, AnswerSettings(), window=20, model=model, recall=library.recall())
    deadline = asyncio.get_running_loop().time() + 5
    task = Task(user_id="ann", content="what is my cat called?")
    assert (await composer.compose(task, "m9", deadline=deadline, long_term=long_term)).text == "model says"
    shown = [(message["role"], message["content"]) for message in model.asked[0][1:]]
    if long_term:
        assert shown.pop(0)[0] == "system"
        role, recalled = shown.pop(0)
        assert (role, json.loads(recalled)) == ("user", {"records": ["[2026-09-30]\nuser: my cat is called Mochi"]})
    assert shown == [("user", "my cat sleeps"), ("user", "what is my cat called?")]


async def test_recall_ignores_passages_of_another_persona(library: Library) -> None:
    for persona in ("doctor", "default", None):
        await library.put("ada", f"user: my cat, said to {persona}", **({"persona": persona} if persona else {}))
    found = await library.recall(min_score=-1).about("ada", "my cat", shown=(), persona="doctor")
    assert sorted(found) == ["user: my cat, said to None", "user: my cat, said to doctor"]
    assert len(await library.recall(min_score=-1).about("ada", "my cat", shown=())) == 3


@pytest.mark.parametrize(
    ("vectors", "database", "answer", "recalls"),
    [
        ({"enabled": True}, {"db_url": "postgresql://nobody@127.0.0.1:1/away"}, {"model": "m"}, True),
        ({"enabled": True}, {"db_url": "postgresql://nobody@127.0.0.1:1/away"}, {}, False),
        ({"enabled": True}, {}, {"model": "m"}, False),
        ({}, {"db_url": "postgresql://nobody@127.0.0.1:1/away"}, {"model": "m"}, False),
    ],
)
async def test_it_is_on_where_all_it_needs_is_configured(
    vectors: Any, database: Any, answer: Any, recalls: bool
) -> None:
    settings = ServiceSettings.model_validate(
        {
            "vectors": vectors,
            "database": database,
            "embeddings": {"base_url": "http://127.0.0.1:1/v1"},
            "memory": {"answer": answer},
        }
    )
    async with httpx.AsyncClient() as web, service_module._recall(settings, web) as recall:
        assert (recall is not None) == recalls
        if recall is not None:
            assert await recall.about("ada", "is anybody there?", shown=()) == []
            assert not recall.ok


@pytest.mark.integration
@pytest.mark.parametrize("engine", ["postgresql"], indirect=True)
async def test_a_database_that_opens_slowly_is_open_for_a_later_answer(
    database_config: Any, library: Library, eventually: Any
) -> None:
    """The first search takes longer than an answer may wait, and is not given up half-way."""
    writer = open_memories(VectorSettings(), database_config)
    library.store = writer  # type: ignore[assignment]  # the real one
    await library.put("ada", "user: my cat is called Mochi")
    await writer.close()
    library.store = reader = open_memories(VectorSettings(), database_config)  # type: ignore[assignment]
    recall = library.recall(timeout_seconds=0.001)

    async def recalled() -> list[str]:
        recall._resting_until = 0.0
        recall._settings = RecallSettings(timeout_seconds=0.2)
        return await recall.about("ada", "what is my cat called", shown=())

    assert await recall.about("ada", "what is my cat called", shown=()) == []
    assert await eventually(recalled) == ["user: my cat is called Mochi"]
    await recall.close()
    await reader.close()
