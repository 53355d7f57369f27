"""Turns over HTTP, streamed and whole: what a server may do wrong."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web

from letta_bridge.errors import (
    AgentGone,
    LettaError,
    LettaRejected,
    LettaUnavailable,
    OutcomeUnknown,
    TurnCancelled,
)
from letta_bridge.letta import ToolState, TurnAnswer, TurnMessage, Usage, turn_requests
from letta_bridge.letta.letta_client import LettaClient
from letta_bridge.letta.turn_search import TOOL_KWARG_LABEL
from letta_bridge.testing.turn_listener import Heard
from shared_utils.llm.server_sent_events import LONGEST_STREAM, ServerSentEvents

AGENT = f"agent-{uuid.UUID(int=1)}"
OTID = str(uuid.UUID(int=2))
ASKED = [TurnMessage("user", "hello", OTID)]
Stub = Callable[[Callable[[web.Request], Awaitable[web.StreamResponse]]], Awaitable[str]]
Clients = Callable[..., LettaClient]


def event(kind: str, **content: object) -> bytes:
    return b"data: " + json.dumps({"message_type": kind, "run_id": "run-1", **content}).encode() + b"\r\n\r\n"


PING = event("ping")
SAID = [event("assistant_message", id="m", content=piece) for piece in ("Hello, ", "小明", ".")]
STOP = event("stop_reason", stop_reason="end_turn")
USAGE = event("usage_statistics", prompt_tokens=2, completion_tokens=1, total_tokens=3)
DONE = b"data: [DONE]\n\n"
WHOLE = b"".join([PING, *SAID, STOP, USAGE, DONE])
ANSWER = TurnAnswer("Hello, 小明.", usage=Usage(2, 1, 3, 0))


async def streaming(request: web.Request, *chunks: bytes, kind: str = "text/event-stream") -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": f"{kind}; charset=utf-8"})
    await response.prepare(request)
    for chunk in chunks:
        await response.write(chunk)
    return response


async def cut(request: web.Request, *chunks: bytes) -> web.StreamResponse:
    response = await streaming(request, *chunks)
    assert request.transport is not None
    request.transport.close()
    return response


async def send(client: LettaClient, timeout: float = 5.0) -> tuple[Heard, TurnAnswer]:
    heard = Heard()
    return heard, await client.send(AGENT, ASKED, timeout=timeout, listener=heard)


async def failure(client: LettaClient, timeout: float = 5.0) -> tuple[Heard, Any]:
    heard = Heard()
    with pytest.raises(LettaError) as caught:
        await client.send(AGENT, ASKED, timeout=timeout, listener=heard)
    return heard, caught.value


async def test_a_turn_with_a_listener_is_streamed(stub: Stub, client_of: Clients) -> None:
    asked: list[tuple[Any, Any]] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        asked.append((await request.json(), request.headers))
        return await streaming(request, *(bytes([byte]) for byte in WHOLE))

    heard, answer = await send(client_of(await stub(handler), api_key="secret"))
    assert answer == ANSWER
    assert (heard.runs, heard.messages, len(heard.pieces)) == (["run-1"], [answer.text], 3)
    [(body, headers)] = asked
    assert (body["streaming"], body["stream_tokens"], body[TOOL_KWARG_LABEL]) == (True, True, OTID)
    assert body["messages"] == [{"role": "user", "content": "hello", "otid": OTID}]
    assert headers["Authorization"] == "Bearer secret"
    assert headers["X-Stainless-Package-Version"].startswith("1."), "Letta streams only to clients of this version"


async def test_the_listener_hears_each_event_when_it_comes(stub: Stub, client_of: Clients) -> None:
    heard = Heard()

    async def handler(request: web.Request) -> web.StreamResponse:
        response = await streaming(request, PING)
        await heard.until(lambda heard: heard.runs)
        written: list[bytes] = []
        for piece in SAID:
            await response.write(piece)
            written.append(piece)
            await heard.until(lambda heard: len(heard.pieces) == len(written))
        await response.write(STOP + DONE)
        return response

    client = client_of(await stub(handler))
    assert (await client.send(AGENT, ASKED, timeout=30, listener=heard)).text == "Hello, 小明."


async def test_a_server_that_does_not_stream(stub: Stub, client_of: Clients) -> None:
    call = {"name": "memory_insert", "tool_call_id": "c", "arguments": "{}"}
    messages = [
        {"message_type": "tool_call_message", "run_id": "run-1", "tool_call": call},
        {"message_type": "tool_return_message", "tool_call_id": "c", "status": "success"},
        {"message_type": "assistant_message", "id": "m", "content": "Yes."},
    ]

    async def handler(_: web.Request) -> web.StreamResponse:
        return web.json_response({"messages": messages, "stop_reason": {"stop_reason": "end_turn"}})

    heard, answer = await send(client_of(await stub(handler)))
    assert answer == TurnAnswer("Yes.", memory_updated=True)
    assert (heard.runs, heard.pieces) == (["run-1"], [("m", "Yes.")])
    assert heard.tools == [("memory_insert", ToolState.CALLED), ("memory_insert", ToolState.RETURNED)]


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (404, {"detail": "Agent not found"}, AgentGone),
        (422, {"detail": "invalid"}, LettaRejected),
        (409, {"detail": "CONVERSATION_BUSY"}, LettaUnavailable),
        (500, {"detail": "no"}, OutcomeUnknown),
        (200, "not an object", OutcomeUnknown),
    ],
)
async def test_an_answer_without_a_stream(
    stub: Stub, client_of: Clients, status: int, body: object, error: type[LettaError]
) -> None:
    async def handler(_: web.Request) -> web.StreamResponse:
        return web.json_response(body, status=status)

    heard, raised = await failure(client_of(await stub(handler)))
    assert type(raised) is error
    assert heard.pieces == []


@pytest.mark.parametrize("chunks", [[], [PING], [PING, SAID[0]], [PING, *SAID, STOP, USAGE], [PING, SAID[0][:20]]])
@pytest.mark.parametrize("how", [streaming, cut])
async def test_a_stream_that_breaks_off_is_in_doubt(
    stub: Stub, client_of: Clients, how: Callable[..., Awaitable[web.StreamResponse]], chunks: list[bytes]
) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        return await how(request, *chunks)

    _, error = await failure(client_of(await stub(handler)))
    assert (type(error), error.cause) == (OutcomeUnknown, "connection_lost")


async def test_an_answer_counts_when_the_connection_is_lost_after_its_end(stub: Stub, client_of: Clients) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        return await cut(request, WHOLE)

    assert (await send(client_of(await stub(handler))))[1] == ANSWER


async def test_a_stream_that_stays_open_after_its_end(
    stub: Stub, client_of: Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turn_requests, "_CLOSING_SECONDS", 0.05)
    over = asyncio.Event()

    async def handler(request: web.Request) -> web.StreamResponse:
        response = await streaming(request, WHOLE)
        await over.wait()
        return response

    assert (await send(client_of(await stub(handler))))[1] == ANSWER
    over.set()


async def test_the_end_is_awaited_because_the_run_ends_after_the_last_event(stub: Stub, client_of: Clients) -> None:
    ended = False

    async def handler(request: web.Request) -> web.StreamResponse:
        nonlocal ended
        response = await streaming(request, WHOLE)
        for _ in range(20):
            await asyncio.sleep(0)
        ended = True
        return response

    await send(client_of(await stub(handler)))
    assert ended


async def test_the_time_limit_covers_the_whole_stream(stub: Stub, client_of: Clients) -> None:
    over = asyncio.Event()

    async def handler(request: web.Request) -> web.StreamResponse:
        response = await streaming(request, PING)
        while not over.is_set():
            await response.write(SAID[0])
            await asyncio.sleep(0.01)
        return response

    heard, error = await failure(client_of(await stub(handler)), timeout=0.1)
    assert (type(error), error.cause) == (OutcomeUnknown, "timeout")
    pieces = len(heard.pieces)
    over.set()
    await asyncio.sleep(0)
    assert len(heard.pieces) == pieces


async def test_a_flood_is_cut_off(stub: Stub, client_of: Clients, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turn_requests, "ServerSentEvents", lambda: ServerSentEvents(longest_stream=100_000))
    assert LONGEST_STREAM >= 2**20

    async def handler(request: web.Request) -> web.StreamResponse:
        response = await streaming(request, PING)
        try:
            while True:
                await response.write(SAID[0])
        except OSError:
            return response

    _, error = await failure(client_of(await stub(handler)), timeout=30)
    assert (type(error), error.cause) == (OutcomeUnknown, "connection_lost")
    assert "max_tokens" in str(error)


async def test_a_stream_ends_its_connection(stub: Stub, client_of: Clients) -> None:
    """A second copy of a stream, or what a cancelled one still sends, never meets another request."""
    connections: list[object] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        connections.append(request.transport)
        if not (await request.json()).get("streaming"):
            return web.json_response(
                {"messages": [{"message_type": "assistant_message", "content": f"{len(connections)}"}]}
            )
        return await streaming(request, WHOLE)

    client = client_of(await stub(handler))
    for _ in range(2):
        await send(client)
    answers = [(await client.send(AGENT, ASKED, timeout=5)).text for _ in range(2)]
    assert answers == ["3", "4"]
    first, second, third, fourth = connections
    assert len({id(first), id(second), id(third)}) == 3
    assert fourth is third


async def test_a_cancelled_stream_over_http(stub: Stub, client_of: Clients) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        return await streaming(request, PING, SAID[0], event("stop_reason", stop_reason="cancelled"))

    heard, error = await failure(client_of(await stub(handler)))
    assert type(error) is TurnCancelled
    assert heard.messages == ["Hello, "]


@pytest.mark.parametrize("stored", [True, False])
async def test_the_text_is_read_from_the_history_where_the_stream_had_none(
    stub: Stub, client_of: Clients, stored: bool
) -> None:
    """Letta's streams of older agent types lack what the agent says by calling send_message."""

    async def handler(request: web.Request) -> web.StreamResponse:
        if request.method == "POST":
            return await streaming(request, PING, STOP, USAGE, DONE)
        if request.path.startswith("/v1/runs"):
            return web.json_response([])
        if "before" in request.query:
            return web.json_response([])
        asked = {"id": "m1", "message_type": "user_message", "otid": OTID, "run_id": "run-1", "content": "hello"}
        said = {"id": "m2", "message_type": "assistant_message", "otid": "o", "run_id": "run-1", "content": "Yes."}
        return web.json_response([asked, said] if stored else [asked])

    heard, answer = await send(client_of(await stub(handler)))
    assert (answer.text, heard.messages) == (("Yes.", ["Yes."]) if stored else ("", []))
    assert answer.usage == ANSWER.usage


async def test_a_text_that_cannot_be_looked_for_is_in_doubt(stub: Stub, client_of: Clients) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        if request.method == "POST":
            return await streaming(request, PING, STOP, USAGE, DONE)
        return web.json_response({"detail": "no"}, status=500)

    _, error = await failure(client_of(await stub(handler)))
    assert (type(error), error.cause) == (OutcomeUnknown, "server_error")
