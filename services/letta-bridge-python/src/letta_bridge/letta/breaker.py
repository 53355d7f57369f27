"""A circuit breaker: after repeated failures, a server gets no turns for a while, then one trial turn.

Only failures of the server open it. A failure counts in full while the server has answered nothing since the failures
began, so even a single user detects a server that is down. Once the server has answered anything, each user's failures
count only up to a share of the limit. Then only several users together open the breaker; one user's large context or
long answers do not.
"""

from __future__ import annotations

import random
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

_TRIAL_PAUSES: Final = 3
"""First pauses after which an unfinished trial admits another trial turn."""


class BreakerState(StrEnum):
    """closed: turns pass. open: no turn passes. half_open: the pause has ended, one trial turn may pass."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(frozen=True, slots=True)
class BreakerPolicy:
    """When a breaker opens and for how long.

    Attributes:
        failures: consecutive failures that open it.
        pause: seconds of the first pause; doubled after each failed trial.
        longest_pause: seconds, the cap of that growth.
        jitter: share of a pause that is added at random, so that bridges do not retry in step.
        user_share: part of ``failures`` that one user's count for, once the server has answered something.
    """

    failures: float = 5
    pause: float = 5.0
    longest_pause: float = 60.0
    jitter: float = 0.2
    user_share: float = 0.4


class Permit:
    """The permission to send one turn. Report its outcome once; later reports are ignored."""

    __slots__ = ("_breaker", "_era", "_user")

    def __init__(self, breaker: Breaker, era: int, user: str) -> None:
        self._breaker: Breaker | None = breaker
        self._era = era
        self._user = user

    def succeeded(self) -> None:
        """The server answered."""
        if (breaker := self._spent()) is not None:
            breaker._succeeded(self._era)  # noqa: SLF001 - a permit is a part of its breaker

    def failed(self, weight: float = 1.0) -> None:
        """The server failed; ``weight`` below 1 counts as a part of a failure."""
        if (breaker := self._spent()) is not None:
            breaker._failed(self._era, self._user, weight)  # noqa: SLF001

    def released(self) -> None:
        """The outcome is unknown, for example because the turn was cancelled."""
        if (breaker := self._spent()) is not None:
            breaker._released(self._era)  # noqa: SLF001

    def _spent(self) -> Breaker | None:
        breaker, self._breaker = self._breaker, None
        return breaker


class Breaker:
    """One server's breaker. Not thread-safe: it belongs to one event loop.

    Each change of state starts a new era, and outcomes of turns from older eras are ignored: a turn that was sent
    before the server failed must neither close the breaker nor lengthen its pause.
    """

    def __init__(
        self,
        policy: BreakerPolicy | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._policy = policy or BreakerPolicy()
        self._clock = clock
        self._jitter = jitter
        self._era = 0
        self._unanswered = 0.0
        """Failures since the server last answered anything."""
        self._by_user: defaultdict[str, float] = defaultdict(float)
        """Failures of each user since a turn last succeeded."""
        self._pauses = 0
        self._open_until: float | None = None
        self._trying_since: float | None = None

    @property
    def state(self) -> BreakerState:
        if self._open_until is None:
            return BreakerState.CLOSED
        return BreakerState.HALF_OPEN if self._clock() >= self._open_until else BreakerState.OPEN

    @property
    def ready(self) -> bool:
        """Whether ``enter`` would give a permit."""
        return self._open_until is None or (self.ready_in <= 0 and not self._trying)

    @property
    def ready_in(self) -> float:
        """Seconds until a trial turn may pass; 0 if the breaker is closed or half open."""
        return 0.0 if self._open_until is None else max(0.0, self._open_until - self._clock())

    def enter(self, user: str = "") -> Permit | None:
        """A permit for one turn of this user; None during the pause, or while another trial turn is running."""
        if not self.ready:
            return None
        self._trying_since = None if self._open_until is None else self._clock()
        return Permit(self, self._era, user)

    def answered(self) -> None:
        """The server answered a request, not necessarily a turn, so it is not down."""
        self._unanswered = 0.0

    @property
    def _trying(self) -> bool:
        """Whether a trial turn is running. A slow one does not block further trials for ever."""
        patience = _TRIAL_PAUSES * self._policy.pause
        return self._trying_since is not None and self._clock() - self._trying_since < patience

    def _succeeded(self, era: int) -> None:
        if era != self._era:
            return
        self._forget()
        if self._open_until is not None:
            self._era += 1
            self._open_until = None
            self._trying_since = None
            self._pauses = 0

    def _failed(self, era: int, user: str, weight: float) -> None:
        if era != self._era:
            return
        self._unanswered += weight
        self._by_user[user] += weight
        most = self._policy.failures
        of_users = sum(min(failures, most * self._policy.user_share) for failures in self._by_user.values())
        if self._trying_since is not None or self._unanswered >= most or of_users >= most:
            self._open()

    def _released(self, era: int) -> None:
        if era == self._era:
            self._trying_since = None

    def _open(self) -> None:
        # 2**30 pauses of any length are beyond every cap; a larger exponent would overflow a float.
        pause = min(self._policy.pause * 2.0 ** min(self._pauses, 30), self._policy.longest_pause)
        self._open_until = self._clock() + pause * (1 + self._policy.jitter * self._jitter())
        self._era += 1
        self._pauses += 1
        self._forget()
        self._trying_since = None

    def _forget(self) -> None:
        self._unanswered = 0.0
        self._by_user.clear()
