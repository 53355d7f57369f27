"""One worker, as the parent sees it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections import deque
from dataclasses import dataclass, field
from typing import Final

from letta_server.workers.channel import Channel

MOST_UNTAKEN: Final = 64
"""Connections that a worker may have been given and not taken yet."""
_SILENT_TICKS: Final = 5
"""After which a worker is given connections only if no other one is better."""


@dataclass
class Child:
    number: int
    """From 1; its successor has the same."""
    pid: int
    channel: Channel
    started_at: float
    """By the monotonic clock."""
    ready_at: float | None = None
    silent_ticks: int = 0
    """Of the parent's clock, since the last message. They count the parent's own life: if both processes are frozen,
    none passes."""
    connections: int = 0
    """As of its last message."""
    untaken: deque[socket.socket] = field(default_factory=deque)
    """Given to it, oldest first, and not taken yet: nobody has read from these."""
    runs: set[str] = field(default_factory=set)
    """Begun and not ended."""
    given_last: int = 0
    """The number of the last connection that it was given."""

    @property
    def takes_connections(self) -> bool:
        return self.ready_at is not None and len(self.untaken) < MOST_UNTAKEN and not self.channel.is_stuck

    @property
    def load(self) -> tuple[bool, int, int]:
        """The worker with the smallest gets the next connection."""
        return self.silent_ticks >= _SILENT_TICKS, self.connections + len(self.untaken), self.given_last

    def took(self, connections: int) -> None:
        """It has taken the oldest connection it was given: it is not the parent's any more."""
        self.connections = connections
        if self.untaken:
            self.untaken.popleft().close()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, unless it has ended."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def reap(self) -> str:
        """End it for sure, and say how it ended."""
        # It has closed its end of the channel, so it can do nothing useful any more.
        self.signal(signal.SIGKILL)
        _, status = os.waitpid(self.pid, 0)
        self.channel.close()
        code = os.waitstatus_to_exitcode(status)
        return f"exit code {code}" if code >= 0 else signal.Signals(-code).name
