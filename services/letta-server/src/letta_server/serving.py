"""uvicorn with Letta's application, until a signal ends it."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any, Final, NoReturn, Protocol

from letta_server import turns

SHUTDOWN_MARGIN: Final = 5.0
"""Seconds Letta gets to close its own things after the last request ended."""


class Observer(Protocol):
    """Told what becomes of a server, on its event loop."""

    def attach(self, server: Any) -> None:
        """Its start begins."""

    def begin(self) -> None:
        """It serves."""

    def end(self) -> None:
        """It is about to end."""


def serve(app: Any, grace: float, observer: Observer, *, listeners: Sequence[socket.socket]) -> bool:
    """Serve until SIGTERM or SIGINT, and let requests in flight finish.

    Args:
        app: Letta's application.
        grace: seconds for them.
        observer: what else happens at the beginning and at the end.
        listeners: bound sockets; none where connections come in another way.

    Returns:
        Whether it has served at all.
    """
    import uvicorn  # noqa: PLC0415 - imported with Letta

    class UvicornServer(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            observer.attach(self)
            await super().startup(sockets)
            if self.started:
                await _connect_to_redis()
                observer.begin()

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            observer.end()
            await super().shutdown(sockets)
            await turns.close()

        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            if not self.started:
                leave_at_once(sig, frame)
            # Letta waits for threads without a limit, and a thread may be waiting for a model.
            last_resort = threading.Timer(grace + SHUTDOWN_MARGIN, os._exit, (0,))
            last_resort.daemon = True
            last_resort.start()
            super().handle_exit(sig, frame)

    config = uvicorn.Config(
        app,
        # On asyncio's own loop, Letta's unclosed model clients break new database connections for 60 s at a time.
        loop="uvloop",
        http="httptools",
        ws="none",
        log_config=None,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=max(1, round(grace)),
    )
    server = UvicornServer(config)
    handle_signals(_leave)  # uvicorn hands a signal on after its graceful end
    server.run(sockets=list(listeners))
    return server.started


async def _connect_to_redis() -> None:
    """Letta looks for its Redis once in its life, and runs without locks if it is away then: now it is there."""
    from letta.data_sources.redis_client import get_redis_client  # noqa: PLC0415

    await get_redis_client()


def handle_signals(handler: Callable[[int, FrameType | None], NoReturn]) -> None:
    """Have SIGTERM and SIGINT handled like that."""
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, handler)


def _leave(_signal: int, _frame: FrameType | None) -> NoReturn:
    sys.exit(0)


def leave_at_once(_signal: int, _frame: FrameType | None) -> NoReturn:
    """End this process, whatever it does."""
    os._exit(0)
