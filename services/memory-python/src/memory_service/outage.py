"""An outage of Redis: logged once by the whole service, awaited by each of its loops, and logged again at its end."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from typing import Final

from structlog.typing import FilteringBoundLogger

from shared_utils.observability.outage import OncePerOutage
from shared_utils.redis.failures import explain
from shared_utils.waiting import wait_or_timeout

_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 2.0


class Outage:
    """The state of Redis that the service's loops share."""

    def __init__(self, log: FilteringBoundLogger, stopping: asyncio.Event) -> None:
        self._log = log
        self._stopping = stopping
        self._once = OncePerOutage()
        self._pauses: dict[str, float] = {}
        self._troubles: dict[str, str] = {}

    @property
    def troubles(self) -> Mapping[str, str]:
        """Part → why it is blocked, in one sentence; working parts are left out."""
        return self._troubles

    async def wait(self, part: str, error: Exception) -> None:
        """Pause ``part`` before its next try, longer each time; briefly while the service is stopping."""
        kind, reason = type(error).__name__, explain(error)
        self._once.failed(reason, lambda said: self._log.warning("redis_unavailable", part=part, kind=kind, error=said))
        self._troubles[part] = reason
        pause = self._pauses.get(part, _FIRST_PAUSE)
        self._pauses[part] = min(pause * 2, _LONGEST_PAUSE)
        if self._stopping.is_set():
            await asyncio.sleep(_FIRST_PAUSE)
            return
        spread = random.uniform(0.8, 1.2)  # noqa: S311  # spreads load, guards nothing
        await wait_or_timeout(self._stopping, pause * spread)

    def over(self, part: str) -> None:
        """Redis answered ``part``."""
        self._troubles.pop(part, None)
        if self._pauses.pop(part, None) is not None and not self._pauses:
            self._once.worked(lambda: self._log.info("redis_available"))


def failing(times: int, reason: str) -> str:
    """For people: how often something failed in a row, and why the last time."""
    return f"failed {'once' if times == 1 else f'{times} times in a row'}: {reason}"
