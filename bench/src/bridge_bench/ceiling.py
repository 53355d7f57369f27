"""Measures the stub Letta itself, to show that it is not the bottleneck."""

from __future__ import annotations

import asyncio
import socket
import statistics
import time
from typing import IO, Final

from bridge_bench.harness import Stub
from bridge_bench.usage import cpu_seconds
from bridge_bench.worker_side.tasks import turn_body
from local_stack.ports import HOST

_MEASURED_SECONDS: Final = 2.0
_CONNECTION_COUNT: Final = 64
_SAMPLE_COUNT: Final = 30
_BODY: Final = turn_body({"content": "x" * 100, "task_id": "t-0"})
_REQUEST: Final = b"POST /v1/agents/x/messages HTTP/1.1\r\nContent-Length: %d\r\n\r\n%s" % (len(_BODY), _BODY)


def ceiling(stub: Stub) -> tuple[float, float]:
    """Turns per second of the stub, and its CPU seconds per 1 000 turns, measured by a client on bare sockets."""
    before = cpu_seconds(stub.pid or 0)
    began = time.monotonic()
    turns = asyncio.run(_asked(stub))
    seconds = time.monotonic() - began
    return turns / seconds, (cpu_seconds(stub.pid or 0) - before) * 1000 / turns


def own_time(stub: Stub) -> float:
    """Seconds of a turn over an idle kept connection."""
    with socket.create_connection((HOST, stub.port)) as connection, connection.makefile("rb") as answers:
        return statistics.median(_timed(connection, answers) for _ in range(_SAMPLE_COUNT))


def _timed(connection: socket.socket, answers: IO[bytes]) -> float:
    began = time.monotonic()
    connection.sendall(_REQUEST)
    length = 0
    while (line := answers.readline()) != b"\r\n":
        name, _, value = line.partition(b":")
        length = int(value) if name.lower() == b"content-length" else length
    answers.read(length)
    return time.monotonic() - began


async def _asked(stub: Stub) -> int:
    loop = asyncio.get_running_loop()
    until = loop.time() + _MEASURED_SECONDS
    opened = [await loop.create_connection(lambda: _Caller(until), HOST, stub.port) for _ in range(_CONNECTION_COUNT)]
    await asyncio.sleep(_MEASURED_SECONDS + 0.2)
    for transport, _ in opened:
        transport.close()
    return sum(caller.answers for _, caller in opened)


class _Caller(asyncio.Protocol):
    """A client that sends its next request as soon as it has an answer."""

    def __init__(self, until: float) -> None:
        self._until = until
        self._length = 0
        self.answers = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._ask()

    def data_received(self, data: bytes) -> None:
        # The first answer tells how long all of them are.
        if not self._length:
            head, _, _ = data.partition(b"\r\n\r\n")
            self._length = len(head) + 4 + int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
            self._missing = self._length
        self._missing -= len(data)
        if self._missing == 0:
            self.answers += 1
            self._missing = self._length
            if asyncio.get_running_loop().time() < self._until:
                self._ask()

    def _ask(self) -> None:
        self._transport.write(_REQUEST)  # type: ignore[attr-defined]  # a TCP connection's can
