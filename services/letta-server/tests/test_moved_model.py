"""The real Letta after its model got another address."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

pytestmark = [pytest.mark.integration, pytest.mark.letta, pytest.mark.xdist_group("letta-server")]

AGENT = {"name": "one", "model": "openai-proxy/gpt-4o-mini", "include_base_tools": False, "tags": ["bridge"]}


def handles(letta: httpx.Client) -> dict[str, str]:
    """Handle → address of the models that Letta offers."""
    return {model["handle"]: model["model_endpoint"] for model in letta.get("/v1/models/").json()}


def answer(letta: httpx.Client, agent: str) -> httpx.Response:
    return letta.post(f"/v1/agents/{agent}/messages", json={"input": "hello"})


def test_agents_answer_at_the_new_address_and_old_models_come_back(
    letta_server: Any, postgres: Any, database: str, model: Any, other_model: Any, ready: Any
) -> None:
    settings = postgres.variables(database, OPENAI_API_KEY="sk-any-key", OPENAI_BASE_URL=f"{model.url}/")
    model.proceed.set()

    def run(**changes: str) -> tuple[Any, httpx.Client]:
        started = letta_server.start("run", "--port", "0", settings=settings | changes)
        return started, httpx.Client(base_url=ready(started), timeout=60, trust_env=False)

    started, letta = run()
    with letta:
        assert handles(letta)["openai-proxy/gpt-4o-mini"] == model.url
        agent = letta.post("/v1/agents/", json=AGENT).json()["id"]
        assert answer(letta, agent).status_code == 200
    started.process.terminate()
    assert started.ended(within=60) == 0

    settings["OPENAI_BASE_URL"] = other_model.url
    code, said = letta_server.run("check", settings=settings)
    assert (code, f"the next start makes it {other_model.url}" in said) == (0, True)
    command = ("repoint", "--from", model.url, "--to", other_model.url)
    assert f"letta-server {' '.join(command)} --yes" in said
    started, letta = run()
    with letta:
        assert handles(letta)["openai-proxy/other"] == other_model.url
        assert f"letta-server {' '.join(command)} --yes" in started.said
        model.asked.clear()
        assert answer(letta, agent).status_code == 200
        assert (model.asked.is_set(), other_model.asked.is_set()) == (True, False)
        code, said = letta_server.run(*command, settings=settings)
        assert (code, "1 agents: " in said, "nothing was changed" in said) == (0, True, True)
        assert letta_server.run(*command, "--yes", settings=settings)[0] == 0
        model.asked.clear()
        assert answer(letta, agent).status_code == 200
        assert (model.asked.is_set(), other_model.asked.is_set()) == (False, True)
    started.process.terminate()
    assert started.ended(within=60) == 0

    started, letta = run(OPENAI_BASE_URL=model.url, LETTA_SERVER_REPOINT_AGENTS="true")
    with letta:
        assert handles(letta)["openai-proxy/gpt-4o-mini"] == model.url
        other_model.asked.clear()
        assert answer(letta, agent).status_code == 200
        assert (model.asked.is_set(), other_model.asked.is_set()) == (True, False)
