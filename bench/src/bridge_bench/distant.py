"""A model that is far away: a proxy that delays what passes, on the loopback address."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final
from urllib.parse import urlsplit

from local_stack.ports import HOST

_APART_SECONDS: Final = 1e-5


@contextmanager
def distant(url: str, round_trip: float) -> Iterator[str]:
    """The base URL of a proxy to ``url``; a round trip over it, opening a connection included, takes that many seconds.

    TLS would take one or two round trips more for each connection.
    """
    target = urlsplit(url)
    started = threading.Event()
    loop = asyncio.new_event_loop()
    proxy = _Proxy(str(target.hostname), target.port or 80, round_trip)
    thread = threading.Thread(target=_serve, args=(loop, proxy, started), daemon=True)
    thread.start()
    started.wait()
    try:
        yield target._replace(netloc=f"{HOST}:{proxy.port}").geturl()
    finally:
        loop.call_soon_threadsafe(proxy.closed.set)
        thread.join()


def _serve(loop: asyncio.AbstractEventLoop, proxy: _Proxy, started: threading.Event) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_until_complete(proxy.serve(started))
    finally:
        loop.close()


class _Proxy:
    def __init__(self, host: str, port: int, round_trip: float) -> None:
        self._target = host, port
        self._round_trip = round_trip
        self._passing: set[asyncio.Task[None]] = set()
        self._sinks: set[asyncio.StreamWriter] = set()
        self.closed = asyncio.Event()
        self.port = 0

    async def serve(self, started: threading.Event) -> None:
        server = await asyncio.start_server(self._connect, HOST, 0)
        self.port = server.sockets[0].getsockname()[1]
        started.set()
        await self.closed.wait()
        server.close()
        for task in self._passing:
            task.cancel()
        await asyncio.gather(*self._passing, return_exceptions=True)
        for sink in self._sinks:
            sink.transport.abort()
        await asyncio.sleep(0)  # in which they close

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(*self._target)
        # A client sends nothing before its connection is open.
        opened = asyncio.get_running_loop().time() + self._round_trip
        for source, sink in ((reader, back), (there, writer)):
            self._sinks.add(sink)
            task = asyncio.create_task(self._pass(source, sink, opened))
            self._passing.add(task)
            task.add_done_callback(self._passing.discard)

    async def _pass(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, opened: float) -> None:
        """Each piece arrives half a round trip after it was sent, in order, however many are on the way."""
        loop = asyncio.get_running_loop()
        due = 0.0
        while piece := await source.read(65536):
            # Timers of the same moment have no order.
            due = max(max(loop.time(), opened) + self._round_trip / 2, due + _APART_SECONDS)
            loop.call_at(due, sink.write, piece)
        loop.call_at(max(loop.time(), due) + self._round_trip / 2, sink.close)
