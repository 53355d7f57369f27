"""Who may use /api: whoever has the token; without one, programs of this machine."""

from __future__ import annotations

import ipaddress
import secrets
from typing import Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from letta_bridge.http.answers import problem
from letta_bridge.settings import HttpSettings
from shared_utils.errors import SettingsError

_GUARDED: Final = "/api"


def require_token(settings: HttpSettings) -> None:
    """Return where the API may be served like this.

    Raises:
        SettingsError: others could reach it, and there is no token.
    """
    if settings.api_token is None and not _is_loopback(settings.host):
        raise SettingsError(
            f"the HTTP port is bound to {settings.host or 'every address'}, where others can reach the API; set "
            "BRIDGE_API_TOKEN (or BRIDGE_API_TOKEN_FILE), or bind it to 127.0.0.1 with BRIDGE_HTTP_HOST"
        )


class Guard:
    """Lets a request to /api through, or answers it. It looks at headers alone: a stranger's body is never read."""

    def __init__(self, app: ASGIApp, *, settings: HttpSettings) -> None:
        self._app = app
        token = settings.api_token
        self._token = None if token is None else token.get_secret_value().encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        path = scope.get("path", "")
        if scope["type"] == "http" and (path == _GUARDED or path.startswith(f"{_GUARDED}/")):
            headers = Headers(scope=scope)
            refusal = _stranger(headers) if self._token is None else _wrong_token(headers, self._token)
            if refusal is not None:
                await refusal(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _wrong_token(headers: Headers, token: bytes) -> Response | None:
    scheme, _, given = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and secrets.compare_digest(given.strip().encode("latin-1"), token):
        return None
    sentence = "send the header 'Authorization: Bearer TOKEN' with the bridge's BRIDGE_API_TOKEN"
    return problem(401, "unauthorized", sentence, {"WWW-Authenticate": "Bearer"})


def _stranger(headers: Headers) -> Response | None:
    """Without a token: a browser could be made to ask for a foreign page, under a name that leads here."""
    host = _host(f"//{headers.get('host', '')}")
    if not _is_loopback(host) or ("origin" in headers and not _is_loopback(_host(headers["origin"]))):
        return problem(403, "forbidden", "without BRIDGE_API_TOKEN the API answers programs of this machine alone")
    return None


def _host(address: str) -> str:
    try:
        return urlsplit(address).hostname or ""
    except ValueError:
        return ""


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
