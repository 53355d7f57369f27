"""A worker: serves the connections that the parent gives it."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Callable
from typing import Any, Final

from letta_server.asgi import App, Receive, Scope, Send
from letta_server.workers.channel import Channel, ChannelClosed

_ALIVE_SECONDS: Final = 1.0
_WORKER, _WORKERS = b"letta-server-worker", b"letta-server-workers"
_PROBES: Final = ("/v1/health", "/v1/ready")


class Worker:
    """The worker's side of its channel, on the event loop of its server.

    Args:
        channel: to the parent.
        end_runs: told the ids of runs that another worker left behind.
        ready: called before the first connection comes.
    """

    def __init__(self, channel: Channel, end_runs: Callable[[str], None], *, ready: Callable[[], None]) -> None:
        self._channel = channel
        self._ready = ready
        self._end_runs = end_runs
        self._server: Any = None
        self._connecting: set[asyncio.Task[None]] = set()
        self.serving: tuple[int, int] = (0, 0)
        """How many workers serve, and how many there are to be, as the parent said last."""

    def attach(self, server: Any) -> None:
        """Tell the parent from now on that this event loop runs.

        Args:
            server: uvicorn's, before its start.
        """
        self._server = server
        self._beat()

    def begin(self) -> None:
        """The server has started: take connections."""
        self._ready()
        asyncio.get_running_loop().add_reader(self._channel.fileno(), self._read)
        self._channel.tell("ready")

    def end(self) -> None:
        """Take no more; the parent gives those that are on their way to another worker."""
        asyncio.get_running_loop().remove_reader(self._channel.fileno())

    @property
    def _connections(self) -> int:
        return len(self._server.server_state.connections) + len(self._connecting)

    def _beat(self) -> None:
        if not self._channel.is_stuck:
            self._channel.tell("alive", self._connections)
        else:
            self._channel.flush()
        asyncio.get_running_loop().call_later(_ALIVE_SECONDS, self._beat)

    def _read(self) -> None:
        try:
            for words, connection in self._channel.heard():
                match words:
                    case ["connection"]:
                        self._take(connection)
                    case ["serving", ready, all_]:
                        self.serving = int(ready), int(all_)
                    case ["end", run_id]:
                        self._end_runs(run_id)
                    case _:
                        raise AssertionError(f"the parent says {words[:1]}")
        except ChannelClosed:
            self.end()
            # The parent has ended: finish what was begun, and end, too.
            os.kill(os.getpid(), signal.SIGTERM)

    def _take(self, connection: socket.socket | None) -> None:
        if connection is None:  # this process has no file descriptor left for it
            return
        connection.setblocking(False)
        task = asyncio.get_running_loop().create_task(self._connect(connection))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)
        # Now, before anything is read from it: until then the parent may give it to another worker.
        self._channel.tell("taken", self._connections)

    async def _connect(self, connection: socket.socket) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(self._protocol, connection)
        except OSError:
            connection.close()

    def _protocol(self) -> asyncio.Protocol:
        """As uvicorn makes it for a connection that it accepted itself."""
        server = self._server
        protocol: asyncio.Protocol = server.config.http_protocol_class(
            config=server.config, server_state=server.server_state, app_state=server.lifespan.state
        )
        lost = protocol.connection_lost

        def count(exc: Exception | None) -> None:
            lost(exc)
            # At once: a client that closes its connections may open as many in the next moment.
            self._channel.tell("alive", self._connections)

        protocol.connection_lost = count  # type: ignore[method-assign]
        return protocol


class ProbeHeaders:
    """Says in the answers of the probes which worker answers, and how many serve.

    As in ``letta-server-worker: 2`` and ``letta-server-workers: 1/2``.
    """

    def __init__(self, app: App, number: int, serving: Callable[[], tuple[int, int]]) -> None:
        self._app = app
        self._number = number
        self._serving = serving

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].removesuffix("/") not in _PROBES:
            await self._app(scope, receive, send)
            return

        async def send_with_header(message: Any) -> None:
            if message["type"] == "http.response.start":
                ready, all_ = self._serving()
                ours = (_WORKER, str(self._number).encode()), (_WORKERS, f"{ready}/{all_}".encode())
                message = {**message, "headers": [*message.get("headers", ()), *ours]}
            await send(message)

        await self._app(scope, receive, send_with_header)
