"""Keeps connections to models open between calls.

For each call, and for each request of embeddings, Letta makes an ``AsyncOpenAI``: a TLS context (some 30 ms of CPU),
a pool, and a connection (two or three round trips) that nothing uses again. Here all of them share one pool. Keys,
addresses and headers stay those of the call, so a changed key counts from the next call on; a connection carries calls
with different keys to the same address. Attempts are counted as before: if the endpoint has closed a connection just
when a call was sent on it, the call fails as on a new connection that breaks, and the SDK repeats it.

A kept connection has two faults that a new one cannot have. The network may have forgotten it, so that a call on it
gets no acknowledgement: ``lost_peers`` has TCP give up after seconds, and the SDK repeats the call. And an endpoint may
have sent more than one answer to a call: see ``surplus``, and ``model_transport`` for connections without a proxy.

The pool is aiohttp's, because with httpx's own a call costs more CPU the more calls are in flight; see
``model_transport``. Calls through a proxy of the environment keep httpx's.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, Final

import httpx

from letta_server import lost_peers
from letta_server.replacement import require
from letta_server.turns import surplus
from letta_server.turns.model_transport import IDLE_SECONDS, ModelHttpClient
from letta_server.turns.request_bodies import send_as_they_are

_MAX_IDLE_CONNECTIONS: Final = 100
"""Through a proxy; without one, as many as were in use within ``IDLE_SECONDS``."""
_REST_SECONDS: Final = 0.25
"""What an event stream may take to end after its last event."""
_LAST_EVENT: Final = b"data: [DONE]"
_CALLERS: Final = ("request_async", "stream_async", "stream_async_responses", "request_embeddings")


class Connections:
    """One pool of connections, which belongs to the event loop that asks first: the server's."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._http: httpx.AsyncClient | None = None

    def client(self, **options: Any) -> Any:
        """An ``AsyncOpenAI`` on the shared pool; on another event loop one with a pool of its own, as Letta makes."""
        from openai import AsyncOpenAI  # noqa: PLC0415 - not in the workspace's environment

        loop = asyncio.get_running_loop()
        if self._http is None:
            self._loop, self._http = loop, _http_client()
        return send_as_they_are(AsyncOpenAI(**options, http_client=self._http if self._loop is loop else None))

    async def close(self) -> None:
        """Close all connections. A later call opens a new pool."""
        http, self._http = self._http, None
        if http is not None:
            await http.aclose()


_connections: Final = Connections()


def install() -> None:
    """Let Letta's OpenAI client share connections. Imports parts of Letta.

    Raises:
        LettaServerError: a function that makes a client is not the one this was written for: it might close it.
    """
    surplus.install()
    require(*(f"letta.llm_api.openai_client:OpenAIClient.{name}" for name in _CALLERS))
    from letta.llm_api import openai_client  # noqa: PLC0415 - not in the workspace's environment

    openai_client.AsyncOpenAI = _connections.client


async def close() -> None:
    """Close the connections that are kept."""
    await _connections.close()


def _http_client() -> httpx.AsyncClient:
    return ModelHttpClient(
        follow_redirects=True,  # as the SDK's own client
        # Through a proxy. No limit to the connections in use: a slow endpoint must not keep calls from another one.
        limits=httpx.Limits(max_keepalive_connections=_MAX_IDLE_CONNECTIONS, keepalive_expiry=IDLE_SECONDS),
        # Cookies would tie together calls with different keys.
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
        event_hooks={"request": [_watch_connecting], "response": [_read_to_the_end]},
    )


async def _watch_connecting(request: httpx.Request) -> None:
    # For httpx's own connections to a proxy.
    request.extensions["trace"] = _notice_lost_peers


async def _notice_lost_peers(event: str, details: Mapping[str, Any]) -> None:
    if event == "connection.connect_tcp.complete":
        lost_peers.notice(details["return_value"].get_extra_info("socket"))


async def _read_to_the_end(response: httpx.Response) -> None:
    if response.headers.get("content-type", "").startswith("text/event-stream"):
        response.stream = _EventStream(response.stream)


class _EventStream(httpx.AsyncByteStream):
    """Reads the end of a stream whose last event has come, because only then its connection can be used again.

    The SDK closes a stream at its last event, and the end of the response comes after that.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._parts = aiter(stream)
        self._tail = b""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for part in self._parts:
            self._tail = (self._tail + part)[-2 * len(_LAST_EVENT) :]
            yield part

    async def aclose(self) -> None:
        try:
            if _LAST_EVENT in self._tail:
                with contextlib.suppress(TimeoutError, httpx.HTTPError):
                    async with asyncio.timeout(_REST_SECONDS):
                        async for _ in self._parts:
                            pass
        finally:  # a call may be cancelled while it waits for the end, and its connection would stay taken
            await self._stream.aclose()
