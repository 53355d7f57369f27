"""Turns in, settlements out: the loop that takes work while there is room, and gives back every outcome.

One pass is one round trip: all turns that ended since the last one are settled, and as many new ones taken as there
is room for. Only an idle bridge blocks on the list. While Redis is away, finished turns wait here and keep their room.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from collections.abc import Awaitable, Callable, Collection
from typing import Final

from letta_bridge import fail_points
from letta_bridge.errors import LeaseLost
from letta_bridge.recorder import SILENT, Recorder
from letta_bridge.request_queue.port import Exchange, RequestQueue, Settlement, Turn
from letta_bridge.settings import QueueSettings
from shared_utils import logs
from shared_utils.redis_connection import CONNECTION_ERRORS

_log = logs.get(__name__)

_IDLE_SECONDS: Final = 1.0
"""How long an idle bridge blocks before it looks for turns whose lease has expired."""
_BACKOFF_MIN, _BACKOFF_MAX = 0.05, 1.0
"""Seconds between tries while Redis is away."""
_LEASE_MARGIN: Final = 0.8
"""Part of the lease within which this bridge believes in it."""
_CANCEL_SECONDS: Final = 2.0
"""What a cancelled turn may take to end."""
_RENEW_CHUNK: Final = 1000
_CLOCK: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""Goes on while the machine sleeps, where there is such a clock, so that a bridge that was away for long notices."""


def _clock() -> float:
    return time.clock_gettime(_CLOCK)


class TurnLease:
    """This bridge's right to work on one turn."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds * _LEASE_MARGIN
        self._until = _clock() + self._seconds
        self._revoked = False
        self.begun = False
        """Somebody outside the bridge may have been told of the turn."""

    def begin(self) -> None:
        """See :class:`letta_bridge.delivery.Lease`."""
        if self._revoked or _clock() >= self._until:
            raise LeaseLost
        self.begun = True

    def revoke(self) -> None:
        """Forbid to begin: a turn that is cancelled may not have noticed yet (redis-py now and then swallows that)."""
        self._revoked = True

    def renewed(self, asked_at: float) -> None:
        """The queue has extended it; ``asked_at`` is when it was asked to."""
        self._until = asked_at + self._seconds


class Intake:
    """Keeps at most ``max_concurrent_requests`` turns in work.

    Args:
        queue: where turns come from.
        process: turn and lease → settlement; raises LeaseLost.
        settings: room, lease and grace.
        accepting: False while nothing new should be taken (nobody could answer it).
        recorder: hears of what was taken, ended and settled.
    """

    def __init__(
        self,
        queue: RequestQueue,
        process: Callable[[Turn, TurnLease], Awaitable[Settlement]],
        settings: QueueSettings,
        accepting: Callable[[], bool] = lambda: True,
        recorder: Recorder = SILENT,
    ) -> None:
        self._queue = queue
        self._process = process
        self._settings = settings
        self._accepting = accepting
        self._recorder = recorder
        self._running: dict[str, tuple[asyncio.Task[None], TurnLease]] = {}
        self._ended: list[Settlement] = []
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._stopping = asyncio.Event()
        self._over = asyncio.Event()
        self.redis_error: str | None = None
        """Why Redis was of no use the last time it was asked; None while it works."""

    @property
    def in_flight(self) -> int:
        """Turns held now, those that only wait for Redis included."""
        return len(self._running) + len(self._ended)

    def reload(self, settings: QueueSettings) -> None:
        """Take over room and grace; the lease and names stay as they were."""
        self._settings = settings

    async def run(self) -> None:
        """Work until :meth:`stop`; then end what was begun within the grace, and give back the rest."""
        arrivals = asyncio.create_task(self._await_arrivals(), name="arrivals")
        leases = asyncio.create_task(self._keep_leases(), name="leases")
        try:
            while not self._stopping.is_set():
                await self._pass()
                await self._pause(_IDLE_SECONDS)
                for helper in (arrivals, leases):
                    if helper.done():
                        helper.result()
            await self._drain()
        finally:
            # Neither is cancelled: a blocking pop that is cancelled half-way can lose what it popped, and redis-py
            # now and then swallows a cancellation. Both end by themselves, within their time-outs.
            self._stopping.set()
            self._over.set()
            self._idle.set()
            await asyncio.gather(arrivals, leases, return_exceptions=True)

    def stop(self) -> None:
        """Take nothing more, and let :meth:`run` return."""
        self._stopping.set()
        self._wake.set()

    async def _pass(self) -> None:
        self._wake.clear()
        settlements, self._ended = self._ended, []
        room = self._settings.max_concurrent_requests - len(self._running)
        want = room if self._accepting() and not self._stopping.is_set() else 0
        began = time.perf_counter()
        try:
            exchange = await self._queue.exchange(settlements, want)
        except CONNECTION_ERRORS as error:
            self._ended = settlements + self._ended
            await self._await_redis(error)
            return
        if fail_points.reach is not None:
            _reached(exchange)
        self._took(settlements, exchange, began)
        if len(exchange.turns) < want:
            self._idle.set()

    def _took(self, settlements: list[Settlement], exchange: Exchange, began: float) -> None:
        self._recorder.exchanged(settlements, exchange, time.perf_counter() - began)
        for settlement, counted in zip(settlements, exchange.settled, strict=True):
            if not counted:
                _log.info("settlement_refused", receipt=settlement.receipt, outcome=settlement.outcome)
        for turn in exchange.turns:
            lease = TurnLease(self._settings.lease)
            task = asyncio.create_task(self._work(turn, lease))
            # A callback, because a task that is cancelled before its first step runs no `finally` of its own.
            task.add_done_callback(functools.partial(self._left, turn.receipt))
            self._running[turn.receipt] = (task, lease)

    def _left(self, receipt: str, _task: asyncio.Task[None]) -> None:
        self._running.pop(receipt, None)
        self._wake.set()

    async def _work(self, turn: Turn, lease: TurnLease) -> None:
        began = time.perf_counter()
        try:
            settlement = await self._process(turn, lease)
        except LeaseLost:
            self._lease_lost(turn.receipt)
        else:
            self._recorder.ended(turn, settlement, time.perf_counter() - began)
            self._ended.append(settlement)

    def _lease_lost(self, receipt: str) -> None:
        _log.warning("lease_lost", receipt=receipt)
        self._recorder.lease_lost()

    async def _await_redis(self, error: Exception) -> None:
        """Until Redis answers again; then give back what was handed out while its answer got lost."""
        if self.redis_error is None:
            _log.warning("redis_away", error=str(error) or type(error).__name__, held=self.in_flight)
        self.redis_error = str(error) or type(error).__name__
        pause = _BACKOFF_MIN
        while not self._stopping.is_set():
            await self._pause(pause)
            self._wake.clear()
            pause = min(pause * 2, _BACKOFF_MAX)
            try:
                strays = await self._queue.release_strays(self._held())
            except CONNECTION_ERRORS:
                continue
            self.redis_error = None
            _log.info("redis_back", strays=strays, held=self.in_flight)
            self._wake.set()
            return

    def _held(self) -> set[str]:
        return self._running.keys() | {settlement.receipt for settlement in self._ended}

    async def _await_arrivals(self) -> None:
        while not self._stopping.is_set():
            await self._idle.wait()
            self._idle.clear()
            if self._stopping.is_set():
                return
            try:
                await self._queue.wait(_IDLE_SECONDS)
            except CONNECTION_ERRORS:
                await self._pause(_BACKOFF_MAX)
            self._wake.set()

    async def _keep_leases(self) -> None:
        while not self._over.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._settings.lease / 3):
                    await self._over.wait()
            held = list(self._held())
            for start in range(0, len(held), _RENEW_CHUNK):
                await self._renew(held[start : start + _RENEW_CHUNK])

    async def _renew(self, receipts: list[str]) -> None:
        asked_at = _clock()
        try:
            lost = await self._queue.renew(receipts)
        except CONNECTION_ERRORS:
            return
        for receipt in receipts:
            task, lease = self._running.get(receipt, (None, None))
            if task is None or lease is None:
                continue
            if receipt in lost:
                self._lease_lost(receipt)
                lease.revoke()
                task.cancel()
            else:
                lease.renewed(asked_at)

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            return

    async def _drain(self) -> None:
        """What has not begun goes back at once; what has begun gets the grace, then is left to its lease."""
        _log.info("draining", in_flight=self.in_flight)
        unbegun = {receipt: turn for receipt, turn in self._running.items() if not turn[1].begun}
        await self._end_tasks(unbegun.values())
        until = _clock() + self._settings.shutdown_grace
        await self._give_back(set(unbegun))
        while self._running and _clock() < until:
            await self._pause(until - _clock())
            await self._give_back(set())
        left = list(self._running.values())
        await self._end_tasks(left)
        await self._give_back(set())
        _log.info("drained", left_to_lease=len(left))

    async def _end_tasks(self, turns: Collection[tuple[asyncio.Task[None], TurnLease]]) -> None:
        for task, lease in turns:
            lease.revoke()
            task.cancel()
        if turns:
            await asyncio.wait([task for task, _ in turns], timeout=_CANCEL_SECONDS)

    async def _give_back(self, unbegun: set[str]) -> None:
        """Settle what has ended and release what was not begun; a bounded number of tries where Redis is away."""
        self._wake.clear()
        settlements, self._ended = self._ended, []
        for _ in range(10):
            try:
                if settlements:
                    began = time.perf_counter()
                    self._took(settlements, await self._queue.exchange(settlements, 0), began)
                await self._queue.release(unbegun)
            except CONNECTION_ERRORS as error:
                _log.warning("redis_away", error=str(error), held=len(settlements))
                await asyncio.sleep(0.2)
            else:
                return


def _reached(exchange: Exchange) -> None:
    for step, count in (("settled", sum(exchange.settled)), ("taken", len(exchange.turns))):
        for _ in range(count):
            if fail_points.reach is not None:
                fail_points.reach(step)
