from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from scripted_model.app import application
from scripted_model.faults import Dial
from scripted_model.server import server

Requests = Callable[..., dict[str, Any]]


@pytest.fixture
async def model() -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app=application())
    async with httpx.AsyncClient(transport=transport, base_url="http://model") as client:
        yield client


async def _chat(model: httpx.AsyncClient, body: dict[str, Any]) -> httpx.Response:
    return await model.post("/v1/chat/completions", json=body)


async def test_the_models_on_offer(model: httpx.AsyncClient) -> None:
    assert [one["id"] for one in (await model.get("/v1/models")).json()["data"]] == ["scripted"]
    assert (await model.get("/health")).json() == {"status": "ok"}


async def test_a_message_without_facts_is_echoed(model: httpx.AsyncClient, request_of: Requests) -> None:
    answer = (await _chat(model, request_of("hello there"))).json()

    assert answer["object"] == "chat.completion"
    assert answer["model"] == "scripted"
    (choice,) = answer["choices"]
    assert choice["message"]["content"] == "echo: hello there"
    assert choice["finish_reason"] == "stop"
    usage = answer["usage"]
    assert usage["completion_tokens"] == 4
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


async def test_a_fact_becomes_a_memory_call(model: httpx.AsyncClient, request_of: Requests) -> None:
    (choice,) = (await _chat(model, request_of("我的猫叫年糕", human=""))).json()["choices"]

    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    (call,) = choice["message"]["tool_calls"]
    assert call["function"]["name"] == "memory_insert"
    assert json.loads(call["function"]["arguments"]) == {"label": "human", "new_string": "用户的猫叫年糕。"}


async def test_ids_are_repeatable_and_differ_from_call_to_call(request_of: Requests) -> None:
    async def two_ids() -> list[str]:
        transport = httpx.ASGITransport(app=application())
        async with httpx.AsyncClient(transport=transport, base_url="http://model") as model:
            return [(await _chat(model, request_of("hello"))).json()["id"] for _ in range(2)]

    first = await two_ids()

    assert first == await two_ids()
    assert len(set(first)) == 2


def _chunks(stream: str) -> list[dict[str, Any]]:
    *events, done = [line.removeprefix("data: ") for line in stream.splitlines() if line]
    assert done == "[DONE]"
    return [json.loads(event) for event in events]


async def test_streamed_text_is_complete_and_ends_with_usage(model: httpx.AsyncClient, request_of: Requests) -> None:
    options = {"stream": True, "stream_options": {"include_usage": True}}
    *chunks, last = _chunks((await _chat(model, request_of("a text longer than one chunk") | options)).text)

    assert (
        "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks) == "echo: a text longer than one chunk"
    )
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 8


async def test_a_streamed_tool_call_is_complete(model: httpx.AsyncClient, request_of: Requests) -> None:
    chunks = _chunks((await _chat(model, request_of("I like tea", human="") | {"stream": True})).text)

    calls = [call for c in chunks for call in c["choices"][0]["delta"].get("tool_calls", [])]
    assert [call["function"]["name"] for call in calls] == ["memory_insert"]
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"
    assert not any("usage" in chunk for chunk in chunks)


async def test_a_paced_answer_comes_token_by_token(model: httpx.AsyncClient, request_of: Requests) -> None:
    said = await _chat(model, request_of("[[pace:1]] I say:  小明, hi!\n") | {"stream": True})
    deltas = [chunk["choices"][0]["delta"] for chunk in _chunks(said.text)]
    pieces = [delta["content"] for delta in deltas if delta.get("content")]
    assert pieces == ["echo", ":", " I", " say", ":", "  小", "明", ",", " hi", "!"]
    called = await _chat(model, request_of("[[pace:1]] I like tea", human="") | {"stream": True})
    calls = [call for c in _chunks(called.text) for call in c["choices"][0]["delta"].get("tool_calls", [])]
    assert len(calls) > 3
    assert [call["function"].get("name") for call in calls if "id" in call] == ["memory_insert"]
    arguments = json.loads("".join(call["function"]["arguments"] for call in calls))
    assert arguments == {"label": "human", "new_string": "The user likes tea."}


async def test_the_record_tells_how_far_a_client_listened_to_a_paced_answer(request_of: Requests) -> None:
    app = application()

    async def receive() -> dict[str, Any]:
        return received.pop(0) if received else {"type": "http.disconnect"}

    async def send(_message: Any) -> None:
        pass

    body = json.dumps(request_of("[[pace:60000]] hello") | {"stream": True}).encode()
    received: list[dict[str, Any]] = [{"type": "http.request", "body": body, "more_body": False}]
    path = "/v1/chat/completions"
    scope = {"type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "query_string": b""}
    await app({**scope, "headers": [], "http_version": "1.1", "scheme": "http"}, receive, send)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://model") as client:
        report = (await client.get("/control/calls")).json()
    assert (report["in_flight"], report["outcomes"]) == (0, {"abandoned": 1})
    assert report["last"][0]["events"] <= 1


@pytest.mark.parametrize(
    ("status", "kind"), [(401, "authentication_error"), (429, "rate_limit_error"), (503, "server_error")]
)
async def test_a_marked_message_fails_once_with_that_status(
    model: httpx.AsyncClient, request_of: Requests, status: int, kind: str
) -> None:
    failed = await _chat(model, request_of(f"hello [[fail:{status} once]]"))
    then = await _chat(model, request_of(f"hello [[fail:{status} once]]"))

    assert failed.status_code == status
    assert failed.json()["error"]["type"] == kind
    assert then.json()["choices"][0]["message"]["content"] == "echo: hello"


async def test_a_marked_message_gets_an_empty_answer(model: httpx.AsyncClient, request_of: Requests) -> None:
    (choice,) = (await _chat(model, request_of("hello [[empty]]"))).json()["choices"]

    assert choice["message"]["content"] == ""
    assert choice["finish_reason"] == "stop"


async def test_failing_after_the_tool(model: httpx.AsyncClient, request_of: Requests, used: Any) -> None:
    first = (await _chat(model, request_of("hello [[fail-after-tool:429]]", human=""))).json()
    stored = json.loads(first["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"])
    second = await _chat(model, request_of("hello [[fail-after-tool:429]]", *used("memory_insert", stored), human=""))

    assert second.status_code == 429


async def test_a_summary_of_marked_messages_does_not_fail(model: httpx.AsyncClient, request_of: Requests) -> None:
    prompt = {"role": "system", "content": "Summarize this."}

    assert (await _chat(model, request_of(prompt, "User: x [[fail:500]]"))).status_code == 200


async def test_faults_are_dialled_in_and_out(model: httpx.AsyncClient, request_of: Requests) -> None:
    dialled = await model.put("/control/faults", json={"action": "fail", "status": 503, "next": 1})
    statuses = [(await _chat(model, request_of("hello"))).status_code for _ in range(2)]

    assert (
        dialled.json()
        == (await model.get("/control/faults")).json()
        == Dial(action="fail", status=503, next=1).model_dump()
    )
    assert statuses == [503, 200]
    assert (await model.delete("/control/faults")).json() == Dial().model_dump()


async def test_an_unknown_setting_is_refused(model: httpx.AsyncClient) -> None:
    assert (await model.put("/control/faults", json={"acton": "fail"})).status_code == 422


async def test_the_record_of_calls(model: httpx.AsyncClient, request_of: Requests) -> None:
    await _chat(model, request_of("hello"))
    await _chat(model, request_of("I like tea [[fail:500]]", human=""))
    await _chat(model, request_of("I like tea", human=""))

    report = (await model.get("/control/calls", params={"last": 2})).json()
    full = (await model.get("/control/calls", params={"last": 1, "full": True})).json()

    assert report["calls"] == 3
    assert report["in_flight"] == 0
    assert report["outcomes"] == {"text": 1, "fail:500": 1, "tool": 1}
    assert [call["newest"] for call in report["last"]] == ["I like tea [[fail:500]]", "I like tea"]
    assert report["last"][1]["tool"]["arguments"]["new_string"] == "The user likes tea."
    assert full["last"][0]["request"] == request_of("I like tea", human="")


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"messages": 5}', b"\xff"])
async def test_a_request_without_messages_is_refused(model: httpx.AsyncClient, content: bytes) -> None:
    refused = await model.post("/v1/chat/completions", content=content)

    assert refused.status_code == 400
    assert "messages is missing" in refused.json()["error"]["message"]


@pytest.mark.parametrize(
    ("body", "lengths"),
    [
        ({"model": "text-embedding-3-small", "input": "tea"}, [1536]),
        ({"model": "text-embedding-3-large", "input": ["tea", "茶"]}, [3072, 3072]),
        ({"model": "other", "input": [1, 2, 3], "dimensions": 8}, [8]),
    ],
)
async def test_embeddings_come_as_numbers_or_base64(
    model: httpx.AsyncClient, body: dict[str, Any], lengths: list[int]
) -> None:
    answer = (await model.post("/v1/embeddings", json=body)).json()

    assert [len(one["embedding"]) for one in answer["data"]] == lengths
    packed = (await model.post("/v1/embeddings", json=body | {"encoding_format": "base64"})).json()
    assert all(isinstance(one["embedding"], str) for one in packed["data"])


@asynccontextmanager
async def _listening() -> AsyncIterator[httpx.AsyncClient]:
    """The application behind its own server on a free port."""
    url: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    running = server(application(), "127.0.0.1", 0, announce=url.set_result)
    task = asyncio.create_task(running.serve())
    try:
        base = (await url).removesuffix("/v1")
        async with httpx.AsyncClient(base_url=base, timeout=30, limits=httpx.Limits()) as client:
            yield client
    finally:
        running.should_exit = True
        await task


async def _calls(model: httpx.AsyncClient) -> dict[str, Any]:
    report: dict[str, Any] = (await model.get("/control/calls", params={"last": 0})).json()
    return report


async def test_a_dropped_connection_and_a_hang_end_without_an_answer(request_of: Requests) -> None:
    async with _listening() as model:
        for text in ("hello [[drop]]", "hello [[hang:0.01]]"):
            with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
                await _chat(model, request_of(text))

        assert (await _chat(model, request_of("hello"))).status_code == 200
        assert (await _calls(model))["outcomes"] == {"drop": 1, "hang": 1, "text": 1}


async def test_a_connection_counts_at_its_first_call(request_of: Requests) -> None:
    async with _listening() as model:
        assert (await _calls(model))["connections"] == 0
        for _ in range(3):
            await _chat(model, request_of("hello"))
            await model.post("/v1/embeddings", json={"input": "hello"})
        async with httpx.AsyncClient(base_url=model.base_url, timeout=30) as another:
            await _chat(another, request_of("hello"))
        assert (await _calls(model))["connections"] == 2


async def test_many_hang_at_once_until_their_clients_leave(request_of: Requests) -> None:
    async with _listening() as model:
        waiting = [asyncio.create_task(_chat(model, request_of("hello [[hang:600]]"))) for _ in range(100)]
        while (await _calls(model))["in_flight"] < 100:
            pass
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)
        while (await _calls(model))["in_flight"]:
            pass

        assert (await _calls(model))["outcomes"] == {"abandoned": 100}


@pytest.mark.process
async def test_the_command_line_says_where_it_listens() -> None:
    command = (sys.executable, "-m", "scripted_model.main", "--port", "0", "--fail-rate", "1", "--fail-status", "429")
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    try:
        assert process.stdout is not None
        word, url = (await process.stdout.readline()).decode().split()
        assert word == "ready"
        async with httpx.AsyncClient() as client:
            assert (await client.get(f"{url}/models")).status_code == 200
            assert (await client.post(f"{url}/chat/completions", json={"messages": []})).status_code == 429
    finally:
        process.terminate()
        await process.wait()
    assert process.returncode == 0
