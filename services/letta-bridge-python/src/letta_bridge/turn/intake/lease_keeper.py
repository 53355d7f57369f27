"""Leases (visibility timeouts): Redis gives a turn to another bridge unless this one renews its lease in time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Final

from letta_bridge.request_queue.lease_clock import clock
from letta_bridge.request_queue.port import RequestQueue, Turn
from letta_bridge.turn.intake.running_turns import RunningTurns
from letta_bridge.turn.recorder import Recorder
from shared_utils.observability import logs
from shared_utils.redis.connection import CONNECTION_ERRORS
from shared_utils.waiting import wait_or_timeout

_log = logs.get("letta_bridge.intake")

_RENEWALS_PER_LEASE: Final = 3
_RENEW_CHUNK: Final = 1000
"""Leases renewed by one command."""


class LeaseKeeper:
    """Renews the leases of all turns that this bridge holds, and cancels turns whose leases it has lost.

    State: the turns held, and the receipts whose leases were lost recently. Hand-outs add turns; the intake removes
        them as they end. :meth:`run` runs beside the passes until the end of the shutdown.

    Args:
        queue: extends and restores leases.
        running: the running turns.
        lease_seconds: how long Redis grants a lease.
        recorder: counts lost leases and lost writes.
        request_pass: asks for a pass of the intake soon.
    """

    def __init__(
        self,
        queue: RequestQueue,
        running: RunningTurns,
        lease_seconds: float,
        recorder: Recorder,
        request_pass: Callable[[], None],
    ) -> None:
        self._queue = queue
        self._running = running
        self._lease_seconds = lease_seconds
        self._recorder = recorder
        self._request_pass = request_pass
        self._held: dict[str, Turn] = {}
        """Receipt → turn that is in work, or whose settlement Redis has not confirmed."""
        self._lost: dict[str, float] = {}
        """Receipt → when its lease was lost. Kept for a lease, after which it is lost by Redis's clock as well."""
        self._ended = asyncio.Event()

    def __len__(self) -> int:
        return len(self._held)

    def known(self) -> set[str]:
        """Receipts that are not orphans: these turns may have been sent to Letta, including those with lost leases."""
        return self._held.keys() | self._lost.keys()

    def hold(self, turn: Turn) -> None:
        """Renew this turn's lease from now on."""
        self._held[turn.receipt] = turn

    def let_go(self, receipts: Iterable[str]) -> None:
        """These turns have ended; stop renewing their leases."""
        for receipt in receipts:
            self._held.pop(receipt, None)

    def lost(self, receipt: str) -> None:
        """Note a lost lease."""
        _log.warning("lease_lost", receipt=receipt)
        self._lost[receipt] = clock()
        self._recorder.lease_lost()

    async def run(self) -> None:
        """Renew leases until :meth:`stop`."""
        while not self._ended.is_set():
            await wait_or_timeout(self._ended, self._lease_seconds / _RENEWALS_PER_LEASE)
            over = clock() - self._lease_seconds
            self._lost = {receipt: since for receipt, since in self._lost.items() if since > over}
            held = list(self._held)
            for start in range(0, len(held), _RENEW_CHUNK):
                await self.renew(held[start : start + _RENEW_CHUNK])

    def stop(self) -> None:
        """Let :meth:`run` return."""
        self._ended.set()

    async def renew(self, receipts: list[str]) -> None:
        """Extend these leases. Does nothing while Redis is away; leases expire here slightly earlier than there."""
        asked_at = clock()
        try:
            lost = await self._queue.renew(receipts)
        except CONNECTION_ERRORS:
            return
        if self._queue.writes_lost:
            self._request_pass()  # the pass restores the turns, which renews their leases
            return
        for receipt in receipts:
            if receipt in lost:
                self._abandon(receipt)
            else:
                self._running.renewed(receipt, asked_at)

    async def restore(self) -> set[str]:
        """Put the turns back in flight after Redis lost its last writes; returns the receipts that are lost.

        A lost turn that is running is cancelled. The outcome of one that has ended is left to the caller.
        """
        held = list(self._held.values())
        asked_at = clock()
        lost = await self._queue.restore(held)
        _log.warning("redis_lost_writes", held=len(held), lost=len(lost))
        self._recorder.writes_lost()
        for turn in held:
            if turn.receipt not in lost:
                self._running.renewed(turn.receipt, asked_at)
        for receipt in lost:
            self._abandon(receipt)
        return lost

    def _abandon(self, receipt: str) -> None:
        """Cancel a turn that another bridge has taken over."""
        if self._running.cancel(receipt):
            self.lost(receipt)
