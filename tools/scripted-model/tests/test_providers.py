"""Imitations of providers: they serve what they have, and refuse as their documents say."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from scripted_model.app import application
from scripted_model.providers import KEY, PROVIDERS, Imitation


@pytest.fixture(params=PROVIDERS)
async def imitated(request: pytest.FixtureRequest) -> AsyncIterator[tuple[str, httpx.AsyncClient]]:
    provider = PROVIDERS[request.param]
    app = Imitation(application(models=[provider.model], thinks=provider.thinks), provider)
    headers = {"authorization": f"Bearer {KEY}"}
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://provider", headers=headers) as client:
        yield request.param, client


def _asked(model: str, *messages: dict[str, Any]) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "hello"}, *messages]}


async def test_answers_below_its_own_path_and_thinks_if_it_does(imitated: tuple[str, httpx.AsyncClient]) -> None:
    name, client = imitated
    provider = PROVIDERS[name]
    answer = await client.post(f"{provider.path}/chat/completions", json=_asked(provider.model))
    message = answer.json()["choices"][0]["message"]
    assert message["content"] == "echo: hello"
    assert bool(message.get("reasoning_content")) is provider.thinks
    streamed = await client.post(f"{provider.path}/chat/completions", json=_asked(provider.model) | {"stream": True})
    assert ("reasoning_content" in streamed.text) is provider.thinks
    listed = await client.get(f"{provider.path}/models")
    assert listed.status_code == (200 if provider.lists_models else 404)
    assert (await client.post("/elsewhere/chat/completions", json={})).status_code == 404
    assert (await client.get("/health")).status_code == 200


async def test_refuses_a_wrong_key_an_unknown_model_and_what_it_is_told_to(
    imitated: tuple[str, httpx.AsyncClient],
) -> None:
    name, client = imitated
    provider = PROVIDERS[name]
    url = f"{provider.path}/chat/completions"
    refused = await client.post(url, json=_asked(provider.model), headers={"authorization": "Bearer sk-other"})
    assert (refused.status_code, refused.json()) == (provider.refusals["key"].status, provider.refusals["key"].body)
    refused = await client.post(url, json=_asked("no-such-model"))
    assert refused.status_code == provider.refusals["model"].status
    for situation, answer in provider.refusals.items():
        await client.put("/control/situation", json={"situation": situation})
        refused = await client.post(url, json=_asked(provider.model))
        assert (refused.status_code, refused.json()) == (answer.status, answer.body)
    await client.put("/control/situation", json={"situation": None})
    assert (await client.post(url, json=_asked(provider.model))).status_code == 200


async def test_a_provider_that_wants_thoughts_back_refuses_calls_without(
    imitated: tuple[str, httpx.AsyncClient],
) -> None:
    name, client = imitated
    provider = PROVIDERS[name]
    function = {"name": "look", "arguments": "{}"}
    call = {"role": "assistant", "content": "", "tool_calls": [{"id": "1", "type": "function", "function": function}]}
    result = {"role": "tool", "tool_call_id": "1", "content": "a garden"}
    url = f"{provider.path}/chat/completions"
    without = await client.post(url, json=_asked(provider.model, call, result))
    assert without.status_code == (400 if "thoughts" in provider.refusals else 200)
    whole = await client.post(url, json=_asked(provider.model, call | {"reasoning_content": "I look."}, result))
    assert whole.status_code == 200


async def test_embeds_with_its_own_models_and_limits(imitated: tuple[str, httpx.AsyncClient]) -> None:
    name, client = imitated
    provider = PROVIDERS[name]
    for model, dimensions in provider.embeddings.items():
        answer = await client.post(f"{provider.path}/embeddings", json={"model": model, "input": ["tea"]})
        assert len(answer.json()["data"][0]["embedding"]) == dimensions
        if provider.texts:
            many = {"model": model, "input": ["tea"] * (provider.texts + 1)}
            refused = await client.post(f"{provider.path}/embeddings", json=many)
            assert refused.json() == provider.refusals["texts"].body
    foreign = {"model": "text-embedding-3-small", "input": "tea"}
    assert (await client.post(f"{provider.path}/embeddings", json=foreign)).status_code >= 400
