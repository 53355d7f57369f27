"""Schedules sweeps: rounds over all data, with a rest after each."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Self

from letta_bridge.vectors.port import IDLE_PAUSE_SECONDS, Step


@dataclass(frozen=True, slots=True)
class SweepPosition:
    """Where a sweep is."""

    due: float
    """Seconds since 1970 before which it rests."""
    phase: str
    after: str = ""

    def __str__(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def read(cls, text: str) -> Self:
        """From what :meth:`__str__` gave."""
        return cls(**json.loads(text))


class SweepSchedule:
    """Decides when a sweep continues, and when it rests.

    Args:
        every: seconds from the end of a round to the beginning of the next; 0 for one that never rests.
        first: the phase a round begins with.
        clock: seconds since 1970.
    """

    def __init__(self, every: float, first: str, clock: Callable[[], float] = time.time) -> None:
        self._every = every
        self._first = first
        self._clock = clock

    def read(self, position: str) -> SweepPosition:
        """Where it is; a sweep that never ran has its first round after a rest: all is new, and done elsewhere."""
        return SweepPosition.read(position) if position else self._next()

    def resting(self, at: SweepPosition) -> Step | None:
        """What to answer where it is too early; None where there is work."""
        return Step(str(at), IDLE_PAUSE_SECONDS) if self._clock() < at.due else None

    def gone_on(self, at: SweepPosition, after: str) -> Step:
        """The next step of the same phase."""
        return Step(str(replace(at, after=after)))

    def phase(self, at: SweepPosition, phase: str) -> Step:
        """The beginning of another phase."""
        return Step(str(replace(at, phase=phase, after="")))

    def over(self) -> Step:
        """The end of a round."""
        return Step(str(self._next()), IDLE_PAUSE_SECONDS)

    def _next(self) -> SweepPosition:
        return SweepPosition(self._clock() + self._every, self._first)
