"""The clock that measures leases: it never jumps, and also runs while the machine sleeps."""

from __future__ import annotations

import time
from typing import Final

_CLOCK: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""Also runs while the machine sleeps, if the system has such a clock, so that a bridge detects a long sleep."""


def clock() -> float:
    """Seconds since an arbitrary start."""
    return time.clock_gettime(_CLOCK)
