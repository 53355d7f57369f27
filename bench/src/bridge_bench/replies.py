"""A cheap subscriber that records the replies and their times without slowing down the measurement."""

from __future__ import annotations

import bisect
import re
import socket
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

from bridge_bench.errors import WorkerFailed
from bridge_bench.worker_side.tasks import RESPONSES

_MESSAGE_MARK: Final = b"\r\n$%d\r\n%s\r\n$" % (len(RESPONSES), RESPONSES.encode())
"""Stands before every message and in nothing else."""
_ANSWERED: Final = re.compile(rb'"task_id": ?"([a-z]+-\d+)", ?"user_id": ?"[^"]*", ?"response_text"')
"""The beginning of a reply that is an answer; an error reply has other fields there."""
_CHUNK_BYTES: Final = 1 << 18
_QUIET_TIMEOUT_SECONDS: Final = 45.0
"""Seconds without a reply after which nothing more is expected."""
_POLL_SECONDS: Final = 0.2
"""Seconds between two looks at the worker."""


class ReplyTap(threading.Thread):
    """Subscribed to the replies, reading chunks as they come and only counting; ids are read out of them later.

    Args:
        host: of Redis.
        port: of Redis.
        keep: False keeps no bytes: then `times` cannot be asked for, and a long run needs no memory.
    """

    def __init__(self, host: str, port: int, *, keep: bool = True) -> None:
        super().__init__(daemon=True)
        self._socket = socket.create_connection((host, port))
        self._socket.sendall(b"SUBSCRIBE %s\r\n" % RESPONSES.encode())
        self._rest = self._confirmed()
        self._keep = keep
        self._chunks: list[bytes] = []
        self._moments: list[float] = []
        self._changed = threading.Condition()
        self.count = 0
        """Replies so far."""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self.join()
        self._socket.close()

    def run(self) -> None:
        """Read until the connection is closed."""
        rest = self._rest[-len(_MESSAGE_MARK) + 1 :]
        while chunk := self._received():
            now = time.monotonic()
            if self._keep:
                self._chunks.append(chunk)
                self._moments.append(now)
            seen = rest + chunk
            with self._changed:
                self.count += seen.count(_MESSAGE_MARK)
                self._changed.notify_all()
            rest = seen[-len(_MESSAGE_MARK) + 1 :]

    def wait(
        self, count: int, alive: Callable[[], bool] = lambda: True, *, quiet: float = _QUIET_TIMEOUT_SECONDS
    ) -> None:
        """Returns once there are ``count`` replies.

        Raises:
            WorkerFailed: the worker has ended, or there was no reply for ``quiet`` seconds.
        """
        with self._changed:
            before, last = self.count, time.monotonic()
            while self.count < count:
                self._changed.wait(min(quiet, _POLL_SECONDS))
                if self.count > before:
                    before, last = self.count, time.monotonic()
                elif not alive():
                    raise WorkerFailed(f"the worker ended after {self.count} of {count} replies")
                elif time.monotonic() - last > quiet:
                    raise WorkerFailed(f"{self.count} of {count} replies came, and none for {quiet:g} s")

    def times(self) -> dict[str, float]:
        """Task id to the moment of its first answer, on the monotonic clock; error replies are none."""
        ends, total = [], 0
        for chunk in self._chunks:
            total += len(chunk)
            ends.append(total)
        found: dict[str, float] = {}
        for match in _ANSWERED.finditer(b"".join(self._chunks)):
            moment = self._moments[bisect.bisect_left(ends, match.end())]
            found.setdefault(match[1].decode(), moment)
        return found

    def _received(self) -> bytes:
        try:
            return self._socket.recv(_CHUNK_BYTES)
        except OSError:
            return b""

    def _confirmed(self) -> bytes:
        answer = b""
        while not answer.endswith(b":1\r\n"):
            answer += self._socket.recv(_CHUNK_BYTES)
        return answer
