"""The real Letta with an embedding model that it does not list by itself."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

pytestmark = [pytest.mark.integration, pytest.mark.letta, pytest.mark.xdist_group("letta-server")]


def test_agents_can_be_made_with_an_embedding_model_of_ones_own(
    letta_server: Any, postgres: Any, database: str, model: Any, ready: Any
) -> None:
    model.proceed.set()
    own = {"LETTA_SERVER_EMBEDDING_MODEL": "bge-m3", "LETTA_SERVER_EMBEDDING_DIMENSIONS": "1024"}
    settings = postgres.variables(database, OPENAI_API_KEY="sk-any-key", OPENAI_BASE_URL=model.url, **own)
    started = letta_server.start("run", "--port", "0", settings=settings)
    with httpx.Client(base_url=ready(started), timeout=60, trust_env=False) as letta:
        offered = {one["handle"]: one for one in letta.get("/v1/models/embedding").json()}
        assert {"openai/bge-m3", "openai/text-embedding-3-small"} <= offered.keys()
        spec = {"model": "openai-proxy/gpt-4o-mini", "embedding": "openai/bge-m3", "include_base_tools": False}
        config = letta.post("/v1/agents/", json={"name": "one", **spec}).json()["embedding_config"]
    named = (config["embedding_model"], config["embedding_dim"], config["embedding_endpoint"])
    assert named == ("bge-m3", 1024, model.url)
    started.process.terminate()
    assert started.ended(within=60) == 0
