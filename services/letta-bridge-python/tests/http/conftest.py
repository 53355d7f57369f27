"""The API over sessions in memory, asked without a socket."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import httpx
import pytest

from letta_bridge.agents.user_settings import SessionChoices, UserSettings
from letta_bridge.consent import ChoiceReplicas, Consent
from letta_bridge.http.api import routers
from letta_bridge.http.app import create_app
from letta_bridge.settings import HttpSettings
from letta_bridge.testing.shared_choices import InMemorySharedChoices
from shared_utils.observability.health import Check
from shared_utils.persistence.choices.memory_store import InMemoryChoiceStore
from shared_utils.persistence.sessions.memory_store import InMemorySessionStore
from shared_utils.persistence.sessions.port import Restoration, Session

TOKEN = "a-long-token-时"


class FakeSessions:
    """What the API sees of a session manager."""

    def __init__(self) -> None:
        self.store = InMemorySessionStore()
        self.restored: Any = None
        self.forgotten: list[Any] = []
        self.failed: dict[str, Any] = {}
        self.choices = InMemoryChoiceStore()
        self.shared_choices = InMemorySharedChoices({}, time.time)
        copies = ChoiceReplicas(self.shared_choices, self.choices, None, self.store)
        self.settings = UserSettings(Consent(copies), SessionChoices(self.store, ["default", "teacher"], self.forget))

    async def restore(self) -> Any:
        done = await self.store.restore(limit=1000)
        self.restored = Restoration(done.sessions, self.failed)
        return self.restored

    def forget(self, user_id: str, persona: str) -> None:
        self.forgotten.append((user_id, persona))

    async def add(self, user_id: str, persona: str = "default", **changes: Any) -> Session:
        """A session with an agent."""
        session = await self.store.reserve(user_id, persona)
        return await self.store.save(replace(session, agent_id=f"agent-{user_id}", **changes))


class Healthy:
    """A bridge of which only health and metrics are asked."""

    def own_checks(self) -> list[Any]:
        return []

    async def checks(self) -> list[Check]:
        return [Check("redis", ok=True, detail="answers", required=True)]

    async def summary(self) -> dict[str, Any]:
        return {}

    async def text(self) -> bytes:
        return b"up 1\n"


class Current:
    """Stands for an object that each test makes anew, so that all tests share what is built around it."""

    def __init__(self, find: Callable[[], Any]) -> None:
        self._find = find

    def __getattr__(self, name: str) -> Any:
        return getattr(self._find(), name)


class Applications:
    """FastAPI takes a tenth of a second to build an application: one of each settings serves all tests."""

    def __init__(self) -> None:
        self.sessions: Any = None
        self._made: dict[tuple[Any, ...], Any] = {}

    def of(self, **settings: Any) -> Any:
        key = tuple(sorted(settings.items()))
        if key not in self._made:
            sessions: Any = Current(lambda: self.sessions)
            choices: Any = Current(lambda: self.sessions.settings)
            api = routers(sessions, choices, grace=timedelta(days=30))
            self._made[key] = create_app(
                Healthy(), Healthy(), HttpSettings.model_validate({"api_token": TOKEN} | settings), api
            )
        app = self._made[key]
        app.middleware_stack = None  # built anew by the next request: the guard counts attempts
        return app


@pytest.fixture
def sessions() -> FakeSessions:
    return FakeSessions()


@pytest.fixture(scope="session")
def applications() -> Applications:
    return Applications()


@pytest.fixture
def app_for(applications: Any, sessions: Any) -> Iterator[Callable[..., Any]]:
    """The application with HTTP settings."""
    applications.sessions = sessions
    yield applications.of
    applications.sessions = None


@pytest.fixture
def ask_as(app_for: Callable[..., Any]) -> Callable[..., Any]:
    """``await ask_as(headers)(method, path, **how)``: the answer of an application of its own."""

    def asker(headers: dict[str, Any], **settings: Any) -> Callable[..., Any]:
        transport = httpx.ASGITransport(app_for(**settings))

        async def ask(method: str, path: str, base: str = "http://127.0.0.1", **how: Any) -> httpx.Response:
            async with httpx.AsyncClient(transport=transport, base_url=base, headers=headers) as client:
                return await client.request(method, path, **how)

        return ask

    return asker


@pytest.fixture
def ask(ask_as: Callable[..., Any]) -> Any:
    """The same with the right token."""
    return ask_as({"Authorization": f"Bearer {TOKEN}".encode()})
