"""Limits: rate, token budgets, age, and waiting tasks of a user. Each has an error code of its own.

A limit that is off costs nothing; without a limit that needs the meter, the meter is not used. While the meter is away
(its Redis is the queue's), turns pass (fail open).
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from letta_bridge.errors import LimitReached, RateLimited, TaskExpired, TokenBudgetExhausted, UserTokenBudgetExhausted
from letta_bridge.limits.usage_store import UsageSnapshot, UsageStore
from letta_bridge.request_queue.port import Turn
from letta_bridge.settings import LimitSettings
from shared_utils.contracts.messages import Task
from shared_utils.observability import logs
from shared_utils.observability.outage import OncePerOutage
from shared_utils.redis.connection import CONNECTION_ERRORS
from shared_utils.redis.failures import error_text

_log = logs.get("letta_bridge.guards.guards")

_EARLIEST_WALL_CLOCK: Final = 1_500_000_000.0
"""A producer's timestamp before this (2017) is no wall clock."""


@dataclass(slots=True)
class Admission:
    """An admitted turn; whether Letta may answer it is decided by :meth:`to_letta`."""

    soft: LimitReached | None = None
    hard: LimitReached | None = None

    def to_letta(self) -> LimitReached | None:
        """Why memory-python should answer in Letta's place; None if Letta may answer.

        Raises:
            LimitReached: a hard budget is spent.
        """
        if self.hard is not None:
            raise self.hard
        return self.soft


class Limiter:
    """Checks each turn once, at its beginning.

    Args:
        settings: the limits.
        meter: what users have used up.
        clock: seconds since 1970.
    """

    def __init__(
        self, settings: LimitSettings, usage_store: UsageStore, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._usage_store = usage_store
        self._clock = clock
        self._outage = OncePerOutage()
        self.reload(settings)

    def reload(self, settings: LimitSettings) -> None:
        """Apply changed limits; admitted turns stay admitted."""
        self._settings = settings
        budgets = (settings.user_tokens, settings.all_tokens)
        self._budgeted = any(budget.soft or budget.hard for budget in budgets)
        self._metered = bool(settings.turns_per_minute) or self._budgeted

    async def admit(self, turn: Turn, task: Task) -> Admission:
        """Check a turn against the limits.

        Raises:
            LimitReached: it gets an error reply in place of an answer.
        """
        limit = self._settings.max_age_seconds
        if limit and self._age(turn, task) > limit:
            raise TaskExpired(f"the task waited for more than {limit:g} s, so it is no longer answered")
        if not self._metered:
            return Admission()
        standing = await self._standing(task.user_id)
        if not standing.in_rate:
            raise RateLimited(
                f"this user sends more than {self._settings.turns_per_minute:g} messages a minute; send it again later"
            )
        return self._admission(standing)

    async def spent(self, user_id: str, tokens: int) -> None:
        """Count the tokens of a user's turn."""
        if tokens and self._budgeted:
            try:
                await self._usage_store.spend(user_id, tokens)
            except CONNECTION_ERRORS as error:
                self._store_unavailable(error)

    async def _standing(self, user_id: str) -> UsageSnapshot:
        settings = self._settings
        try:
            standing = await self._usage_store.admit(
                user_id, per_minute=settings.turns_per_minute, burst=settings.burst
            )
        except CONNECTION_ERRORS as error:
            self._store_unavailable(error)
            return UsageSnapshot()
        self._outage.worked()
        return standing

    def _store_unavailable(self, error: Exception) -> None:
        self._outage.failed(error_text(error), lambda reason: _log.warning("limits_unavailable", error=reason))

    def _admission(self, standing: UsageSnapshot) -> Admission:
        of_user, of_all = self._settings.user_tokens, self._settings.all_tokens
        if _over(standing.user_tokens, of_user.hard):
            return Admission(hard=UserTokenBudgetExhausted())
        if _over(standing.all_tokens, of_all.hard):
            return Admission(hard=TokenBudgetExhausted())
        if _over(standing.user_tokens, of_user.soft):
            return Admission(soft=UserTokenBudgetExhausted())
        if _over(standing.all_tokens, of_all.soft):
            return Admission(soft=TokenBudgetExhausted())
        return Admission()

    def _age(self, turn: Turn, task: Task) -> float:
        """Seconds since the task was pushed, as far as known.

        The time since it was taken is by Redis's clock. The time before that, while no bridge ran, is known only from
        the producer's timestamp; one that cannot be a wall-clock time is ignored.
        """
        pushed = _seconds(task.timestamp)
        return max(turn.queued_seconds, self._clock() - pushed if pushed > _EARLIEST_WALL_CLOCK else 0.0)


def _over(tokens: int, limit: int) -> bool:
    return 0 < limit <= tokens


def _seconds(timestamp: float | str | None) -> float:
    if isinstance(timestamp, str):
        try:
            moment = dt.datetime.fromisoformat(timestamp)
            return moment.timestamp() if moment.tzinfo else 0.0
        except (ValueError, OverflowError):
            return 0.0
    return timestamp or 0.0
