"""Waits for new tasks with a blocking command while the bridge has free capacity and no task is left."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final

from letta_bridge.request_queue.lease_clock import clock
from letta_bridge.request_queue.port import RequestQueue, Turn, is_full
from letta_bridge.turn.intake.capacity import Capacity
from letta_bridge.turn.intake.hand_outs import HandOuts
from letta_bridge.turn.recorder import Recorder
from shared_utils.redis.connection import CONNECTION_ERRORS
from shared_utils.waiting import wait_or_timeout

_WAIT_SECONDS: Final = 1.0
"""How long one command waits for a task."""
_MAX_LEASE_SHARE: Final = 0.25
"""Part of a lease that it waits at most, because the lease of an arriving turn counts from the start of the wait."""
_PAUSE_SECONDS: Final = 1.0
"""After a lost connection, before the next wait; the passes find out when Redis is back."""
_MAX_PLACES: Final = 64
"""Free places reserved for arrivals at most; half of the free places stay with the passes."""


class Arrivals:
    """Starts turns as they arrive, beside the passes; each side handles only the turns in its own answers.

    State: whether a wait is allowed, whether one is under way, and whether the answer of the last one got lost.
    The passes allow a wait when they find less work than there are free places.

    Args:
        queue: where turns come from.
        capacity: the free places, shared with the passes.
        hand_outs: starts or gives back what arrives.
        stopping: set at shutdown.
        request_pass: asks for a pass of the intake soon.
        lease_seconds: how long Redis grants a lease.
        recorder: observes turns that arrived.
    """

    def __init__(
        self,
        queue: RequestQueue,
        capacity: Capacity,
        hand_outs: HandOuts,
        *,
        stopping: asyncio.Event,
        request_pass: Callable[[], None],
        lease_seconds: float,
        recorder: Recorder,
    ) -> None:
        self._queue = queue
        self._capacity = capacity
        self._hand_outs = hand_outs
        self._stopping = stopping
        self._request_pass = request_pass
        self._lease_seconds = lease_seconds
        self._recorder = recorder
        self._allowed = asyncio.Event()
        self.waiting = False
        """A wait for arrivals is in progress."""
        self._answer_lost = False
        """The last wait may have been handed turns that this bridge does not know."""

    def allow(self) -> None:
        """Allow a wait: the passes have taken every ready turn."""
        self._allowed.set()

    async def run(self) -> None:
        """Wait for arrivals until the shutdown; never cancelled, because a cancelled command can lose what it popped.

        At shutdown, :meth:`allow` wakes it.
        """
        while not self._stopping.is_set():
            await self._allowed.wait()
            limit = min(_MAX_PLACES, (self._capacity.free() + 1) // 2)
            if not limit:
                self._allowed.clear()
                continue
            try:
                await self._release_orphans()
                turns = await self._take(limit)
            except CONNECTION_ERRORS:
                self._leave_to_a_pass()
                await wait_or_timeout(self._stopping, _PAUSE_SECONDS)
            else:
                if is_full(turns, limit):
                    self._leave_to_a_pass()
                await asyncio.sleep(0)  # lets the turns that arrived begin before the next wait
        with contextlib.suppress(*CONNECTION_ERRORS):
            await self._release_orphans()

    async def _take(self, limit: int) -> list[Turn]:
        """Start up to ``limit`` turns as soon as any arrives; those that arrive during a shutdown are given back."""
        self._answer_lost = self.waiting = True
        asked_at = clock()
        self._capacity.request(limit)
        try:
            try:
                turns = await self._queue.wait_and_fetch(
                    limit, min(_WAIT_SECONDS, self._lease_seconds * _MAX_LEASE_SHARE)
                )
            finally:
                self.waiting = False
            self._answer_lost = False
            if self._queue.writes_lost:
                self._leave_to_a_pass()
            elif turns and not self._capacity.accepts:
                self._hand_outs.refuse(turns)
            else:
                self._recorder.arrived(turns)
                await self._hand_outs.start(turns, asked_at)
        finally:
            self._capacity.arrived(limit)
        return turns

    def _leave_to_a_pass(self) -> None:
        """Have a pass check for more tasks, or for an outage of Redis, before the next wait."""
        self._allowed.clear()
        self._request_pass()

    async def _release_orphans(self) -> None:
        """Release turns in a lost answer, and turns that were not started."""
        if self._answer_lost:
            await self._hand_outs.release_orphans(from_idle=True)
            self._answer_lost = False
        await self._hand_outs.give_back()
