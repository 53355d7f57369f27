from __future__ import annotations

from typing import Any

import pytest

from letta_server.password import PasswordMiddleware


async def status(path: str = "/v1/agents/", headers: Any = (), kind: str = "http") -> int:
    """What a guarded server answers: 200 from behind the guard, else the guard's own."""
    sent: list[dict[str, int]] = []

    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200})

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        raise AssertionError

    scope = {"type": kind, "path": path, "headers": list(headers)}
    await PasswordMiddleware(app, "open sesame")(scope, receive, send)
    return sent[0].get("status") or sent[0]["code"]


@pytest.mark.parametrize(
    "header", [(b"authorization", b"Bearer open sesame"), (b"x-bare-password", b"password open sesame")]
)
async def test_either_password_header_is_accepted(header: tuple[bytes, bytes]) -> None:
    assert await status(headers=[(b"accept", b"*/*"), header]) == 200


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [(b"authorization", b"Bearer wrong")],
        [(b"authorization", b"Bearer ")],
        [(b"authorization", b"password open sesame")],
        [(b"x-bare-password", b"open sesame")],
    ],
)
async def test_anything_else_is_401(headers: Any) -> None:
    assert await status(headers=headers) == 401


@pytest.mark.parametrize("path", ["/v1/health", "/v1/health/", "/v1/ready/", "/latest/health/"])
async def test_probes_need_no_password(path: str) -> None:
    assert await status(path) == 200


@pytest.mark.parametrize("path", ["/v1/health/x", "/v1/agents", "//v1/health", "/v1/healthy"])
async def test_paths_similar_to_probes_need_the_password(path: str) -> None:
    assert await status(path) == 401


async def test_a_websocket_is_guarded_and_the_lifespan_is_not() -> None:
    assert await status(kind="websocket") == 1008
    assert await status(kind="lifespan") == 200
