"""A TCP proxy with faults, for tests: put it in front of Letta, Redis or PostgreSQL.

::

    with TcpProxy("http://127.0.0.1:8283") as proxy:
        client = Client(proxy.url)
        proxy.blackhole()       # connections stay open and nothing moves, as when a cable is pulled
        proxy.resume()          # the cable is back: what was held is delivered

Faults apply to connections that exist and to later ones, until `resume`. Each connection has two threads, one a
direction; all state is behind one lock.
"""

from __future__ import annotations

import select
import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit, urlunsplit

from local_stack.ports import HOST

_CHUNK_BYTES = 65_536
_END_POLL_SECONDS = 0.05  # seconds between two looks at whether to end
_LINGER_RESET = struct.pack("ii", 1, 0)  # as SO_LINGER: closing sends RST


@dataclass(frozen=True)
class _Faults:
    held: bool = False
    answers_dropped: bool = False
    delay_to_server: float = 0.0
    delay_to_client: float = 0.0
    left_to_server: int | None = None  # bytes until every connection is cut
    left_to_client: int | None = None


class _Pair:
    """The two ends of a connection. Their threads close them, so that no descriptor is closed during a read."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.client = client
        self.server = server
        self.over = False
        self.pumps = 2

    def end(self) -> None:
        """Let both threads end, and reset both sockets afterwards."""
        if not self.over:
            self.over = True
            for end in (self.client, self.server):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_RESET)
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RD)  # wakes its reader and sends nothing

    def close(self) -> None:
        self.client.close()
        self.server.close()


class TcpProxy:
    """Forwards bytes between clients and `target`, and misbehaves on demand. Serves from the start.

    Args:
        target: `host:port`, or a URL with both; then `url` is that URL with the proxy's address.

    Attributes:
        port: where it listens, on 127.0.0.1; the same for its whole life.
        accepted: connections taken so far.
        to_server, to_client: bytes forwarded so far.
    """

    def __init__(self, target: str) -> None:
        parts = urlsplit(target if "://" in target else f"tcp://{target}")
        if not parts.hostname or not parts.port:
            raise ValueError(
                f"{target!r} does not name the host and port to forward to; write host:port or a URL with both."
            )
        self._target = (parts.hostname, parts.port)
        self._changed = threading.Condition(threading.RLock())
        self._faults = _Faults()
        self._pairs: set[_Pair] = set()
        self._threads: set[threading.Thread] = set()
        self._listener: socket.socket | None = None
        self.accepted = 0
        self.to_server = 0
        self.to_client = 0
        self.port = 0
        self._listen()
        credentials, at, _ = parts.netloc.rpartition("@")
        self.url = urlunsplit(parts._replace(netloc=f"{credentials}{at}{HOST}:{self.port}"))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def connections(self) -> int:
        """Number of open connections."""
        with self._changed:
            return len(self._pairs)

    def cut(self) -> None:
        """Reset all open connections; new ones are accepted."""
        with self._changed:
            doomed = self._end_all()
            self._changed.wait_for(lambda: not doomed & self._pairs)

    def refuse(self) -> None:
        """Reset all connections and refuse new ones, as if the server were down."""
        self._stop_listening()
        self.cut()

    def blackhole(self) -> None:
        """Accept connections but forward no bytes; held bytes are delivered after `resume`."""
        self._set(replace(self._faults, held=True))

    def drop_answers(self) -> None:
        """Forward requests and drop answers; `resume` resets the connections, because their streams are incomplete."""
        self._set(replace(self._faults, answers_dropped=True))

    def delay(self, *, to_server: float = 0.0, to_client: float = 0.0) -> None:
        """Delay all further bytes by this many seconds."""
        self._set(replace(self._faults, delay_to_server=to_server, delay_to_client=to_client))

    def cut_after(self, *, to_server: int | None = None, to_client: int | None = None) -> None:
        """Forward this many further bytes in a direction, then reset all connections, once."""
        self._set(replace(self._faults, left_to_server=to_server, left_to_client=to_client))

    def resume(self) -> None:
        """End all faults."""
        if self._faults.answers_dropped:
            self.cut()
        self._set(_Faults())
        if self._listener is None:
            self._listen()

    def wait_for(self, condition: Callable[[TcpProxy], bool], timeout: float = 10.0) -> None:
        """Blocks until `condition(self)`, asked after everything that happens here.

        Raises:
            TimeoutError: it did not come true within `timeout` seconds.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: condition(self), timeout):
                raise TimeoutError(f"The proxy did not see the expected traffic within {timeout:g} s.")

    def close(self) -> None:
        """Ends everything; returns when its last thread has ended."""
        self._stop_listening()
        with self._changed:
            self._end_all()
            threads = list(self._threads)
        for thread in threads:
            thread.join()

    def _set(self, faults: _Faults) -> None:
        with self._changed:
            self._faults = faults
            self._changed.notify_all()

    def _end_all(self) -> set[_Pair]:
        doomed = set(self._pairs)
        for pair in doomed:
            pair.end()
        self._changed.notify_all()
        return doomed

    def _listen(self) -> None:
        listener = socket.create_server((HOST, self.port), backlog=512)
        listener.settimeout(_END_POLL_SECONDS)
        self.port = listener.getsockname()[1]
        self._listener = listener
        self._spawn(self._accept, listener)

    def _stop_listening(self) -> None:
        with self._changed:
            listener, self._listener = self._listener, None
            self._changed.wait_for(lambda: listener is None or listener.fileno() == -1)

    def _accept(self, listener: socket.socket) -> None:
        while self._listener is listener:
            with suppress(TimeoutError):
                client, _ = listener.accept()
                self._spawn(self._connect, client)
        with self._changed:
            listener.close()
            self._changed.notify_all()

    def _connect(self, client: socket.socket) -> None:
        client.settimeout(None)
        try:
            server = socket.create_connection(self._target)
        except OSError:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_RESET)
            client.close()
            return
        pair = _Pair(client, server)
        with self._changed:
            self.accepted += 1
            self._pairs.add(pair)
            if self._listener is None:
                pair.end()
            self._changed.notify_all()
        self._spawn(self._pump, pair, client, server)
        self._pump(pair, server, client)

    def _pump(self, pair: _Pair, source: socket.socket, sink: socket.socket) -> None:
        upwards = sink is pair.server
        try:
            while chunk := source.recv(_CHUNK_BYTES):
                self._deliver(pair, chunk, upwards=upwards)
            with self._changed:
                self._changed.wait_for(lambda: pair.over or not self._faults.held)
            if not pair.over:
                sink.shutdown(socket.SHUT_WR)
        except OSError:
            with self._changed:
                pair.end()
        finally:
            with self._changed:
                pair.pumps -= 1
                if pair.pumps == 0:
                    pair.close()
                    self._pairs.discard(pair)
                self._changed.notify_all()

    def _deliver(self, pair: _Pair, chunk: bytes, *, upwards: bool) -> None:
        last = False
        with self._changed:
            delay = self._faults.delay_to_server if upwards else self._faults.delay_to_client
            self._changed.wait_for(lambda: pair.over, timeout=delay)
            self._changed.wait_for(lambda: pair.over or not self._faults.held)
            if self._faults.answers_dropped and not upwards:
                return
            left = self._faults.left_to_server if upwards else self._faults.left_to_client
            if left is not None:
                last = left <= len(chunk)
                chunk = chunk[:left]
                rest = None if last else left - len(chunk)
                if upwards:
                    self._faults = replace(self._faults, left_to_server=rest)
                else:
                    self._faults = replace(self._faults, left_to_client=rest)
        _send(pair, chunk, pair.server if upwards else pair.client)
        with self._changed:
            if upwards:
                self.to_server += len(chunk)
            else:
                self.to_client += len(chunk)
            if last:
                self._end_all()
            self._changed.notify_all()

    def _spawn(self, work: Callable[..., None], *arguments: object) -> None:
        def run() -> None:
            try:
                work(*arguments)
            finally:
                with self._changed:
                    self._threads.discard(threading.current_thread())

        thread = threading.Thread(target=run, name=f"proxy-{self.port}", daemon=True)
        with self._changed:
            self._threads.add(thread)
        thread.start()


def _send(pair: _Pair, chunk: bytes, sink: socket.socket) -> None:
    rest = memoryview(chunk)
    while rest and not pair.over:
        _, writable, _ = select.select([], [sink], [], _END_POLL_SECONDS)
        if writable:
            with suppress(BlockingIOError):
                rest = rest[sink.send(rest, socket.MSG_DONTWAIT) :]
