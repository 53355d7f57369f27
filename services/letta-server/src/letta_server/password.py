"""Lets a request pass that carries the server's password.

Letta has such a middleware, but switching it on makes Letta print the password; so this one is used, with the same
headers and the same open paths.
"""

from __future__ import annotations

import hmac
from typing import Final

from letta_server.asgi import App, Receive, Scope, Send, refuse

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
        else:
            await refuse(scope, send, status=401, body=_REFUSAL)

    def _allowed(self, scope: Scope) -> bool:
        if scope["path"].removesuffix("/") in _OPEN:
            return True
        return any(
            hmac.compare_digest(value, self._accepted[name])
            for name, value in scope["headers"]
            if name in self._accepted
        )
