"""Usage counters of users, shared by all bridges of a queue.

Two adapters pass one contract suite: ``redis_usage_store.py`` (the real one) and ``testing/usage_store.py`` (for
tests).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

DAY_SECONDS: Final = 86_400


@dataclass(frozen=True, slots=True)
class UsageSnapshot:
    """A user's usage at the beginning of a turn."""

    in_rate: bool = True
    """False if the user exceeds the rate; the turn is then not counted."""
    user_tokens: int = 0
    """Spent by the user since midnight UTC."""
    all_tokens: int = 0
    """Spent by all users since midnight UTC."""


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
