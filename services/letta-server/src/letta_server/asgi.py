"""Types of ASGI, and an answer that refuses a request before Letta's application sees it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_POLICY_VIOLATION: Final = 1008


async def refuse(scope: Scope, send: Send, *, status: int, body: bytes) -> None:
    """Answer with this status and JSON body; close a WebSocket instead."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": _POLICY_VIOLATION})
        return
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    # A response to HEAD has the headers of its body and no body.
    await send({"type": "http.response.body", "body": b"" if scope.get("method") == "HEAD" else body})
