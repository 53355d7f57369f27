"""The running turns: one asyncio task each."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Awaitable, Callable, Collection
from typing import Final

from letta_bridge.errors import LeaseLost, OutOfResources
from letta_bridge.request_queue.interrupts import InterruptRequest
from letta_bridge.request_queue.port import Settlement, Turn
from letta_bridge.turn.lease import TurnLease

_CANCEL_SECONDS: Final = 2.0
"""How long a cancelled turn is waited for."""


class RunningTurns:
    """Starts and cancels turns. Called by hand-outs, the lease keeper and the shutdown.

    State: receipt → the asyncio task of the turn, the turn's lease, and the turn.

    Args:
        process: turn and lease → settlement; raises LeaseLost or OutOfResources.
        on_outcome: is called with a turn, its settlement, and the seconds it took.
        on_lease_lost: is called with the receipt of a turn whose lease has expired.
        on_exhausted: is called with a turn that this host lacks the resources for, the error, and whether the turn may
            have been sent outside the bridge.
        on_gone: is called with the receipt of a turn that ended without an outcome: cancelled, failed, or lost.
    """

    def __init__(
        self,
        process: Callable[[Turn, TurnLease], Awaitable[Settlement]],
        *,
        on_outcome: Callable[[Turn, Settlement, float], None],
        on_lease_lost: Callable[[str], None],
        on_exhausted: Callable[[Turn, OutOfResources, bool], None],
        on_gone: Callable[[str], None],
    ) -> None:
        self._process = process
        self._on_outcome = on_outcome
        self._on_lease_lost = on_lease_lost
        self._on_exhausted = on_exhausted
        self._on_gone = on_gone
        self._running: dict[str, tuple[asyncio.Task[None], TurnLease, Turn]] = {}

    def __len__(self) -> int:
        return len(self._running)

    def start(self, turn: Turn, lease: TurnLease) -> None:
        """Start a turn."""
        task = asyncio.create_task(self._work(turn, lease))
        # A callback, because a task that is cancelled before its first step runs no `finally` of its own.
        task.add_done_callback(functools.partial(self._left, turn.receipt))
        self._running[turn.receipt] = (task, lease, turn)

    def renewed(self, receipt: str, asked_at: float) -> None:
        """Redis has extended the turn's lease; ``asked_at`` is when the request was sent."""
        if receipt in self._running:
            self._running[receipt][1].renewed(asked_at)

    def cancel(self, receipt: str) -> bool:
        """Cancel a turn that another bridge has taken over; returns whether it was running."""
        if (running := self._running.get(receipt)) is None:
            return False
        task, lease, _ = running
        lease.revoke()
        task.cancel()
        return True

    def interrupt(self, receipt: str, request: InterruptRequest) -> None:
        """Break off a turn, if it runs here."""
        if (running := self._running.get(receipt)) is not None:
            running[2].interruption.ask(request)

    def unbegun(self) -> set[str]:
        """Receipts of the turns that have not been sent outside the bridge."""
        return {receipt for receipt, (_, lease, _) in self._running.items() if not lease.begun}

    async def cancel_all(self, receipts: Collection[str] | None = None) -> int:
        """Cancel these turns, or all, and wait briefly for their end; returns how many there were."""
        turns = [turn for receipt, turn in self._running.items() if receipts is None or receipt in receipts]
        for task, lease, _ in turns:
            lease.revoke()
            task.cancel()
        if turns:
            await asyncio.wait([task for task, _, _ in turns], timeout=_CANCEL_SECONDS)
        return len(turns)

    async def _work(self, turn: Turn, lease: TurnLease) -> None:
        began = time.perf_counter()
        try:
            settlement = await self._process(turn, lease)
        except LeaseLost:
            self._on_lease_lost(turn.receipt)
        except OutOfResources as error:
            self._on_exhausted(turn, error, lease.begun)
        else:
            self._on_outcome(turn, settlement, time.perf_counter() - began)
            # Here, and not in the task's callback, which runs one iteration of the event loop later.
            self._running.pop(turn.receipt, None)

    def _left(self, receipt: str, _task: asyncio.Task[None]) -> None:
        if self._running.pop(receipt, None) is not None:
            self._on_gone(receipt)
