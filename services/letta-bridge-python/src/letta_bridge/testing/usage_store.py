"""Usage counters in memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from letta_bridge.limits.usage_store import DAY_SECONDS, UsageSnapshot


class InMemoryUsageStore:
    """The meter of one process. Times are seconds of ``clock``, since 1970."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._full_until: dict[str, float] = {}
        self._tokens: Counter[tuple[int, str | None]] = Counter()

    async def admit(self, user_id: str, *, per_minute: float, burst: int) -> UsageSnapshot:
        """See :class:`UsageStore`."""
        day = int(self._clock() // DAY_SECONDS)
        in_rate = not per_minute or self._take(user_id, 60.0 / per_minute, burst)
        return UsageSnapshot(in_rate, self._tokens[day, user_id], self._tokens[day, None])

    async def spend(self, user_id: str, tokens: int) -> None:
        """See :class:`UsageStore`."""
        day = int(self._clock() // DAY_SECONDS)
        self._tokens[day, user_id] += tokens
        self._tokens[day, None] += tokens

    def _take(self, user_id: str, interval: float, burst: int) -> bool:
        now = self._clock()
        full_until = max(self._full_until.get(user_id, now), now)
        if full_until - now > interval * (burst - 1):
            return False
        self._full_until[user_id] = full_until + interval
        return True
