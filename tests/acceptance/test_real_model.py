"""The stack with a small real language model and real embeddings: ``./run test --real-model``.

So small a model (Qwen2.5-Coder-0.5B) answers in both languages and calls tools, but seldom stores the right fact. So
these tests expect what must hold whatever a model says: a reply that is text, order, nothing doubled. What it showed is
in tools/local-stack/README.md.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from local_stack.fixtures import BridgeFactory, MemoryFactory
from local_stack.letta import Letta
from local_stack.postgres import Postgres
from local_stack.real_model.servers import EMBEDDING, RealModel
from local_stack.valkey import Valkey
from memory_service.recall import StoredRecall
from memory_service.settings import RecallSettings
from shared_utils.llm.embeddings import EmbeddingSettings, HttpEmbedder
from shared_utils.llm.model_text import text_for_user
from shared_utils.persistence.vectors import InMemoryPassageStore, Passage
from shared_utils.persistence.vectors.memories import user_source

pytestmark = [pytest.mark.real_model, pytest.mark.acceptance, pytest.mark.letta, pytest.mark.xdist_group("real-model")]

AGENTS = {"CONTEXT_WINDOW": "16000", "MAX_TOKENS": "220", "TEMPERATURE": "0.3"}
PATIENCE = {"LETTA_TIMEOUT_SECONDS": "300", "REPLY_DEADLINE_SECONDS": "420", "FALLBACK_TIMEOUT_SECONDS": "120"}
PATIENCE |= {f"LETTA_BRIDGE_AGENTS_{name}": value for name, value in AGENTS.items()}
"""For two slow cores, on which a user's first turn takes a minute."""
SENTENCES = json.loads((Path(__file__).parent / "recall_sentences.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def letta(
    real_model: RealModel, postgres_server: Postgres, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Letta]:
    """A Letta whose agents speak through the real model, in place of the one that the other tests share."""
    locks = Valkey(tmp_path_factory.mktemp("real-locks"), durable=False)
    locks.start()
    locks.wait_ready()
    server = Letta(
        tmp_path_factory.mktemp("real-letta"),
        database_url=f"{postgres_server.url('letta_real')}?sslmode=disable",
        locks=(locks.host, locks.port),
        model=real_model.access,
    )
    try:
        server.start()
        server.wait_ready()
        yield server
    finally:
        server.stop()
        locks.stop()


@pytest.fixture
def talk(
    observe: Any,
    users: Callable[..., Any],
    redis_url: str,
    letta: Letta,
    bridge_factory: BridgeFactory,
    memory_factory: MemoryFactory,
    real_model: RealModel,
) -> Callable[[Sequence[str]], list[Any]]:
    """``talk(messages)``: pushes all of them at once, as one user, and gives the replies in order."""
    bridge_factory(redis_url, letta, **PATIENCE)
    memory_factory(redis_url, real_model.access, LETTA_BRIDGE_MEMORY_ANSWER_TIMEOUT_SECONDS="100")
    [person] = users(1)

    def said(messages: Sequence[str]) -> list[Any]:
        for number, content in enumerate(messages):
            observe.push(person, f"t{number}", content)
        replies = observe.wait_for(len(messages), timeout=420.0 * len(messages))
        assert observe.said(person)[person] == list(messages), "each once, and in order"
        return list(replies)

    return said


def calls(model: RealModel) -> list[dict[str, Any]]:
    """The model's last calls and what it answered to them."""
    return list(httpx.get(f"{model.base_url}/calls", timeout=10).json())


def check(replies: Sequence[Any]) -> None:
    """What holds for every reply, whatever the model said."""
    assert [reply["task_id"] for reply in replies] == [f"t{number}" for number in range(len(replies))]
    for reply in replies:
        text = reply["response_text"]
        assert text.strip()
        assert text_for_user(text) == text, "no thoughts, no tool calls"
        assert not text.startswith(('{"name"', '{"status"')), "not even a part of a tool call, or of a result"
        assert '"arguments"' not in text
        if reply["source"] == "letta":
            assert reply["usage"]["total_tokens"] > 0


def show(replies: Sequence[Any], record_property: Callable[[str, object], None]) -> None:
    """Put what was said into the report."""
    lines = [f"{reply['source']:13} {reply['response_text'][:100]!r}" for reply in replies]
    record_property("report", "\n".join(lines))


def test_a_conversation_in_two_languages(
    talk: Callable[..., Any], real_model: RealModel, record_property: Callable[[str, object], None]
) -> None:
    before = len(calls(real_model))
    replies = talk(
        [
            "Hello! My name is Ada, and I like green tea.",
            "Please remember with your tools that my cat is called Mochi.",
            "你好!请用中文回答:一年有几个月?",
            "Thanks!",
        ]
    )
    show(replies, record_property)
    check(replies)
    assert sum(reply["source"] == "letta" for reply in replies) >= 2
    limits = {(call["max_completion_tokens"], call["temperature"]) for call in calls(real_model)[before:]}
    assert (220, 0.3) in limits, "the agents' settings reached the model"
    assert (16_384, 1.0) not in limits


def test_what_a_model_should_not_write_reaches_no_user(
    talk: Callable[..., Any], real_model: RealModel, record_property: Callable[[str, object], None]
) -> None:
    replies = talk(
        [
            "Repeat this line exactly: <think>the secret is 42</think> Good morning!",
            'Answer with this JSON only: {"name": "no_such_tool", "arguments": {"city": "Paris"}}',
            'Answer with this line only: <tool_call>{"name": "memory_insert", "arguments": {"label": ',
            "Write a fairy tale of a thousand words about a dragon.",
        ]
    )
    show(replies, record_property)
    check(replies)
    last, story = calls(real_model)[-1], replies[-1]
    cut = last["answer"]["choices"] and last["answer"]["choices"][0]["finish_reason"] == "length"
    assert bool(story.get("truncated")) is bool(cut)


@pytest.fixture
async def embedder(real_model: RealModel) -> AsyncIterator[HttpEmbedder]:
    async with httpx.AsyncClient(timeout=60) as client:
        yield HttpEmbedder(client, EmbeddingSettings(model=EMBEDDING, base_url=real_model.access.url))


@pytest.mark.parametrize(("told", "asked"), [("en", "en"), ("zh", "zh"), ("zh", "en"), ("en", "zh")])
async def test_recall_with_real_embeddings(embedder: HttpEmbedder, told: str, asked: str) -> None:
    """With the default settings; only the time limit is one for a slow machine."""
    store, replies = InMemoryPassageStore(), SENTENCES["replies"][told]
    texts = [
        f"user: {fact[told]}\nassistant: {replies[number % len(replies)]}"
        for number, fact in enumerate(SENTENCES["facts"])
    ]
    for number, (text, vector) in enumerate(zip(texts, await embedder.embed(texts), strict=True)):
        await store.store(
            Passage(passage_id=f"p{number}", model=EMBEDDING, embedding=vector, text=text, source_id=user_source("ada"))
        )

    async def same() -> HttpEmbedder:
        return embedder

    recall = StoredRecall(store, same, RecallSettings(timeout_seconds=60))
    found = [await recall.about("ada", question[asked], shown=()) for question in SENTENCES["questions"]]
    hits = [texts[number] in memories for number, memories in enumerate(found)]
    assert sum(hits) / len(hits) >= 0.85
    assert max(map(len, found)) == 6
    assert recall._learning is not None
    await recall._learning
    for said in SENTENCES["small_talk"][asked]:
        assert await recall.about("ada", said, shown=()) == [], said
    await recall.close()
