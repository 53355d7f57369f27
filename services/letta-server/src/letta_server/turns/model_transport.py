"""An HTTP client for models over aiohttp's pool of connections.

httpx's own pool goes through all its requests at each start and end of one, so a call costs more CPU the more calls are
in flight. Everything else remains httpx's: redirects, decompression, certificates (``SSL_CERT_FILE``), and the proxies
of the environment, whose connections httpx makes itself. Errors have the class that httpx gives them, because the SDK
and Letta tell a time-out from a lost connection by it.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from typing import Any, Final

import aiohttp
import httpx
from aiohttp.http import HttpProcessingError
from httpx_aiohttp import AiohttpTransport

from letta_server import lost_peers

IDLE_SECONDS: Final = 50.0
"""After which an idle connection is closed: before load balancers and firewalls forget it, most at 60 s or later."""
_HEAD_LINE_BYTES: Final = 100 * 1024
"""Longest line of a response's head; httpx's limit for the head."""
_ERRORS: Final = (
    (aiohttp.ClientConnectorError, httpx.ConnectError),
    (aiohttp.ServerDisconnectedError, httpx.RemoteProtocolError),
    (aiohttp.ClientConnectionError, httpx.ReadError),
    (aiohttp.ClientError, httpx.RemoteProtocolError),
    (HttpProcessingError, httpx.RemoteProtocolError),
)
"""aiohttp's error → httpx's; the first that fits."""


class ModelHttpClient(httpx.AsyncClient):
    """An ``httpx.AsyncClient`` over :class:`ModelTransport`, except through a proxy."""

    def _init_transport(self, *_: Any, **options: Any) -> httpx.AsyncBaseTransport:
        # A transport given to the constructor would switch off the proxies of the environment.
        return ModelTransport(verify=options["verify"], cert=options["cert"], trust_env=options["trust_env"])


class ModelTransport(AiohttpTransport):
    """Connections of one event loop, made as needed; ``aclose`` closes them."""

    def get_client(self) -> aiohttp.ClientSession:
        """The session of this transport; called once, at the first request."""
        self.ssl_context.set_alpn_protocols(["http/1.1"])
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=0,  # a slow endpoint must not keep calls from another one
                keepalive_timeout=IDLE_SECONDS,
                ssl=self.ssl_context,
                socket_factory=_socket,
            ),
            cookie_jar=aiohttp.DummyCookieJar(),  # cookies would tie together calls with different keys
            request_class=_CleanRequest,
            response_class=_EndingResponse,
            max_line_size=_HEAD_LINE_BYTES,
            max_field_size=_HEAD_LINE_BYTES,
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request and read the head of its response."""
        if request.url.userinfo:  # httpx has made a header of it, and aiohttp refuses both
            request.url = request.url.copy_with(userinfo=b"")
        while True:
            try:
                with _errors_of_httpx():
                    async with _time_to_answer(request.extensions.get("timeout", {})):
                        response = await super().handle_async_request(request)
            except httpx.ConnectTimeout as error:
                if not isinstance(error.__cause__, _StaleConnectionError):
                    raise
                continue  # on the next connection, at last on a new one
            response.stream = _Body(response.stream)
            return response


class _StaleConnectionError(aiohttp.ConnectionTimeoutError):
    """The request was not sent, and aiohttp closes the connection."""


class _CleanRequest(aiohttp.ClientRequest):
    """Does not use a connection on which more came than the answer to its last request.

    aiohttp would take that for the answer to this request, and it may be another user's.
    """

    async def send(self, conn: Any) -> aiohttp.ClientResponse:
        if conn.protocol is not None and conn.protocol.should_close:
            raise _StaleConnectionError
        return await super().send(conn)


class _EndingResponse(aiohttp.ClientResponse):
    """Ends with its connection, where aiohttp lets a reader wait for ever after a malformed chunk."""

    async def start(self, connection: Any) -> aiohttp.ClientResponse:
        closed = connection.protocol.closed
        if closed is None:
            return await super().start(connection)
        closed.remove_done_callback(_retrieve)  # of an earlier response on this connection
        closed.add_done_callback(_retrieve)
        await super().start(connection)
        content = self.content
        if content.is_eof():
            return self

        def end(_: object) -> None:
            if not content.is_eof() and content.exception() is None:
                content.set_exception(aiohttp.ClientPayloadError("The response is malformed or incomplete."))

        closed.add_done_callback(end)
        content.on_eof(lambda: closed.remove_done_callback(end))
        return self


def _retrieve(closed: asyncio.Future[None]) -> None:
    """Keep asyncio from logging the error of a connection that nothing waits for."""
    if not closed.cancelled():
        closed.exception()


class _Body(httpx.AsyncByteStream):
    """A response's body whose errors are httpx's."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with _errors_of_httpx():
            async for part in self._stream:
                yield part

    async def aclose(self) -> None:
        with _errors_of_httpx():
            await self._stream.aclose()


@contextlib.contextmanager
def _errors_of_httpx() -> Iterator[None]:
    try:
        yield
    except httpx.UnsupportedProtocol:
        raise
    except (httpx.TransportError, aiohttp.ClientError, HttpProcessingError) as error:
        cause = error.__cause__ if isinstance(error, httpx.TransportError) else error
        if isinstance(cause, TimeoutError):
            raise
        for kind, known in _ERRORS:
            if isinstance(cause, kind):
                raise known(str(cause) or type(cause).__name__) from cause
        raise


@contextlib.asynccontextmanager
async def _time_to_answer(limits: dict[str, float | None]) -> AsyncIterator[None]:
    """Bound the time until the head has come by all of a request's limits together.

    aiohttp limits neither the lookup of the address, nor the writing of a request that the other end does not read.
    """
    each = [limits.get(name) for name in ("pool", "connect", "write", "read")]
    known = [limit for limit in each if limit is not None]
    try:
        async with asyncio.timeout(sum(known) if len(known) == len(each) else None):
            yield
    except TimeoutError as error:
        raise httpx.WriteTimeout("The request was not read in time.") from error


def _socket(address: Any) -> socket.socket:
    family, kind, protocol, _, _ = address
    made = socket.socket(family, kind, protocol)
    lost_peers.notice(made)
    return made
