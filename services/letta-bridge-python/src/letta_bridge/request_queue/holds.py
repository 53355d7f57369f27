"""Holds: while a user's lane is held, no bridge of the queue begins a turn of the user.

An erasure's hold is a lease, which its holder renews. After a holder was killed, another may take over after
:data:`STALE_SECONDS`, and the hold expires after :data:`TTL_SECONDS`. An operator's hold lasts for the requested time,
unless an operator ends it before; no erasure takes it over.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final, cast

from letta_bridge.request_queue.keys import Keys
from letta_bridge.request_queue.scripts import ScriptRunner, read
from shared_utils.errors import ServiceError
from shared_utils.redis.connection import CONNECTION_ERRORS, RedisClient
from shared_utils.task_end import end_and_log

TTL_SECONDS: Final = 60.0
STALE_SECONDS: Final = 20.0
RENEW_SECONDS: Final = 1.0
"""Also how long a turn may begin after Redis has lost the hold in a failover; the erasure then erases once more."""
MAX_HELD: Final = 1000
"""Lanes held at once: each dispatch passes over those of them that are ready."""

LONGEST_SECONDS: Final = 30 * 86_400.0
"""For which an operator may hold a user."""
_OPERATOR: Final = "operator"
"""The holder shared by all operators: each may prolong or end another operator's hold."""

_HOLD: Final = read("hold")
_UNHOLD: Final = read("unhold")


class LaneHeld(ServiceError):
    """Another holder holds this user's lane."""

    code = "lane_held"
    retryable = True


@dataclass(frozen=True, slots=True)
class Hold:
    """One held lane."""

    lane: str
    why: str
    held_seconds: float
    """Since it began."""
    seconds_left: float
    """Until it ends, unless it is renewed."""


class Holds:
    """The holds of one queue. Every method may raise one of ``CONNECTION_ERRORS``."""

    def __init__(self, client: RedisClient, keys: Keys) -> None:
        self._client = client
        self._keys = keys
        self._scripts = ScriptRunner(client, keys.script_keys)

    async def take(self, lane: str, holder: str, why: str) -> float:
        """Hold the lane, or renew the hold.

        Returns:
            0, or the seconds until another holder's hold may be taken over.

        Raises:
            LaneHeld: too many lanes are held.
        """
        return await self._take(lane, holder, why, TTL_SECONDS, is_lease=True)

    async def keep(self, lane: str, why: str, seconds: float) -> float:
        """Hold the lane for an operator for a time; returns 0, or as :meth:`take` if an erasure holds it.

        Raises:
            LaneHeld: too many lanes are held.
        """
        return await self._take(lane, _OPERATOR, why, seconds, is_lease=False)

    async def _take(self, lane: str, holder: str, why: str, seconds: float, *, is_lease: bool) -> float:
        ttl_ms, stale_ms = int(seconds * 1000), int(STALE_SECONDS * 1000)
        state, *wait_ms = await self._scripts.run(
            _HOLD, lane, holder, ttl_ms, stale_ms, MAX_HELD, why, "" if is_lease else 1
        )
        if state < 0:
            raise LaneHeld(f"{MAX_HELD} users are held already; release one first")
        return 0.0 if state else max(1, wait_ms[0]) / 1000

    async def lift(self, lane: str, holder: str = "") -> bool:
        """End a hold, of any holder if ``holder`` is empty; False if there was none."""
        return bool(await self._scripts.run(_UNHOLD, lane, holder))

    async def all(self) -> list[Hold]:
        """The lanes held now, the longest first."""
        held = cast("dict[bytes, bytes]", await self._client.hgetall(self._keys.held))
        seconds, micros = await self._client.time() if held else (0, 0)
        now_ms = seconds * 1000 + micros // 1000
        holds = []
        for lane, record in held.items():
            until, since, _renewed, _holder, why = record.decode(errors="replace").split(" ", 4)
            if int(until) > now_ms:
                left = (int(until) - now_ms) / 1000
                holds.append(Hold(lane.decode(errors="replace"), why, (now_ms - int(since)) / 1000, left))
        return sorted(holds, key=lambda hold: -hold.held_seconds)

    @contextlib.asynccontextmanager
    async def held(self, lane: str, why: str, patience: float) -> AsyncIterator[None]:
        """Hold the lane while the block runs; the block is cancelled if the hold is lost.

        Args:
            lane: the user.
            why: for people, one line.
            patience: seconds to wait for another holder to end.

        Raises:
            LaneHeld: another holder did not end in time, or has taken over.
        """
        holder = secrets.token_hex(8)
        await self._taken(lane, holder, why, patience)
        lost = False
        defect: BaseException | None = None
        try:
            async with asyncio.timeout(None) as limit:

                async def renew() -> None:
                    nonlocal lost, defect
                    try:
                        while not lost:
                            await asyncio.sleep(RENEW_SECONDS)
                            # While Redis is away the block fails by itself, or continues when Redis is back.
                            with contextlib.suppress(*CONNECTION_ERRORS):
                                lost = bool(await self.take(lane, holder, why))
                    except Exception as error:
                        defect = error
                        raise
                    finally:
                        if lost or defect:  # the block would go on without the hold
                            limit.reschedule(asyncio.get_running_loop().time())

                renewing = asyncio.create_task(renew(), name="hold")
                try:
                    yield
                finally:
                    await end_and_log(renewing)
        except TimeoutError:
            if lost:
                raise LaneHeld(
                    "another command now holds this user's lane; run this one again when that has ended"
                ) from None
            if defect:
                raise defect from None
            raise
        finally:
            with contextlib.suppress(*CONNECTION_ERRORS):
                await self.lift(lane, holder)

    async def _taken(self, lane: str, holder: str, why: str, patience: float) -> None:
        clock = asyncio.get_running_loop().time
        until = clock() + patience
        while (wait := await self.take(lane, holder, why)) > 0:
            if wait > STALE_SECONDS:
                raise LaneHeld(
                    "an operator holds this user's lane ('letta-bridge lanes' shows the reason); end the hold with "
                    "'letta-bridge "
                    "user release'"
                )
            if clock() + min(wait, RENEW_SECONDS) > until:
                raise LaneHeld(
                    "another erasure holds this user's lane; wait until it has ended, or end its hold with "
                    "'letta-bridge user release'"
                )
            await asyncio.sleep(min(wait, 1.0))
