"""The uvicorn side: connections the application can cut and tell apart, and a server that says when it is ready."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any, cast

import uvicorn
from uvicorn._types import ASGI3Application, ASGIReceiveCallable, ASGISendCallable, Scope
from uvicorn.protocols.http.h11_impl import H11Protocol

CUT = "scripted_model.cut"
"""Key of the request scope that holds a function closing the client's connection at once."""
CONNECTION = "scripted_model.connection"
"""Key of the request scope that holds an object, the same one for all requests of a connection."""


class _CuttableProtocol(H11Protocol):
    """Puts into every request's scope what ASGI lacks: a way to close the connection, and its identity."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        application: ASGI3Application = self.app

        async def cuttable(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
            cast("dict[str, Any]", scope).update({CUT: self.transport.abort, CONNECTION: self})
            await application(scope, receive, send)

        self.app = cuttable


class _AnnouncingServer(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, announce: Callable[[str], None]) -> None:
        super().__init__(config)
        self._announce = announce

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        for listener in self.servers:
            host, port = listener.sockets[0].getsockname()[:2]
            self._announce(f"http://{host}:{port}/v1")
            return


def server(application: Any, host: str, port: int, announce: Callable[[str], None]) -> uvicorn.Server:
    """A server of ``application``; port 0 picks a free one. ``announce`` gets its base URL once it listens."""
    config = uvicorn.Config(
        application,
        host=host,
        port=port,
        http=_CuttableProtocol,
        ws="none",
        lifespan="off",
        log_level="warning",
        timeout_graceful_shutdown=1,
    )
    return _AnnouncingServer(config, announce)
