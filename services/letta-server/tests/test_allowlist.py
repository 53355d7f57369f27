from __future__ import annotations

import json
from typing import Any

import pytest

from letta_server.allowlist import OPERATIONS, AllowlistMiddleware, allowed

AGENT = "/v1/agents/agent-123e4567-e89b-42d3-a456-426614174000"
TURN = f"{AGENT}/messages"


def scope(method: str, path: str, **more: Any) -> dict[str, Any]:
    return {"type": "http", "method": method, "path": path, "headers": [], "root_path": "", **more}


async def answer(request: dict[str, Any]) -> list[dict[str, Any]]:
    """What a guarded application sends: three pieces of its own, or the allowlist's answer."""
    sent: list[dict[str, Any]] = []

    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200})
        for piece in (b"one", b"two"):
            await send({"type": "http.response.body", "body": piece, "more_body": True})

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        raise AssertionError

    await AllowlistMiddleware(app)(request, receive, send)
    return sent


def test_turns_are_allowed() -> None:
    assert allowed(scope("POST", TURN))
    assert allowed(scope("POST", f"{TURN}/"))


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/tools/run"),
        ("POST", "/v1/tools/run/"),
        ("POST", "/v1/tools/"),
        ("POST", "/latest/agents/agent-1/messages"),
        ("POST", "/v1/anthropic/v1/messages"),
        ("GET", "/v1/git/agent-1/info/refs"),
        ("GET", "/v1/agents/count"),
        ("GET", "/v1/runs/active"),
        ("GET", "/v1/blocks/count"),
        ("POST", "/v1/agents/messages/search"),
        ("POST", f"{TURN}/stream"),
        ("POST", f"{TURN}/capture"),
        ("POST", "/v1/conversations/conv-1/fork"),
        ("GET", "/openapi.json"),
        ("GET", "/docs"),
        ("GET", "/"),
        ("GET", ""),
    ],
)
def test_operations_that_are_not_listed_are_refused(method: str, path: str) -> None:
    assert not allowed(scope(method, path))


@pytest.mark.parametrize(
    "path",
    [
        "//v1/agents/",
        "/v1//agents/",
        "/v1/agents//",
        f"{AGENT}//messages",
        f"{TURN}//",
        f"{AGENT}/../../tools/run",
        "/v1/agents/../tools/run",
        f"{AGENT}/./messages",
        "/v1/agents/agent-1/..",  # as "/v1/agents/agent-1%2F.." arrives: decoded
        "/v1/agents/..",
        "/V1/agents/",
        f"{TURN}\n",
        f"{TURN}\x00/x",
        f"{TURN};x=1/y",
        f"{TURN}/run",
        "/prefix/v1/agents/",
        "v1/agents/",
    ],
    ids=ascii,
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_other_spellings_of_a_path_are_refused(method: str, path: str) -> None:
    assert not allowed(scope(method, path))


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "PUT", "TRACE", "CONNECT", "post", "DELETE", ""])
def test_other_methods_are_refused(method: str) -> None:
    assert not allowed(scope(method, TURN))


@pytest.mark.parametrize("name", [b"x-http-method-override", b"x-http-method", b"x-method-override"])
def test_method_override_header_changes_nothing(name: bytes) -> None:
    assert not allowed(scope("POST", "/v1/archives/archive-1", headers=[(name, b"DELETE")]))
    assert allowed(scope("POST", TURN, headers=[(name, b"PUT")]))


@pytest.mark.parametrize("name", [b"x-original-url", b"x-rewrite-url", b"x-forwarded-prefix"])
def test_header_with_another_path_changes_nothing(name: bytes) -> None:
    assert not allowed(scope("POST", "/v1/tools/run", headers=[(name, TURN.encode())]))


def test_root_path_is_refused_because_the_router_would_strip_it() -> None:
    assert not allowed(scope("POST", TURN, root_path="/v1"))
    assert not allowed(scope("POST", "/v1" + TURN, root_path="/v1"))


async def test_refusal_is_one_sentence_that_names_the_setting() -> None:
    start, body = await answer(scope("POST", "/v1/tools/run"))
    assert start["status"] == 403
    assert dict(start["headers"])[b"content-length"] == str(len(body["body"])).encode()
    detail = json.loads(body["body"])["detail"]
    assert "LETTA_SERVER_FULL_API=true" in detail
    assert detail.count(".") == detail.endswith(".") == 1


async def test_refusal_of_a_head_request_has_no_body() -> None:
    start, body = await answer(scope("HEAD", "/v1/health/"))
    assert (start["status"], body["body"]) == (403, b"")


async def test_answers_pass_piece_by_piece() -> None:
    _, *pieces = await answer(scope("POST", TURN))
    assert [piece["body"] for piece in pieces] == [b"one", b"two"]


async def test_a_websocket_is_refused_and_the_lifespan_is_not() -> None:
    assert (await answer(scope("GET", TURN) | {"type": "websocket"}))[0]["code"] == 1008
    assert (await answer({"type": "lifespan"}))[0]["status"] == 200


def test_no_operation_is_listed_twice() -> None:
    assert len(set(OPERATIONS)) == len(OPERATIONS)
