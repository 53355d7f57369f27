"""Backpressure: the bridge asks Redis for no more turns than it has places for; the rest waits in the request list."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Capacity:
    """The places for turns. Asked by the passes and by the wait for arrivals, which share them.

    State: the limit, and how many turns were requested from Redis and have not arrived.

    Args:
        limit: turns in work at most.
        in_use: places that are taken by turns in work and by outcomes that wait to be settled.
        accepting: False while nothing new should be taken.
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
        """Keep places for as many turns, until :meth:`arrived`."""
        self._requested += turns

    def arrived(self, turns: int) -> None:
        """The request for as many turns is over: those that came are started and in use, the other places are free."""
        self._requested -= turns
