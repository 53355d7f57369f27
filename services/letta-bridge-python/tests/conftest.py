"""A whole bridge in memory: queue, Letta, sessions and fallback are the shipped fakes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from letta_bridge.agents.session_manager import SessionManager
from letta_bridge.consent import ChoiceReplicas, Consent
from letta_bridge.errors import FallbackUnavailable
from letta_bridge.letta import Breaker, BreakerPolicy, LettaServers
from letta_bridge.limits import Limiter
from letta_bridge.settings import BridgeSettings
from letta_bridge.testing.letta import InMemoryLetta
from letta_bridge.testing.queue_state import InMemoryQueueState
from letta_bridge.testing.request_queue import InMemoryQueue
from letta_bridge.testing.shared_choices import InMemorySharedChoices
from letta_bridge.testing.usage_store import InMemoryUsageStore
from letta_bridge.testing.virtual_time import VirtualTimeLoop
from letta_bridge.turn import delivery, reconciliation
from letta_bridge.turn.delivery import DeliveryContext
from letta_bridge.turn.fallback import FallbackAnswer
from letta_bridge.turn.intake import Intake
from letta_bridge.turn.message_processor import MessageProcessor
from letta_bridge.turn.streams.writer import StreamWriter
from shared_utils.config.settings import RedisSettings
from shared_utils.contracts.messages import AnswerPart
from shared_utils.persistence.choices.memory_store import InMemoryChoiceStore
from shared_utils.persistence.sessions.memory_store import InMemorySessionStore
from shared_utils.redis.connection import RedisClient, close, connect


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[RedisClient]:
    """A client of a clean Redis, for tests that look into it themselves."""
    client = connect(RedisSettings(url=redis_url), name="test", timeout=10)
    yield client
    await close(client)


def pytest_asyncio_loop_factories(item: Any) -> Any:
    """See :mod:`letta_bridge.testing.virtual_time`."""
    marker = item.get_closest_marker("virtual_time")
    virtual = marker is not None and marker.kwargs.get("on", True)
    return {"loop": VirtualTimeLoop if virtual else asyncio.new_event_loop}


class FakeFallback:
    """memory-python: answers at once, or not at all."""

    def __init__(self) -> None:
        self.down = False
        self.silent = False
        self.foreign = False
        self.canned = False
        self.handed: dict[str, Any] = {}
        self.answered: list[Any] = []
        self.withdrawn: list[Any] = []
        self.given: dict[str, Any] = {}
        self.parts: list[AnswerPart] = []
        """What arrives of an answer before it counts."""
        self.seconds: list[float] = []
        """How long each user could still wait."""

    async def was_handed_over(self, number: str) -> bool:
        return number in self.handed

    async def withdraw(self, task: Any, number: str) -> FallbackAnswer | None:
        self.withdrawn.append(number)
        return self.given.get(number)

    async def answer(
        self,
        task: Any,
        number: str,
        reason: str,
        *,
        seconds: float,
        cause: str | None = None,
        persona: str | None = None,
        hear: Callable[[AnswerPart], object] | None = None,
    ) -> FallbackAnswer:
        self.handed[number] = task
        self.seconds.append(seconds)
        if hear is not None:
            for part in self.parts:
                hear(part)
                await asyncio.sleep(1)
        if self.silent:
            await asyncio.sleep(seconds)
        if self.down or self.silent:
            raise FallbackUnavailable
        self.answered.append((task.task_id, reason))
        text = f"short: {task.content}"
        if self.canned:
            text = "I cannot answer now."
        if self.foreign:
            return FallbackAnswer(text, None, json.dumps({"text": text}).encode())
        reply = {
            "task_id": task.task_id,
            "user_id": task.user_id,
            "response_text": text,
            "memory_updated": False,
            "source": "memory-python",
            "timestamp": 1.0,
            **({"canned": True} if self.canned else {}),
        }
        return FallbackAnswer(text, json.dumps(reply).encode(), canned=self.canned)


class Rig:
    """Bridges over one queue, and what a producer sees of them."""

    def __init__(self, tmp_path: Path, **changes: Any) -> None:
        self.settings = BridgeSettings.model_validate({"storage": {"data_dir": str(tmp_path)}, **changes})
        self.time = 1_000.0
        self.breaker_failures = 3
        self.shelf = InMemoryQueueState(clock=lambda: self.time)
        self.meter = InMemoryUsageStore(lambda: self.time)
        self.letta = InMemoryLetta()
        self.store = InMemorySessionStore()
        self.fallback = FakeFallback()
        self.servers = LettaServers({"letta": self.letta}, breaker=self.breaker)
        self.sessions = SessionManager(self.store, self.settings.agents)
        self.shared_choices = InMemorySharedChoices(
            self.shelf.choices, self.shelf.clock, self.shelf.order, lambda: len(self.shelf.requests)
        )
        self.choices = InMemoryChoiceStore()
        self.consent = Consent(ChoiceReplicas(self.shared_choices, self.choices, None, self.store))
        self.delivery_context = DeliveryContext(
            self.servers, self.sessions, self.settings.letta, self.settings.fallback
        )

    def breaker(self) -> Breaker:
        return Breaker(BreakerPolicy(failures=self.breaker_failures), clock=lambda: self.time)

    def letta_comes_back(self) -> None:
        """Letta answers again, and its breaker's pause is over."""
        self.letta.down = False
        self.time += 1_000

    def processor(self, queue: InMemoryQueue | None = None, streams: StreamWriter | None = None) -> MessageProcessor:
        limiter = Limiter(self.settings.limits, self.meter, clock=lambda: self.time)
        queue = queue or self.queue()
        return MessageProcessor(
            self.settings,
            self.delivery_context,
            self.fallback,
            queue,
            limiter,
            consent=self.consent,
            streams=streams or self.streams(queue),
        )

    def streams(self, queue: InMemoryQueue) -> StreamWriter:
        return StreamWriter(queue, self.settings.streaming)

    def queue(self, name: str = "bridge") -> InMemoryQueue:
        queue = InMemoryQueue(self.shelf, self.settings.queue, name)
        queue.max_lane = self.settings.limits.max_pending_per_user
        return queue

    def intake(
        self,
        name: str = "bridge",
        accepting: Callable[..., Any] = lambda: True,
        *,
        queue: InMemoryQueue | None = None,
        streams: StreamWriter | None = None,
    ) -> Intake:
        queue = queue or self.queue(name)
        return Intake(queue, self.processor(queue, streams).process, self.settings.queue, accepting)

    def push(self, task_id: str = "t1", user: str = "ada", content: str = "hi", **fields: Any) -> None:
        task = {"task_id": task_id, "user_id": user, "content": content, **fields}
        self.shelf.push(json.dumps(task, ensure_ascii=False).encode())

    async def work_off(self, *, bridges: int = 1) -> None:
        """Run bridges until nothing waits and nothing is in flight."""
        intakes = [self.intake(f"bridge{number}") for number in range(bridges)]
        running = [asyncio.create_task(intake.run()) for intake in intakes]
        while self.shelf.requests or self.shelf.lanes or self.shelf.turns:
            await asyncio.sleep(0)
        for intake in intakes:
            intake.stop()
        self.shelf.arrived.set()
        await asyncio.gather(*running)

    def replies(self) -> list[Any]:
        """Everything published on letta_responses."""
        return [json.loads(body) for channel, body in self.shelf.published if channel == "letta_responses"]

    def kept(self, user: str = "ada", task_id: str = "t1") -> Any:
        return json.loads(self.shelf.kept[user, task_id])

    def outcomes(self) -> dict[str, int]:
        return {name[8:]: count for name, count in self.shelf.counters.items() if name.startswith("settled:")}

    async def said_to_agents(self) -> dict[str, list[str]]:
        """The user messages in every agent's history, in order, by user."""
        return {user: said for (user, _), said in (await self.said_to_agents_by_session()).items()}

    async def said_to_agents_by_session(self) -> dict[Any, Any]:
        """The same, by user and persona."""
        histories = {}
        for owner, session in self.store.sessions.items():
            history = await self.letta.history(session.agent_id) if session.agent_id else []
            histories[owner] = [entry["content"] for entry in history if entry["message_type"] == "user_message"]
        return histories


@pytest.fixture
def make_rig(tmp_path: Path) -> Callable[..., Any]:
    return lambda **changes: Rig(tmp_path, **changes)


@pytest.fixture
def rig(make_rig: Callable[..., Any]) -> Any:
    return make_rig()


@pytest.fixture(autouse=True)
def quick_waits(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Back-off and polls cost no time in unit tests; marked tests keep the real ones."""
    if any(request.node.get_closest_marker(name) for name in ("integration", "letta", "acceptance")):
        return
    monkeypatch.setattr(reconciliation, "_LOOKUP_PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(reconciliation, "_POLL_MIN_SECONDS", 0.0)
    monkeypatch.setattr(reconciliation, "_POLL_MAX_SECONDS", 0.0)
    monkeypatch.setattr(delivery, "_BREAKER_POLL_SECONDS", 0.0)
    monkeypatch.setattr(delivery, "_wait", lambda: lambda _state: 0.0)
