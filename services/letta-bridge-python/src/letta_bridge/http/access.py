"""Access to /api: clients with the token; without a token, programs on this host."""

from __future__ import annotations

import ipaddress
import math
import secrets
from typing import Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from letta_bridge.http.answers import problem
from letta_bridge.http.attempts import Attempts
from letta_bridge.settings import HttpSettings
from shared_utils.errors import SettingsError

_PROTECTED_PREFIX: Final = "/api"
_SHORTEST_TOKEN: Final = 16
"""Characters of a token that others can try to guess."""
_PROXY_HEADERS: Final = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via")
"""Headers that a proxy adds to forwarded requests."""


def require_token(settings: HttpSettings) -> None:
    """Return if the API may be served with this configuration.

    Raises:
        SettingsError: other hosts can reach it, and the token is missing, too short, or cannot be sent.
    """
    token = None if settings.api_token is None else settings.api_token.get_secret_value()
    if token is not None and (not token or any(char.isspace() or not char.isprintable() for char in token)):
        raise SettingsError(
            "BRIDGE_API_TOKEN is empty, or contains a space or a character that is not allowed in a header; create "
            "one with 'openssl rand -hex 32'"
        )
    if _is_loopback(settings.host):
        return
    if token is None:
        raise SettingsError(
            f"the HTTP port is bound to {settings.host or 'every address'}, where other hosts can reach the API; set "
            "BRIDGE_API_TOKEN (or BRIDGE_API_TOKEN_FILE), or bind it to 127.0.0.1 with BRIDGE_HTTP_HOST"
        )
    if len(token) < _SHORTEST_TOKEN:
        raise SettingsError(
            f"BRIDGE_API_TOKEN has {len(token)} characters and could be guessed; use {_SHORTEST_TOKEN} or more "
            "('openssl rand -hex 32' creates one)"
        )


class Guard:
    """Passes a request to /api on, or refuses it. It reads only headers, never the body of a refused request."""

    def __init__(self, app: ASGIApp, *, settings: HttpSettings) -> None:
        self._app = app
        token = settings.api_token
        self._token = None if token is None else token.get_secret_value().encode()
        self._attempts = Attempts()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        path = scope.get("path", "")
        if scope["type"] == "http" and (path == _PROTECTED_PREFIX or path.startswith(f"{_PROTECTED_PREFIX}/")):
            headers = Headers(scope=scope)
            refusal = _stranger(headers) if self._token is None else self._refusal(scope, headers, self._token)
            if refusal is not None:
                await refusal(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _refusal(self, scope: Scope, headers: Headers, token: bytes) -> Response | None:
        address = (scope.get("client") or ("",))[0]
        if seconds := self._attempts.locked_for(address):
            sentence = "too many wrong tokens from this address; wait a minute, then send the right one"
            return problem(429, "too_many_attempts", sentence, {"Retry-After": str(math.ceil(seconds))})
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and secrets.compare_digest(given.strip().encode("latin-1"), token):
            self._attempts.right(address)
            return None
        if given:
            self._attempts.wrong(address)
        sentence = "send the header 'Authorization: Bearer TOKEN' with the bridge's BRIDGE_API_TOKEN"
        return problem(401, "unauthorized", sentence, {"WWW-Authenticate": "Bearer"})


def _stranger(headers: Headers) -> Response | None:
    """Without a token: refuse requests that a foreign web page may have triggered, or that a proxy forwards."""
    host = _host(f"//{headers.get('host', '')}")
    of_foreign_page = "origin" in headers and not _is_loopback(_host(headers["origin"]))
    if not _is_loopback(host) or of_foreign_page or any(name in headers for name in _PROXY_HEADERS):
        return problem(403, "forbidden", "without BRIDGE_API_TOKEN the API accepts only requests from this machine")
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
