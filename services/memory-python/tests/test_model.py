"""The OpenAI-compatible client, against a scripted transport."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from memory_service.errors import ModelRefused, ModelSaidNothing, ModelUnavailable
from memory_service.model import OpenAiModel


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr("memory_service.model.wait_exponential_jitter", lambda **_: lambda _state: 0)

    async def ask(*answers: Any) -> Any:
        requests = []

        def handle(request: Any) -> Any:
            requests.append(request)
            answer = answers[min(len(requests), len(answers)) - 1]
            if isinstance(answer, Exception):
                raise answer
            return answer

        async with httpx.AsyncClient(transport=httpx.MockTransport(handle)) as web:
            model = OpenAiModel(web, base_url="http://model/v1/", model="m", api_key=SecretStr("key"))
            try:
                text = await model.complete([{"role": "user", "content": "hi"}], max_tokens=5, temperature=0.5)
            except Exception as error:  # noqa: BLE001  # the tests look at it
                return error, requests
        return text, requests

    return ask


def says(content: str | None) -> Any:
    return httpx.Response(200, json={"choices": [{"message": {"role": "assistant", "content": content}}]})


async def test_what_is_sent_and_what_comes_back(ask: Any) -> None:
    text, (request,) = await ask(says("<think>hm</think>\n hello "))
    assert text == "hello"
    assert str(request.url) == "http://model/v1/chat/completions"
    assert request.headers["authorization"] == "Bearer key"
    assert json.loads(request.content) == {
        "model": "m",
        "messages": [{"role": "user", "content": "hi"}],
        "max_tokens": 5,
        "temperature": 0.5,
    }


@pytest.mark.parametrize("failure", [httpx.Response(429), httpx.Response(503), httpx.ConnectError("no")])
async def test_what_may_pass_is_tried_again(ask: Any, failure: Any) -> None:
    text, requests = await ask(failure, failure, says("hello"))
    assert (text, len(requests)) == ("hello", 3)
    error, requests = await ask(failure)
    assert isinstance(error, ModelUnavailable)
    assert len(requests) == 3


@pytest.mark.parametrize("status", [301, 400, 401, 404])
async def test_a_refusal_is_not_tried_again(ask: Any, status: int) -> None:
    error, requests = await ask(httpx.Response(status))
    assert isinstance(error, ModelRefused)
    assert len(requests) == 1


@pytest.mark.parametrize(
    "answer", [says(""), says(None), says("<think>only</think>"), httpx.Response(200, json=[]), httpx.Response(200)]
)
async def test_an_answer_without_text_is_none(ask: Any, answer: Any) -> None:
    error, requests = await ask(answer)
    assert isinstance(error, ModelSaidNothing)
    assert len(requests) == 1


async def test_half_a_character_in_an_answer_is_replaced(ask: Any) -> None:
    answer = httpx.Response(200, content=b'{"choices":[{"message":{"content":"laughs \\ud83d \xff"}}]}')
    text, _ = await ask(answer)
    assert text == "laughs \ufffd \ufffd"
