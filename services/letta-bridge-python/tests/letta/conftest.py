from __future__ import annotations

import os
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from letta_bridge.letta import AgentSpec, Block, LettaPort, TurnMessage
from letta_bridge.letta.agent_store import AgentDescription, AgentStore, StoredMessage, StoredPassage
from letta_bridge.letta.agent_store_client import LettaAgentStore
from letta_bridge.letta.letta_client import LettaClient
from letta_bridge.testing.agent_store import InMemoryAgentStore
from letta_bridge.testing.letta import InMemoryLetta
from local_stack.letta_double.server import Server
from local_stack.letta_double.store import LettaStore
from local_stack.letta_double.turns import Pace
from local_stack.serving import serving


@dataclass(frozen=True)
class RealLetta:
    """A running Letta server and the handle of a model it offers."""

    url: str
    model: str
    api_key: str | None = None


@pytest.fixture(scope="session")
def letta_url(request: pytest.FixtureRequest) -> RealLetta:
    """The real server of the contract suite: the one LETTA_TEST_URL names, else one of our own."""
    url = os.environ.get("LETTA_TEST_URL")
    if url:
        model = os.environ.get("LETTA_TEST_MODEL", "openai-proxy/gpt-4o-mini")
        return RealLetta(url, model, os.environ.get("LETTA_TEST_API_KEY"))
    letta = request.getfixturevalue("letta")
    return RealLetta(letta.url, letta.model, letta.api_key)


Double = Callable[[], Awaitable[RealLetta]]


@pytest.fixture
async def double() -> AsyncIterator[Double]:
    """Starts the HTTP double of Letta, whose steps take longer than the 0.02 seconds a test may wait."""
    async with AsyncExitStack() as held:

        async def start() -> RealLetta:
            app = Server(LettaStore(), Pace(latency=0.05)).app()
            return RealLetta(await held.enter_async_context(serving(app)), "openai/gpt-4o-mini")

        yield start


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@pytest.fixture
async def stub() -> AsyncIterator[Callable[[Handler], Awaitable[str]]]:
    """Starts a server that answers every request through one handler; gives its base URL."""
    servers: list[TestServer] = []

    async def start(handler: Handler) -> str:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", handler)
        server = TestServer(app, host="127.0.0.1")
        await server.start_server(shutdown_timeout=0.1)
        servers.append(server)
        return str(server.make_url("")).rstrip("/")

    yield start
    for server in servers:
        await server.close()


@pytest.fixture
async def client_of() -> AsyncIterator[Callable[..., LettaClient]]:
    """Builds clients and closes them."""
    clients: list[LettaClient] = []

    def build(url: str, **options: Any) -> LettaClient:
        client = LettaClient(url, **options)
        clients.append(client)
        return client

    yield build
    for client in clients:
        await client.close()


@dataclass(frozen=True)
class Agents:
    """A Letta with agents to read and write whole, and a specification of one, with a tag of this test's own."""

    letta: LettaPort
    store: AgentStore
    spec: AgentSpec
    tag: str

    async def made(self, **changes: Any) -> str:
        """A new agent's id."""
        return (await self.letta.create_agent(replace(self.spec, **changes))).agent_id

    async def told(self, agent_id: str, *texts: str) -> list[str]:
        """Otids of the turns in which the agent was told these."""
        otids = [str(uuid.uuid4()) for _ in texts]
        for text, otid in zip(texts, otids, strict=True):
            await self.letta.send(agent_id, [TurnMessage("user", text, otid)], timeout=60)
        return otids

    async def note(self, agent_id: str, *texts: str) -> None:
        """Put passages into the agent's archival memory, each with a date and a tag."""
        described = await self.store.describe(agent_id)
        archive = await self.store.make_archive({"name": "notes", **self._embedding(described)})
        await self.store.attach_archive(agent_id, archive)
        passages = [
            StoredPassage("", archive, text, f"2021-02-03T04:05:{number:02}.123456+00:00", ("tag",), {"number": number})
            for number, text in enumerate(texts)
        ]
        await self.store.add_passages(archive, passages)

    async def rows(self, agent_id: str) -> list[StoredMessage]:
        """The whole history."""
        return [message async for message in self.store.messages(await self.store.describe(agent_id))]

    @staticmethod
    def _embedding(described: AgentDescription) -> dict[str, object]:
        config = described.settings.get("embedding_config")
        return {"embedding_config": config} if config else {}


@pytest.fixture(params=["fake", pytest.param("server", marks=pytest.mark.letta)])
async def agents(request: pytest.FixtureRequest) -> AsyncIterator[Agents]:
    """The agents of a fake, and of a real server."""
    letta: LettaPort
    store: AgentStore
    embedding = None
    if request.param == "fake":
        model = "fake/model"
        fake = letta = InMemoryLetta(models=frozenset({model}))
        store = InMemoryAgentStore(fake)
    else:
        real = request.getfixturevalue("letta_url")
        model, embedding = real.model, "openai/text-embedding-3-small"
        letta = client = LettaClient(real.url, api_key=real.api_key)
        store = LettaAgentStore(client)
    tag = f"user:test-{uuid.uuid4()}"
    spec = AgentSpec(
        name="agent test",
        tags=("bridge", tag, "persona:default"),
        model=model,
        embedding=embedding,
        agent_type="letta_v1_agent",
        blocks=(Block("human", "说中文 ✨", "about the user", 2000), Block("persona", "kind")),
        tools=("memory_insert", "memory_replace"),
    )
    yield Agents(letta, store, spec, tag)
    for agent in await letta.find_agents([tag]):
        await letta.delete_agent(agent.agent_id)
    await store.close()
    await letta.close()
