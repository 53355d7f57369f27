"""Backpressure: the bridge requests no more turns than it has free capacity for; other tasks wait in Redis."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Capacity:
    """The capacity for turns, shared by the passes and the wait for arrivals.

    State: the limit, and how many turns were requested from Redis and have not arrived.

    Args:
        limit: turns in work at most.
        in_use: places used by running turns and by outcomes that wait to be settled.
        accepting: False while no new turns should be taken.
        stopping: set at shutdown; nothing is taken from then on.
    """

    def __init__(
        self, limit: int, in_use: Callable[[], int], accepting: Callable[[], bool], stopping: asyncio.Event
    ) -> None:
        self.limit = limit
        self._in_use = in_use
        self._accepting = accepting
        self._stopping = stopping
        self._requested = 0

    @property
    def accepts(self) -> bool:
        """Whether new turns may be started at all."""
        return not self._stopping.is_set() and self._accepting()

    def free(self) -> int:
        """How many turns may be requested now."""
        return max(0, self.limit - self._in_use() - self._requested) if self.accepts else 0

    def request(self, turns: int) -> None:
        """Reserve places for this many turns, until :meth:`arrived`."""
        self._requested += turns

    def arrived(self, turns: int) -> None:
        """The request for this many turns has ended: arrived turns count as in use, the other places are free."""
        self._requested -= turns
