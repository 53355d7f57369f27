"""Watches the pool's connections: closes those with a silent peer, and reports why connecting failed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import socket
from collections.abc import Callable
from typing import Any

import psycopg
from psycopg import AsyncConnection

from shared_utils.persistence.database.connections import Connection


class ConnectionWatch:
    """Closes a connection whose peer is silent for too long; a cancel request would need the same peer."""

    def __init__(self, connection: AsyncConnection[Any], seconds: float) -> None:
        self.cut = False
        self._connection = connection
        self._timer = asyncio.get_running_loop().call_later(seconds, self._cut)

    def end(self) -> None:
        self._timer.cancel()

    def _cut(self) -> None:
        self.cut = True
        with (
            contextlib.suppress(OSError, psycopg.Error),
            socket.socket(fileno=os.dup(self._connection.fileno())) as end,
        ):
            end.shutdown(socket.SHUT_RDWR)


def silent(connection: AsyncConnection[Any]) -> bool:
    """Whether nothing arrived from the server since the last answer; ending a session or server sends a message.

    It needs no round trip, so it cannot detect a peer that vanished silently.
    """
    look = select.poll()
    look.register(connection.fileno(), select.POLLIN)
    return not look.poll(0)


def reporting(allowed: Callable[[], None], connected: Callable[[psycopg.Error | None], None]) -> type[Connection]:
    """A connection class that tells how each attempt to connect ended; the pool keeps that to itself.

    Args:
        allowed: asked before each attempt; raises what a further one would come to.
        connected: told the attempt's error, or None.
    """

    class ReportingConnection(Connection):
        @classmethod
        async def connect(cls, *args: Any, **kwargs: Any) -> Any:
            allowed()
            try:
                connection = await super().connect(*args, **kwargs)
            except psycopg.Error as error:
                connected(error)
                raise
            connected(None)
            return connection

    return ReportingConnection
