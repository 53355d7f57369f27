"""The example application, as its clients see it."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from local_stack.ports import free_port
from shared_utils.persistence.database.config import DatabaseConfig

pytestmark = [pytest.mark.integration, pytest.mark.parametrize("engine", ["postgresql"], indirect=True)]
EXAMPLES = Path(__file__).parents[3] / "examples"


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(EXAMPLES)
    return importlib.import_module("conversations_app")


@pytest.fixture
async def client_of(example: Any) -> Callable[..., Any]:
    async def use(config: Any, do: Any) -> None:
        app = example.create_app(config)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://example") as client,
        ):
            await do(client)

    return use


async def test_a_conversation_over_http(client_of: Callable[..., Any], database_config: DatabaseConfig) -> None:
    async def do(client: Any) -> None:
        made = (await client.post("/conversations", json={"title": "first", "user_id": "ada"})).json()
        path = f"/conversations/{made['id']}"
        for role, content in (("user", "你好"), ("assistant", "hello")):
            assert (await client.post(f"{path}/messages", json={"role": role, "content": content})).status_code == 201
        assert (await client.get(path)).json()["source"] == "example"
        history = (await client.get(f"{path}/messages")).json()
        assert [message["content"] for message in history["messages"]] == ["你好", "hello"]
        assert [message["content"] for message in (await client.get("/search?text=HELL")).json()] == ["hello"]
        assert (await client.get(f"{path}/messages?before=x")).status_code == 422
        assert (await client.delete(path)).status_code == 204
        missing = await client.get(path)
        assert (missing.status_code, missing.json()["detail"]) == (404, f"agent_conversations has no row {made['id']}")
        assert (await client.delete(path)).status_code == 404

    await client_of(database_config, do)


async def test_app_starts_without_a_database_and_returns_503(client_of: Callable[..., Any], engine: str) -> None:
    async def do(client: Any) -> None:
        answer = await client.post("/conversations", json={})
        assert answer.status_code == 503
        assert "is away" in answer.json()["detail"]

    await client_of(DatabaseConfig(db_url=f"postgresql://u:p@127.0.0.1:{free_port()}/x"), do)
