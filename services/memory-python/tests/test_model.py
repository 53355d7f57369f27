"""The OpenAI-compatible client, against a scripted transport."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from memory_service.errors import ModelRefused, ModelSaidNothing, ModelUnavailable
from memory_service.model import Completion, Message, OpenAiModel


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr("memory_service.model._exponential", lambda _state: 0)

    async def ask(*answers: Any, hear: Any = None) -> Any:
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
                asked: list[Message] = [{"role": "user", "content": "hi"}]
                text = await model.complete(asked, max_tokens=5, temperature=0.5, hear=hear)
            except Exception as error:  # noqa: BLE001  # the tests look at it
                return error, requests
        return text, requests

    return ask


def says(content: str | None, finish_reason: str = "stop") -> Any:
    message = {"role": "assistant", "content": content}
    return httpx.Response(200, json={"choices": [{"message": message, "finish_reason": finish_reason}]})


def refuses(message: str, status: int = 400, **headers: str) -> Any:
    return httpx.Response(status, json={"error": {"message": message}}, headers=headers)


def parameters(request: Any) -> dict[str, Any]:
    return {key: value for key, value in json.loads(request.content).items() if key not in {"model", "messages"}}


async def test_completion_request_and_answer(ask: Any) -> None:
    text, (request,) = await ask(says("<think>hm</think>\n hello "))
    assert text == Completion("hello")
    assert str(request.url) == "http://model/v1/chat/completions"
    assert request.headers["authorization"] == "Bearer key"
    assert json.loads(request.content) == {
        "model": "m",
        "messages": [{"role": "user", "content": "hi"}],
        "max_tokens": 5,
        "temperature": 0.5,
    }


@pytest.mark.parametrize("failure", [httpx.Response(429), httpx.Response(503), httpx.ConnectError("no")])
async def test_transient_failures_are_retried(ask: Any, failure: Any) -> None:
    text, requests = await ask(failure, failure, says("hello"))
    assert (text, len(requests)) == (Completion("hello"), 3)
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
    assert text == Completion("laughs \ufffd \ufffd")


async def test_a_text_cut_at_the_length_limit_is_marked(ask: Any) -> None:
    assert (await ask(says("Once upon a", "length")))[0] == Completion("Once upon a", truncated=True)
    error, _ = await ask(says("<think>long thoughts", "length"))
    assert isinstance(error, ModelSaidNothing)
    assert "raise answer.max_tokens" in str(error)


@pytest.mark.parametrize("text", ["<think>never closed", '{"name": "memory_insert", "arguments": {"label": "human"}}'])
async def test_thoughts_and_tool_calls_are_no_answer(ask: Any, text: str) -> None:
    error, _ = await ask(says(text))
    assert isinstance(error, ModelSaidNothing)
    assert "reasoning or tool calls" in str(error)


async def test_a_model_that_refuses_parameters_is_asked_without_them(ask: Any) -> None:
    text, requests = await ask(
        refuses("Unsupported parameter: 'max_tokens' is not supported. Use 'max_completion_tokens' instead."),
        refuses("Unsupported value: 'temperature' does not support 0.5. Only the default (1) value is supported."),
        says("hello"),
    )
    assert text == Completion("hello")
    assert [parameters(request) for request in requests] == [
        {"max_tokens": 5, "temperature": 0.5},
        {"max_completion_tokens": 5, "temperature": 0.5},
        {"max_completion_tokens": 5},
    ]


async def test_a_model_that_thinks_only_in_streams_is_reported_not_to_think(ask: Any) -> None:
    needed = refuses("parameter.enable_thinking must be set to false for non-streaming calls")
    text, requests = await ask(needed, says("hello"))
    assert text == Completion("hello")
    assert [json.loads(request.content).get("enable_thinking") for request in requests] == [None, False]
    error, requests = await ask(needed, needed, says("hello"))
    assert isinstance(error, ModelRefused)
    assert "(parameter.enable_thinking must be set to false for non-streaming calls)" in str(error)
    assert "set OPENAI_BASE_URL to a proxy" in str(error)
    assert len(requests) == 2


async def test_error_names_a_required_parameter_that_the_model_refuses_and_the_remedy(ask: Any) -> None:
    error, requests = await ask(refuses("Unsupported parameter: 'response_format' is not supported"))
    assert isinstance(error, ModelRefused)
    assert str(error).endswith(
        "; choose another MEMORY_MODEL, or set OPENAI_BASE_URL to a proxy that removes or sets it"
    )
    assert len(requests) == 1


async def test_refused_parameters_are_omitted_from_later_requests() -> None:
    asked: list[dict[str, Any]] = []

    def handle(request: Any) -> Any:
        asked.append(parameters(request))
        return refuses("temperature: only 1 is allowed") if "temperature" in asked[-1] else says("hello")

    async with httpx.AsyncClient(transport=httpx.MockTransport(handle)) as web:
        model = OpenAiModel(web, base_url="http://model", model="m", api_key=None)
        for _ in range(2):
            await model.complete([{"role": "user", "content": "hi"}], max_tokens=5, temperature=0.5)
    assert asked == [{"max_tokens": 5, "temperature": 0.5}, {"max_tokens": 5}, {"max_tokens": 5}]


async def test_a_parameter_that_was_not_sent_is_not_tried_for_ever(ask: Any) -> None:
    error, requests = await ask(refuses("max_tokens and temperature are not supported parameters"))
    assert isinstance(error, ModelRefused)
    assert len(requests) <= 4


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (refuses("Incorrect token: sk-hsu5Gs8a", 401), "refuses the key (Incorrect token: …); give"),
        (refuses("You exceeded your current quota", 429), "a quota is used up (You exceeded your current quota)"),
        (refuses("the request exceeds the available context size"), "lower memory.context_window"),
        (refuses("The model `m` does not exist", 404), "does not know the model (The model `m` does not exist)"),
    ],
)
async def test_refusal_names_who_has_to_fix_it(ask: Any, answer: Any, said: str) -> None:
    error, requests = await ask(answer)
    assert isinstance(error, ModelRefused)
    assert said in str(error)
    assert error.concerns_conversation is ("context size" in said or "context_window" in said)
    assert len(requests) == 1


async def test_long_retry_after_ends_the_retries(ask: Any) -> None:
    error, requests = await ask(refuses("Rate limit reached", 429, **{"Retry-After": "30"}))
    assert isinstance(error, ModelUnavailable)
    assert "Rate limit reached" in str(error)
    assert len(requests) == 1


def streams(*pieces: str | bytes, finish_reason: str = "stop") -> httpx.Response:
    events = [
        piece if isinstance(piece, bytes) else json.dumps({"choices": [{"delta": {"content": piece}}]}).encode()
        for piece in pieces
    ]
    events.append(json.dumps({"choices": [{"delta": {}, "finish_reason": finish_reason}]}).encode())
    body = b"".join(b"data: %b\n\n" % event for event in [*events, b"[DONE]"])
    return httpx.Response(200, content=body, headers={"content-type": "text/event-stream; charset=utf-8"})


async def test_a_streamed_answer_is_heard_and_is_the_same(ask: Any) -> None:
    heard: list[str] = []
    usage = b'{"choices": [], "usage": {"total_tokens": 3}}'
    text, (request,) = await ask(streams("<th", "ink>hm</think>你", "好，", "安妮", usage), hear=heard.append)
    assert text == Completion("你好，安妮")
    assert "".join(heard) == "你好，安妮"
    assert len(heard) > 1
    assert json.loads(request.content)["stream"] is True


async def test_a_streamed_answer_that_reached_its_limit_is_marked(ask: Any) -> None:
    text, _ = await ask(streams("Once upon a", finish_reason="length"), hear=lambda _: None)
    assert text == Completion("Once upon a", truncated=True)


async def test_a_model_that_does_not_stream_is_read_whole(ask: Any) -> None:
    text, _ = await ask(says("hello"), hear=lambda _: None)
    assert text == Completion("hello")


async def test_refusals_of_a_stream_are_those_of_an_answer(ask: Any) -> None:
    text, requests = await ask(
        refuses("Unsupported parameter: 'max_tokens' is not supported. Use 'max_completion_tokens' instead."),
        streams("hello"),
        hear=lambda _: None,
    )
    assert text == Completion("hello")
    assert "max_completion_tokens" in parameters(requests[1])
    error, requests = await ask(httpx.Response(503), hear=lambda _: None)
    assert isinstance(error, ModelUnavailable)
    assert len(requests) == 3


@pytest.mark.parametrize("broken", [streams(b"{"), streams("<think>only"), streams("")])
async def test_a_stream_without_an_answer_is_none(ask: Any, broken: Any) -> None:
    error, _ = await ask(broken, hear=lambda _: None)
    assert isinstance(error, ModelSaidNothing)


@pytest.mark.parametrize(("before", "kind"), [((), ModelUnavailable), (("Half an ",), ModelRefused)])
async def test_an_error_within_a_stream_is_no_answer(ask: Any, before: tuple[str, ...], kind: type[Exception]) -> None:
    failed = json.dumps({"error": {"message": "out of memory while answering hi", "code": 500}}).encode()
    error, requests = await ask(streams(*before, failed), hear=lambda _: None)
    assert type(error) is kind
    assert "broke off" in str(error)
    assert len(requests) == (1 if before else 3)


async def test_a_stream_that_ends_in_the_middle_is_no_answer(ask: Any) -> None:
    def cut(*pieces: str) -> httpx.Response:
        whole = streams(*pieces)
        body = whole.content[: whole.content.index(b"data: ", 1)] if pieces else b""
        return httpx.Response(200, content=body, headers={"content-type": "text/event-stream"})

    error, requests = await ask(cut("Once upon", " a time"), hear=lambda _: None)
    assert isinstance(error, ModelRefused)
    assert len(requests) == 1
    error, requests = await ask(cut(), hear=lambda _: None)
    assert isinstance(error, ModelUnavailable)
    assert len(requests) == 3
