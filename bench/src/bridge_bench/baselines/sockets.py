"""The minimal cost of a worker in Python: sockets, a selector and the standard library's JSON.

It uses one connection to Redis and ``CONCURRENCY`` connections to Letta, and understands only the expected answers.
"""

from __future__ import annotations

import json
import selectors
import socket
from typing import Any, Final
from urllib.parse import urlsplit

from bridge_bench.worker_side.tasks import (
    CONCURRENCY,
    LETTA_URL,
    REDIS_URL,
    REQUESTS,
    RESPONSES,
    reply,
    turn_body,
    turn_path,
)

_LINE_END: Final = b"\r\n"
_READ_BYTES: Final = 1 << 16


def _connected(url: str) -> socket.socket:
    parts = urlsplit(url)
    connection = socket.create_connection((parts.hostname or "", parts.port or 0))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def _command(*words: bytes) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)


class _Redis:
    """One connection; answers are integers, or one list of strings."""

    def __init__(self) -> None:
        self.socket = _connected(REDIS_URL)
        self._file = self.socket.makefile("rb", buffering=_READ_BYTES)

    def publish_and_take(self, replies: list[bytes], room: int) -> list[bytes]:
        commands = [_command(b"PUBLISH", RESPONSES.encode(), one) for one in replies]
        take = [_command(b"RPOP", REQUESTS.encode(), b"%d" % room)] if room else []
        self.socket.sendall(b"".join(commands + take))
        for _ in commands:
            self._file.readline()
        return self._list() if take else []

    def ask_for_one(self) -> None:
        self.socket.sendall(_command(b"BRPOP", REQUESTS.encode(), b"0"))

    def one(self) -> bytes:
        return self._list()[1]  # behind the list's name

    def _list(self) -> list[bytes]:
        count = int(self._file.readline()[1:])
        items = []
        for _ in range(max(count, 0)):
            length = int(self._file.readline()[1:])
            items.append(self._file.read(length + 2)[:-2])
        return items


class _Letta:
    """One connection, one turn at a time."""

    def __init__(self) -> None:
        self.socket = _connected(LETTA_URL)
        self.task: Any = None
        self._buffer = b""

    def send(self, payload: bytes) -> None:
        self.task = json.loads(payload)
        body = turn_body(self.task)
        head = f"POST {turn_path(self.task)} HTTP/1.1\r\nHost: letta\r\nContent-Length: {len(body)}\r\n\r\n"
        self.socket.sendall(head.encode() + body)

    def receive(self) -> bytes | None:
        """The reply to publish, once the answer is complete."""
        self._buffer += self.socket.recv(_READ_BYTES)
        head, separator, body = self._buffer.partition(_LINE_END * 2)
        if not separator or len(body) < int(head.lower().partition(b"content-length:")[2].partition(_LINE_END)[0]):
            return None
        self._buffer = b""
        return reply(self.task, body)


class _Worker:
    def __init__(self) -> None:
        self._redis, self._popper = _Redis(), _Redis()
        self._asked = False
        self._idle = [_Letta() for _ in range(CONCURRENCY)]
        self._replies: list[bytes] = []
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._popper.socket, selectors.EVENT_READ, None)
        for letta in self._idle:
            self._selector.register(letta.socket, selectors.EVENT_READ, letta)

    def serve(self) -> None:
        while True:
            room = len(self._idle) - 1  # one is kept for what the popper brings
            if self._replies or not self._asked:
                replies, self._replies = self._replies, []
                tasks = self._redis.publish_and_take(replies, max(room, 0))
                for payload in tasks:
                    self._idle.pop().send(payload)
                if not self._asked and len(tasks) < room:
                    self._popper.ask_for_one()
                    self._asked = True
            for key, _ in self._selector.select():
                self._ready(key.data)

    def _ready(self, letta: _Letta | None) -> None:
        if letta is None:
            self._asked = False
            self._idle.pop().send(self._popper.one())
        elif (reply_ := letta.receive()) is not None:
            self._replies.append(reply_)
            self._idle.append(letta)


if __name__ == "__main__":
    _Worker().serve()
