"""A circuit breaker: a server that keeps failing is left alone for a while, then tried with one turn."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum


class BreakerState(StrEnum):
    """closed: turns pass. open: none does. half_open: the pause is over, one turn may try."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(frozen=True, slots=True)
class BreakerPolicy:
    """When a breaker opens and for how long.

    Attributes:
        failures: failures in a row that open it.
        pause: seconds of the first pause; doubled at each failed try.
        longest_pause: seconds, the cap of that growth.
        jitter: share of a pause that is added at random, so that bridges do not try in step.
    """

    failures: float = 5
    pause: float = 5.0
    longest_pause: float = 60.0
    jitter: float = 0.2


class Permit:
    """Leave to send one turn. Tell it the outcome once; every later word is ignored."""

    __slots__ = ("_breaker", "_era")

    def __init__(self, breaker: Breaker, era: int) -> None:
        self._breaker: Breaker | None = breaker
        self._era = era

    def succeeded(self) -> None:
        """The server answered."""
        if (breaker := self._spent()) is not None:
            breaker._succeeded(self._era)  # noqa: SLF001 - a permit is a part of its breaker

    def failed(self, weight: float = 1.0) -> None:
        """The server failed; ``weight`` below 1 counts as a part of a failure."""
        if (breaker := self._spent()) is not None:
            breaker._failed(self._era, weight)  # noqa: SLF001

    def released(self) -> None:
        """Nothing was learnt, for example because the turn was cancelled."""
        if (breaker := self._spent()) is not None:
            breaker._released(self._era)  # noqa: SLF001

    def _spent(self) -> Breaker | None:
        breaker, self._breaker = self._breaker, None
        return breaker


class Breaker:
    """One server's breaker. Not thread-safe: it belongs to one event loop.

    Each change of state starts a new era. What a turn of an older era learnt says nothing about the present one: a turn
    sent before the server broke must not close the breaker, nor push its pause further out.
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
        self._strikes = 0.0
        self._pauses = 0
        self._open_until: float | None = None
        self._trying = False

    @property
    def state(self) -> BreakerState:
        if self._open_until is None:
            return BreakerState.CLOSED
        return BreakerState.HALF_OPEN if self._clock() >= self._open_until else BreakerState.OPEN

    @property
    def ready(self) -> bool:
        """Whether ``enter`` would give a permit."""
        return self.ready_in <= 0 and not self._trying

    @property
    def ready_in(self) -> float:
        """Seconds until a turn may try; 0 where the breaker is closed or half open."""
        return 0.0 if self._open_until is None else max(0.0, self._open_until - self._clock())

    def enter(self) -> Permit | None:
        """A permit for one turn, or None: the pause is not over, or another turn is trying already."""
        if not self.ready:
            return None
        self._trying = self._open_until is not None
        return Permit(self, self._era)

    def _succeeded(self, era: int) -> None:
        if era != self._era:
            return
        self._strikes = 0.0
        if self._open_until is not None:
            self._era += 1
            self._open_until = None
            self._trying = False
            self._pauses = 0

    def _failed(self, era: int, weight: float) -> None:
        if era != self._era:
            return
        self._strikes += weight
        if self._trying or self._strikes >= self._policy.failures:
            self._open()

    def _released(self, era: int) -> None:
        if era == self._era:
            self._trying = False

    def _open(self) -> None:
        # 2**30 pauses of any length are beyond every cap; a larger exponent would overflow a float.
        pause = min(self._policy.pause * 2.0 ** min(self._pauses, 30), self._policy.longest_pause)
        self._open_until = self._clock() + pause * (1 + self._policy.jitter * self._jitter())
        self._era += 1
        self._pauses += 1
        self._strikes = 0.0
        self._trying = False
