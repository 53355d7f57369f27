"""The passes: each settles outcomes and fetches new turns in one round trip, while there are free places.

If a pass finds fewer turns than there are free places, the bridge also waits for arrivals, on a connection of its own.
While Redis is away, outcomes wait here and keep their places. If Redis comes back without its last writes, the bridge
first restores the turns that it holds.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection
from typing import Final

from letta_bridge import fail_points
from letta_bridge.errors import OutOfResources
from letta_bridge.request_queue.interrupts import InterruptRequest
from letta_bridge.request_queue.lease_clock import clock
from letta_bridge.request_queue.port import FetchResult, RequestQueue, Settlement, Turn, is_full
from letta_bridge.settings import QueueSettings
from letta_bridge.turn.intake.arrivals import Arrivals
from letta_bridge.turn.intake.capacity import Capacity
from letta_bridge.turn.intake.hand_outs import HandOuts
from letta_bridge.turn.intake.lease_keeper import LeaseKeeper
from letta_bridge.turn.intake.redis_outage import RedisOutage
from letta_bridge.turn.intake.running_turns import RunningTurns
from letta_bridge.turn.intake.settle_buffer import SettleBuffer
from letta_bridge.turn.lease import TurnLease
from letta_bridge.turn.recorder import NO_RECORDER, Recorder
from shared_utils.observability import logs
from shared_utils.redis.connection import CONNECTION_ERRORS
from shared_utils.task_end import log_failures
from shared_utils.waiting import wait_or_timeout

_log = logs.get("letta_bridge.intake")

_IDLE_SECONDS: Final = 1.0
"""Between passes of an idle bridge, which look for turns whose lease has expired."""
_EXHAUSTED_SECONDS: Final = 10.0
"""How long a host without resources for a turn takes no other one."""
_SHUTDOWN_TRIES: Final = 10
_SHUTDOWN_PAUSE_SECONDS: Final = 0.2
"""Tries to reach Redis at shutdown, and the pause between them."""


class Intake:
    """Keeps at most ``max_concurrent_requests`` turns in work.

    State: the settings, whether a pass is due and whether there is more to take, the outage of Redis if there is one,
    until when this host counts as out of resources, and whether the bridge is stopping. All other state belongs to the
    parts.

    Args:
        queue: the source of turns.
        process: turn and lease → settlement; raises LeaseLost.
        settings: places, lease and grace.
        accepting: False while no new turns should be taken (no server could answer them).
        recorder: observes turns that were taken, ended and settled.
    """

    def __init__(
        self,
        queue: RequestQueue,
        process: Callable[[Turn, TurnLease], Awaitable[Settlement]],
        settings: QueueSettings,
        accepting: Callable[[], bool] = lambda: True,
        recorder: Recorder = NO_RECORDER,
    ) -> None:
        self._queue = queue
        self._settings = settings
        self._recorder = recorder
        self._wake = asyncio.Event()
        """A pass is due."""
        self._more = False
        """The last pass brought turns, or left some."""
        self._outage = RedisOutage()
        self._stopping = asyncio.Event()
        self._recovers_at = 0.0
        """No turn is taken before this time, because this host lacked the resources for one."""
        self._lack = ""
        """What it lacked."""
        self._outcomes = SettleBuffer(recorder)
        self._running = RunningTurns(
            process,
            on_outcome=self._outcome,
            on_lease_lost=self._lease_lost,
            on_exhausted=self._exhausted,
            on_gone=self._gone,
        )
        self._capacity = Capacity(
            settings.max_concurrent_requests,
            in_use=lambda: len(self._running) + len(self._outcomes),
            accepting=lambda: accepting() and self.resource_error is None,
            stopping=self._stopping,
        )
        self._leases = LeaseKeeper(queue, self._running, settings.lease_seconds, recorder, self._wake.set)
        self._hand_outs = HandOuts(queue, self._leases, self._running, settings.lease_seconds)
        self._arrivals = Arrivals(
            queue,
            self._capacity,
            self._hand_outs,
            stopping=self._stopping,
            request_pass=self._wake.set,
            lease_seconds=settings.lease_seconds,
            recorder=recorder,
        )

    @property
    def redis_error(self) -> str | None:
        """Why no turns can be taken, in one sentence; None while Redis executes the commands of the passes."""
        return None if self._outage.last_error is None else str(self._outage.last_error)

    @property
    def resource_error(self) -> str | None:
        """Why no turn is taken for a while, in one sentence; None while this host has the resources for one."""
        seconds = self._recovers_at - clock()
        if seconds <= 0:
            return None
        return (
            f"this host lacks the resources for a turn ({self._lack}), so this bridge takes none for {seconds:.0f} s; "
            "give it more memory, threads or open files, or lower queue.max_concurrent_requests"
        )

    @property
    def in_flight(self) -> int:
        """Turns held now, including those that only wait to be settled."""
        return len(self._leases)

    @property
    def stopping(self) -> bool:
        """Whether the bridge has stopped taking turns."""
        return self._stopping.is_set()

    def reload(self, settings: QueueSettings) -> None:
        """Apply changed places and grace; the lease and names do not change."""
        self._settings = settings
        self._capacity.limit = settings.max_concurrent_requests

    async def run(self) -> None:
        """Work until :meth:`stop`; then finish started turns within the grace period, and release the others."""
        arrivals = asyncio.create_task(self._arrivals.run(), name="arrivals")
        leases = asyncio.create_task(self._leases.run(), name="leases")
        try:
            while not self._stopping.is_set():
                await self._pass()
                await wait_or_timeout(self._wake, _IDLE_SECONDS)
                for helper in (arrivals, leases):
                    if helper.done():
                        helper.result()
            await self._drain()
        finally:
            # Neither is cancelled: a cancelled blocking pop can lose the task that it popped, and redis-py sometimes #
            # swallows a cancellation. Both end by themselves, within their timeouts.
            self._stopping.set()
            self._leases.stop()
            self._arrivals.allow()
            await asyncio.wait((arrivals, leases))
            log_failures(arrivals, leases)

    def interrupt(self, receipt: str, request: InterruptRequest) -> None:
        """Break off a turn, if it runs in this bridge."""
        self._running.interrupt(receipt, request)

    def stop(self) -> None:
        """Take no more turns, and let :meth:`run` return."""
        self._stopping.set()
        self._wake.set()

    async def _pass(self) -> None:
        self._wake.clear()
        try:
            if self._queue.writes_lost:
                await self._restore()
            if self._hand_outs.waiting:
                await self._hand_outs.give_back()
            batch = self._outcomes.next_batch(self._capacity.limit)
            # While the wait for arrivals takes new turns, a pass only settles, which is faster.
            limit = 0 if batch and self._arrivals.waiting and not self._more else self._capacity.free()
            fetched = await self._settle_and_fetch(batch, limit)
        except CONNECTION_ERRORS as error:
            await self._await_redis(error)
            return
        self._outage.over(held=self.in_flight)
        self._more = fetched.more or bool(fetched.turns)
        full = is_full(fetched.turns, limit)
        if not full:
            self._arrivals.allow()
        if self._outcomes or fetched.more or self._queue.writes_lost or (full and len(fetched.turns) < limit):
            self._wake.set()

    async def _settle_and_fetch(self, batch: list[Settlement], limit: int) -> FetchResult:
        """Settle a batch, and start up to ``limit`` new turns. Unconfirmed settlements return to the buffer."""
        self._capacity.request(limit)
        asked_at, began = clock(), time.perf_counter()
        try:
            try:
                fetched = await self._queue.settle_and_fetch(batch, limit)
            except CONNECTION_ERRORS:
                self._outcomes.put_back(batch)
                raise
            fail_points.reach("settled", times=sum(fetched.settled))
            self._recorder.settled_and_fetched(batch, fetched, time.perf_counter() - began)
            self._leases.let_go(self._outcomes.confirm(batch, fetched))
            await self._hand_outs.start(fetched.turns, asked_at)
        finally:
            self._capacity.arrived(limit)
        return fetched

    async def _restore(self) -> None:
        """Put the turns of this bridge back in flight after Redis lost its last writes."""
        lost = await self._leases.restore()
        self._leases.let_go(self._outcomes.drop(lost))

    async def _await_redis(self, error: Exception) -> None:
        """Pause, and release turns whose hand-outs were lost.

        The next pass detects whether Redis works again, because only the command that failed can prove it.
        """
        self._outage.failed(error, held=self.in_flight)
        await wait_or_timeout(self._stopping, self._outage.pause())
        try:
            self._outage.returned(await self._hand_outs.release_orphans())
            await self._hand_outs.give_back()
        except CONNECTION_ERRORS as another:
            self._outage.failed(another, held=self.in_flight)
        self._wake.set()

    def _outcome(self, turn: Turn, settlement: Settlement, seconds: float) -> None:
        self._outcomes.add(settlement)
        self._recorder.ended(turn, settlement, seconds)
        self._wake.set()

    def _exhausted(self, turn: Turn, error: OutOfResources, begun: bool) -> None:
        """Leave turns to other bridges for a while; this one would take them repeatedly in vain."""
        _log.error("out_of_resources", receipt=turn.receipt, error=str(error), pause=_EXHAUSTED_SECONDS)
        self._recorder.out_of_resources()
        self._lack, self._recovers_at = str(error), clock() + _EXHAUSTED_SECONDS
        if not begun:
            self._hand_outs.refuse([turn])

    def _lease_lost(self, receipt: str) -> None:
        self._leases.lost(receipt)

    def _gone(self, receipt: str) -> None:
        self._leases.let_go([receipt])
        self._wake.set()

    async def _drain(self) -> None:
        """Release turns that have not started; give started turns the grace period, then leave them to their leases."""
        _log.info("draining", in_flight=self.in_flight)
        unbegun = self._running.unbegun()
        await self._running.cancel_all(unbegun)
        until = clock() + self._settings.shutdown_grace_seconds
        await self._settle_all(release=unbegun)
        while self._running and clock() < until:
            await wait_or_timeout(self._wake, until - clock())
            await self._settle_all()
        left = await self._running.cancel_all()
        await self._settle_all()
        _log.info("drained", left_to_lease=left)

    async def _settle_all(self, release: Collection[str] = ()) -> None:
        """Settle all outcomes and release turns that were not started, with a bounded number of tries."""
        self._wake.clear()
        for _ in range(_SHUTDOWN_TRIES):
            try:
                while self._outcomes:
                    if self._queue.writes_lost:
                        await self._restore()
                    await self._settle_and_fetch(self._outcomes.next_batch(self._capacity.limit), 0)
                await self._queue.release(release)
            except CONNECTION_ERRORS as error:
                self._outage.failed(error, held=len(self._outcomes))
                await asyncio.sleep(_SHUTDOWN_PAUSE_SECONDS)
            else:
                return
