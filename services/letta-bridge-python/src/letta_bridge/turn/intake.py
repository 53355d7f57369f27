"""Turns in, settlements out: the loop that takes work while there is room, and gives back every outcome.

One pass is one round trip: turns that ended since the last one are settled, and as many new ones taken as there is
room for. Only where that finds less than there is room for does the bridge also wait for what arrives, on a
connection of its own, which brings it as turns at once. While Redis is away, finished turns wait here and keep their
room. If Redis comes back without its last writes, the bridge first restores the turns it still works on.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Final

from letta_bridge import fail_points
from letta_bridge.errors import LeaseLost
from letta_bridge.request_queue.lease_clock import clock
from letta_bridge.request_queue.port import Exchange, Refusal, RequestQueue, Settlement, Turn, is_full
from letta_bridge.settings import QueueSettings
from letta_bridge.turn.lease import TurnLease
from letta_bridge.turn.recorder import SILENT, Recorder
from letta_bridge.turn.redis_outage import RedisOutage
from shared_utils.observability import logs
from shared_utils.redis.connection import CONNECTION_ERRORS

_log = logs.get("letta_bridge.intake")

_IDLE_SECONDS: Final = 1.0
"""How long an idle bridge blocks before it looks for turns whose lease has expired."""
_IDLE_SHARE: Final = 0.25
"""Share of a lease that it blocks at most, because the lease of an arriving turn counts from the start of the wait."""
_ARRIVALS_PAUSE_SECONDS: Final = 1.0
"""Before the wait for arrivals is tried again; the passes find out when that is of use."""
_ARRIVALS: Final = 64
"""Places kept for what arrives while the bridge waits, at most; there are as many again for the passes meanwhile."""
_SETTLED: Final = 64
"""Turns settled in a pass at most, and half of those there is room for: while Redis has them, others are in work.
Settled all at once, they would all be waited for at once, too."""
_CANCEL_SECONDS: Final = 2.0
"""What a cancelled turn may take to end."""
_RENEW_CHUNK: Final = 1000


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
        self._turns: dict[str, Turn] = {}
        """Receipt → turn that is in work, or whose settlement Redis has not confirmed yet."""
        self._running: dict[str, tuple[asyncio.Task[None], TurnLease]] = {}
        self._ended: list[Settlement] = []
        self._asked = 0
        """Turns asked for and not come yet."""
        self._lost: dict[str, float] = {}
        """Receipt → when its lease was lost. Until that is so for Redis, too, the turn is no stray: it may be begun."""
        self._unwanted: set[str] = set()
        """Receipts of turns that were handed out and not started; they are released."""
        self._waiting = False
        """Redis is being asked for what arrives."""
        self._more = False
        """The last pass brought turns, or left some."""
        self._strays = False
        """The wait for arrivals may have been handed turns that are not here."""
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        """The last time there was room, Redis had less than that: what comes now arrives."""
        self._stopping = asyncio.Event()
        self._over = asyncio.Event()
        self._outage = RedisOutage()

    @property
    def redis_error(self) -> str | None:
        """Why nothing can be taken, in one sentence; None while Redis does what the passes ask."""
        return None if self._outage.trouble is None else str(self._outage.trouble)

    @property
    def in_flight(self) -> int:
        """Turns held now, those that only wait for Redis included."""
        return len(self._turns)

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
        try:
            if self._queue.writes_lost:
                await self._restore()
            settlements = self._some_ended()
            # Where the wait for arrivals brings what comes, and there was nothing else, outcomes go out alone, sooner.
            want = 0 if settlements and self._waiting and not self._more else self._room()
            exchange = await self._exchange(settlements, want)
        except CONNECTION_ERRORS as error:
            await self._await_redis(error)
            return
        self._outage.over(held=self.in_flight)
        self._more = exchange.more or bool(exchange.turns)
        full = is_full(exchange.turns, want)
        if not full:
            self._idle.set()
        if self._ended or exchange.more or self._queue.writes_lost or (full and len(exchange.turns) < want):
            self._wake.set()

    def _some_ended(self) -> list[Settlement]:
        most = max(1, min(_SETTLED, self._settings.max_concurrent_requests // 2))
        settlements, self._ended = self._ended[:most], self._ended[most:]
        return settlements

    def _room(self) -> int:
        """How many turns may be asked for now."""
        if self._stopping.is_set() or not self._accepting():
            return 0
        return max(0, self._settings.max_concurrent_requests - len(self._running) - len(self._ended) - self._asked)

    async def _exchange(self, settlements: list[Settlement], want: int) -> Exchange:
        """Settle these, and start up to ``want`` new turns. What Redis did not take waits with what has ended."""
        self._asked += want
        asked_at, began = clock(), time.perf_counter()
        try:
            try:
                exchange = await self._queue.exchange(settlements, want)
            except CONNECTION_ERRORS:
                self._ended = settlements + self._ended
                raise
            if fail_points.reach is not None:
                _reached("settled", sum(exchange.settled))
            self._recorder.exchanged(settlements, exchange, time.perf_counter() - began)
            self._note_settled(settlements, exchange)
            await self._begin(exchange.turns, asked_at)
        finally:
            self._asked -= want
        return exchange

    def _note_settled(self, settlements: Sequence[Settlement], exchange: Exchange) -> None:
        unknown = []
        for settlement, counted in zip(settlements, exchange.settled, strict=True):
            refusal = exchange.refused.get(settlement.receipt)
            if refusal is not None:
                self._refused(settlement, refusal)
            elif counted:
                self._turns.pop(settlement.receipt, None)
            else:
                unknown.append(settlement)
        self._ended = unknown + self._ended

    def _refused(self, settlement: Settlement, refusal: Refusal) -> None:
        self._turns.pop(settlement.receipt, None)
        self._recorder.refused(settlement, refusal)
        log = _log.info if refusal is Refusal.REPEATED else _log.warning
        log(
            "settlement_refused",
            receipt=settlement.receipt,
            outcome=settlement.outcome,
            reason=refusal,
            task_id=settlement.task_id,
            user_id=settlement.user_id,
        )

    async def _restore(self) -> None:
        """Put the turns of this bridge back in flight in a Redis that lost its last writes."""
        turns = list(self._turns.values())
        asked_at = clock()
        lost = await self._queue.restore(turns)
        _log.warning("redis_lost_writes", held=len(turns), lost=len(lost))
        for receipt, (_, lease) in self._running.items():
            if receipt not in lost:
                lease.renewed(asked_at)
        for settlement in [one for one in self._ended if one.receipt in lost]:
            self._ended.remove(settlement)
            self._refused(settlement, Refusal.TAKEN_OVER)
        for receipt in lost:
            self._abandon(receipt)

    async def _begin(self, turns: Sequence[Turn], asked_at: float) -> None:
        """Start turns that Redis handed out after ``asked_at``.

        If the answer was read so late that their leases may be over, the leases are renewed first: another bridge may
        have taken the turns over.
        """
        if turns and TurnLease(self._settings.lease, asked_at).stale:
            asked_at = clock()
            receipts = [turn.receipt for turn in turns]
            try:
                lost = await self._queue.renew(receipts)
            except CONNECTION_ERRORS:
                self._unwanted.update(receipts)  # not before: the other loop would give back what is begun here
                raise
            turns = [] if self._queue.writes_lost else [turn for turn in turns if turn.receipt not in lost]
            _log.warning("turns_read_late", kept=len(turns), lost=len(lost))
        self._start(turns, asked_at)

    def _start(self, turns: Sequence[Turn], asked_at: float) -> None:
        if fail_points.reach is not None:
            _reached("taken", len(turns))
        for turn in turns:
            lease = TurnLease(self._settings.lease, asked_at)
            task = asyncio.create_task(self._work(turn, lease))
            # A callback, because a task that is cancelled before its first step runs no `finally` of its own.
            task.add_done_callback(functools.partial(self._left, turn.receipt))
            self._turns[turn.receipt] = turn
            self._running[turn.receipt] = (task, lease)

    def _left(self, receipt: str, _task: asyncio.Task[None]) -> None:
        if self._running.pop(receipt, None) is not None:  # it ended without an outcome
            self._turns.pop(receipt, None)
            self._wake.set()

    async def _work(self, turn: Turn, lease: TurnLease) -> None:
        began = time.perf_counter()
        try:
            settlement = await self._process(turn, lease)
        except LeaseLost:
            self._lease_lost(turn.receipt)
        else:
            self._recorder.ended(turn, settlement, time.perf_counter() - began)
            # At once, and not when the task is told to be over: that would be a round of the loop later.
            self._running.pop(turn.receipt, None)
            self._ended.append(settlement)
            self._wake.set()

    def _lease_lost(self, receipt: str) -> None:
        _log.warning("lease_lost", receipt=receipt)
        self._lost[receipt] = clock()
        self._recorder.lease_lost()

    async def _await_redis(self, error: Exception) -> None:
        """Pause, and give back what was handed out while its answer got lost.

        Whether Redis is of use again, the next pass finds out: it asks what failed, and another command proves nothing.
        """
        self._outage.failed(error, held=self.in_flight)
        await _unless(self._stopping, self._outage.pause())
        try:
            self._outage.returned(await self._queue.release_strays(self._no_strays()))
            await self._return_unwanted()
        except CONNECTION_ERRORS as another:
            self._outage.failed(another, held=self.in_flight)
        self._wake.set()

    def _no_strays(self) -> set[str]:
        return self._turns.keys() | self._lost.keys()

    async def _await_arrivals(self) -> None:
        """Beside the passes, each of the two with turns of its own: what the other's answer brings, it cannot know."""
        while not self._stopping.is_set():
            await self._idle.wait()
            want = min(_ARRIVALS, (self._room() + 1) // 2)
            if not want:
                self._idle.clear()
                continue
            try:
                await self._release_strays()
                turns = await self._take(want)
            except CONNECTION_ERRORS:
                self._look_again()
                await _unless(self._stopping, _ARRIVALS_PAUSE_SECONDS)
            else:
                if is_full(turns, want):
                    self._look_again()
                await asyncio.sleep(0)  # what came goes its way before the next is waited for
        with contextlib.suppress(*CONNECTION_ERRORS):
            await self._release_strays()

    def _look_again(self) -> None:
        """Let a pass find out whether there is more, or whether Redis is away, before the next wait for arrivals."""
        self._idle.clear()
        self._wake.set()

    async def _release_strays(self) -> None:
        """Give back what was handed out to the wait for arrivals and is not here."""
        if self._strays:
            await self._queue.release_strays(self._no_strays(), waited=True)
            self._strays = False
        await self._return_unwanted()

    async def _return_unwanted(self) -> None:
        unwanted, self._unwanted = self._unwanted, set()
        try:
            await self._queue.release(unwanted)
        except CONNECTION_ERRORS:
            self._unwanted |= unwanted
            raise

    async def _take(self, want: int) -> list[Turn]:
        """Start up to ``want`` turns as soon as any arrives; those that arrive during a shutdown are released."""
        self._strays = self._waiting = True
        self._asked += want
        asked_at = clock()
        try:
            try:
                turns = await self._queue.take(want, min(_IDLE_SECONDS, self._settings.lease * _IDLE_SHARE))
            finally:
                self._waiting = False
            self._strays = False
            if self._queue.writes_lost:
                self._look_again()
            elif turns and (self._stopping.is_set() or not self._accepting()):
                self._unwanted.update(turn.receipt for turn in turns)
            else:
                self._recorder.arrived(turns)
                await self._begin(turns, asked_at)
        finally:
            self._asked -= want
        return turns

    async def _keep_leases(self) -> None:
        while not self._over.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._settings.lease / 3):
                    await self._over.wait()
            over = clock() - self._settings.lease
            self._lost = {receipt: since for receipt, since in self._lost.items() if since > over}
            held = list(self._turns)
            for start in range(0, len(held), _RENEW_CHUNK):
                await self._renew(held[start : start + _RENEW_CHUNK])

    async def _renew(self, receipts: list[str]) -> None:
        asked_at = clock()
        try:
            lost = await self._queue.renew(receipts)
        except CONNECTION_ERRORS:
            return
        if self._queue.writes_lost:
            self._wake.set()  # the next pass restores the turns, which renews their leases
            return
        for receipt in receipts:
            if receipt in lost:
                self._abandon(receipt)
            elif receipt in self._running:
                self._running[receipt][1].renewed(asked_at)

    def _abandon(self, receipt: str) -> None:
        """Stop work on a turn that another bridge has."""
        task, lease = self._running.get(receipt, (None, None))
        if task is not None and lease is not None:
            self._lease_lost(receipt)
            lease.revoke()
            task.cancel()

    async def _pause(self, seconds: float) -> None:
        await _unless(self._wake, seconds)

    async def _drain(self) -> None:
        """What has not begun goes back at once; what has begun gets the grace, then is left to its lease."""
        _log.info("draining", in_flight=self.in_flight)
        unbegun = {receipt: turn for receipt, turn in self._running.items() if not turn[1].begun}
        await self._end_tasks(unbegun.values())
        until = clock() + self._settings.shutdown_grace
        await self._give_back(set(unbegun))
        while self._running and clock() < until:
            await self._pause(until - clock())
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
        for _ in range(10):
            try:
                while self._ended:
                    if self._queue.writes_lost:
                        await self._restore()
                    await self._exchange(self._some_ended(), 0)
                await self._queue.release(unbegun)
            except CONNECTION_ERRORS as error:
                self._outage.failed(error, held=len(self._ended))
                await asyncio.sleep(0.2)
            else:
                return


async def _unless(event: asyncio.Event, seconds: float) -> None:
    """Until the event, and no longer than that."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()


def _reached(step: str, count: int) -> None:
    for _ in range(count):
        if fail_points.reach is not None:
            fail_points.reach(step)
