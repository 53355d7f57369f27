"""What users have used up, shared by all bridges of a queue.

Two adapters pass one contract suite: ``redis_meter.py`` (the real one) and :class:`InMemoryUsageStore` (for tests).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

DAY_SECONDS: Final = 86_400


@dataclass(frozen=True, slots=True)
class UsageSnapshot:
    """Where a user stands at the beginning of a turn."""

    in_rate: bool = True
    """False where the user's turns come too fast; then this one is not counted."""
    user_tokens: int = 0
    """Spent by the user since midnight UTC."""
    all_tokens: int = 0
    """Spent by everybody since midnight UTC."""


class UsageStore(Protocol):
    """Counts turns and tokens. Every method may raise one of ``shared_utils.redis.connection.CONNECTION_ERRORS``."""

    async def admit(self, user_id: str, *, per_minute: float, burst: int) -> UsageSnapshot:
        """Count a turn of the user's.

        Args:
            user_id: whose.
            per_minute: turns in the long run; 0 is no limit, and nothing is counted.
            burst: turns at once after a pause.
        """
        ...

    async def spend(self, user_id: str, tokens: int) -> None:
        """Count tokens of the user's, of everybody's too."""
        ...


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
