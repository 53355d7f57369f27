"""Lets a request pass that carries the server's password.

Letta has such a middleware, but switching it on makes Letta print the password; so this one is used, with the same
headers and the same open paths.
"""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_OPEN: Final = {f"/{version}/{probe}" for version in ("v1", "latest") for probe in ("health", "ready")}
_REFUSAL: Final = b'{"detail":"Unauthorized"}'


class PasswordMiddleware:
    def __init__(self, app: App, password: str) -> None:
        self._app = app
        self._accepted = {
            b"authorization": f"Bearer {password}".encode(),
            b"x-bare-password": f"password {password}".encode(),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or self._allowed(scope):
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            headers = [(b"content-type", b"application/json"), (b"content-length", str(len(_REFUSAL)).encode())]
            await send({"type": "http.response.start", "status": 401, "headers": headers})
            await send({"type": "http.response.body", "body": _REFUSAL})

    def _allowed(self, scope: Scope) -> bool:
        if scope["path"].removesuffix("/") in _OPEN:
            return True
        return any(
            hmac.compare_digest(value, self._accepted[name])
            for name, value in scope["headers"]
            if name in self._accepted
        )
