from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from letta_bridge.letta.letta_client import LettaClient


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

    def build(url: str, **options: object) -> LettaClient:
        client = LettaClient(url, **options)  # type: ignore[arg-type]  # a test passes what the constructor takes
        clients.append(client)
        return client

    yield build
    for client in clients:
        await client.close()
