"""What the doctor asks the adapter: handles and locks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import web

from letta_bridge.errors import LettaRejected, LettaUnavailable
from letta_bridge.letta.letta_client import LettaClient
from local_stack.letta import Letta


async def test_models_without_a_handle_are_left_out(
    stub: Callable[..., Any], client_of: Callable[..., LettaClient]
) -> None:
    async def models(request: Any) -> Any:
        names = ["a/embedding"] if request.path.endswith("embedding") else ["a/one", "", "b/二"]
        return web.json_response([{"handle": name} for name in names] + [{}])

    client = client_of(await stub(models))
    assert await client.model_handles() == ["a/one", "b/二"]
    assert await client.embedding_handles() == ["a/embedding"]


@pytest.mark.parametrize(
    ("status", "detail", "locks"),
    [
        (404, "Run not found", True),
        (503, "Background streaming requires Redis to be running.", False),
    ],
)
async def test_locks_are_detected_by_the_refusal_of_a_missing_stream(
    stub: Callable[..., Any], client_of: Callable[..., LettaClient], status: int, detail: str, locks: bool
) -> None:
    async def refuse(_request: Any) -> Any:
        return web.json_response({"detail": detail}, status=status)

    assert await client_of(await stub(refuse)).has_locks() is locks


async def test_has_locks_fails_if_the_server_takes_no_requests(
    stub: Callable[..., Any], client_of: Callable[..., LettaClient]
) -> None:
    async def refuse(_request: Any) -> Any:
        return web.Response(status=503)

    with pytest.raises(LettaUnavailable):
        await client_of(await stub(refuse)).has_locks()


async def test_has_locks_fails_if_the_key_is_refused(
    stub: Callable[..., Any], client_of: Callable[..., LettaClient]
) -> None:
    async def refuse(_request: Any) -> Any:
        return web.json_response({"detail": "Unauthorized"}, status=401)

    client = client_of(await stub(refuse))
    for question in (client.has_locks, client.model_handles, client.embedding_handles):
        with pytest.raises(LettaRejected) as caught:
            await question()
        assert caught.value.cause == "letta_credentials"


@pytest.mark.letta
async def test_real_server_lists_handles_and_has_locks(letta: Letta, client_of: Callable[..., LettaClient]) -> None:
    client = client_of(letta.url, api_key=letta.api_key)
    assert letta.model in await client.model_handles()
    assert letta.embedding in await client.embedding_handles()
    assert await client.has_locks() is True
