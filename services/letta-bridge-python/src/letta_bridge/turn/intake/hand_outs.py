"""Turns that Redis handed out to this bridge: each is started or released."""

from __future__ import annotations

from collections.abc import Sequence

from letta_bridge import fail_points
from letta_bridge.request_queue.lease_clock import clock
from letta_bridge.request_queue.port import RequestQueue, Turn
from letta_bridge.turn.intake.lease_keeper import LeaseKeeper
from letta_bridge.turn.intake.running_turns import RunningTurns
from letta_bridge.turn.lease import TurnLease
from shared_utils.observability import logs
from shared_utils.redis.connection import CONNECTION_ERRORS

_log = logs.get("letta_bridge.intake")


class HandOuts:
    """Starts or releases handed-out turns. Called by the passes and by the wait for arrivals.

    State: the receipts of turns that are not started and wait to be released.
    """

    def __init__(self, queue: RequestQueue, leases: LeaseKeeper, running: RunningTurns, lease_seconds: float) -> None:
        self._queue = queue
        self._leases = leases
        self._running = running
        self._lease_seconds = lease_seconds
        self._unstarted: set[str] = set()

    async def start(self, turns: Sequence[Turn], asked_at: float) -> None:
        """Start turns that Redis handed out after ``asked_at``.

        If the answer was read so late that their leases may have expired, the leases are renewed first, because another
        bridge may have taken the turns over.
        """
        if turns and TurnLease(self._lease_seconds, asked_at).stale:
            asked_at = clock()
            turns = await self._renewed(turns)
        fail_points.reach("taken", times=len(turns))
        for turn in turns:
            self._running.start(turn, TurnLease(self._lease_seconds, asked_at))
            self._leases.hold(turn)

    @property
    def waiting(self) -> bool:
        """Whether turns wait to be released."""
        return bool(self._unstarted)

    def refuse(self, turns: Sequence[Turn]) -> None:
        """Keep turns that this bridge cannot start for :meth:`give_back`, which releases them."""
        self._unstarted.update(turn.receipt for turn in turns)

    async def give_back(self) -> None:
        """Release the turns that are not started; their hand-outs do not count as attempts."""
        unstarted, self._unstarted = self._unstarted, set()
        try:
            await self._queue.release(unstarted)
        except CONNECTION_ERRORS:
            self._unstarted |= unstarted
            raise

    async def release_orphans(self, *, from_idle: bool = False) -> int:
        """Release turns whose hand-outs were lost with a connection; see :meth:`RequestQueue.release_orphans`."""
        return await self._queue.release_orphans(self._leases.known(), from_idle=from_idle)

    async def _renewed(self, turns: Sequence[Turn]) -> list[Turn]:
        """Those of the turns whose leases this bridge still has."""
        receipts = [turn.receipt for turn in turns]
        try:
            lost = await self._queue.renew(receipts)
        except CONNECTION_ERRORS:
            self._unstarted.update(receipts)  # not before: a concurrent give_back would release turns that start here
            raise
        kept = [] if self._queue.writes_lost else [turn for turn in turns if turn.receipt not in lost]
        _log.warning("turns_received_late", kept=len(kept), lost=len(lost))
        return kept
