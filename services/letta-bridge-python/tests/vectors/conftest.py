"""Turns, an embedder that counts, and what keeps them in step, all in memory."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from letta_bridge.journal import conversation_id
from letta_bridge.letta import AgentSpec
from letta_bridge.testing.letta import InMemoryLetta
from letta_bridge.vectors.agent_sync import AgentSyncer
from letta_bridge.vectors.embedding import Embedding
from letta_bridge.vectors.journal_turns import InMemoryJournalTurns, JournalTurn
from letta_bridge.vectors.turn_sync import TurnSyncer
from scripted_model.embeddings import embedding
from shared_utils.llm.embeddings import EmbeddingsRefused, EmbeddingsUnavailable
from shared_utils.persistence.vectors import InMemoryPassageStore, Scope


class CountingEmbedder:
    """Deterministic; away, refusing one text, or refusing all, as told."""

    model = "model-a"

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.away = False
        self.refuses_all = False
        self.refused = "nothing has this in it"

    async def now(self) -> Any:
        return self

    async def embed(self, texts: list[str]) -> list[list[float]]:
        self.asked.append(list(texts))
        if self.away:
            raise EmbeddingsUnavailable
        if self.refuses_all or any(self.refused in text for text in texts):
            raise EmbeddingsRefused
        return [embedding(text, 64) for text in texts]

    @property
    def texts(self) -> list[str]:
        return [text for batch in self.asked for text in batch]


class Workshop:
    """What the tests look at."""

    def __init__(self) -> None:
        self.store = InMemoryPassageStore()
        self.embedder = CountingEmbedder()
        self.turns = InMemoryJournalTurns()
        self.letta = InMemoryLetta()
        self.removed: list[Any] = []
        self.embedding = Embedding(self.store, self.embedder.now, rate=1e9, batch=16, longest=200)
        self.of_turns = TurnSyncer(
            self.turns,
            self.embedding,
            lambda: {"temporary", "user_switch", "audio"},
            self.removed.append,
            canned=lambda: {"I cannot answer now."},
        )
        self.of_agents = AgentSyncer(lambda: self.letta, self.embedding, self.removed.append)

    def said(
        self,
        user: Any,
        question: str,
        *,
        answer: str = "ok",
        persona: Any = "default",
        conversation: Any = None,
        **about: bool | str,
    ) -> JournalTurn:
        """A turn of the journal, a second after the one before."""
        turn = JournalTurn(
            message_id=str(uuid.uuid4()),
            conversation_id=conversation or conversation_id(user, persona),
            user_id=user,
            persona=persona,
            question=question,
            answer=answer,
            about={"task_id": f"task {question}", "source": "letta", **about},
            at=datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=len(self.turns.turns)),
        )
        self.turns.turns.append(turn)
        return turn

    async def agent(self, user: str, *tags: str) -> str:
        spec = AgentSpec("n", ("bridge", f"user:{user}", *tags), "m", None, "letta_v1_agent", (), ())
        return (await self.letta.create_agent(spec)).agent_id

    async def texts(self, scope: Scope | None = None) -> list[Any]:
        page = await self.store.page(scope or Scope.everything(), limit=1000)
        return sorted(passage.text for passage in page.passages)


@pytest.fixture
def workshop() -> Workshop:
    return Workshop()
