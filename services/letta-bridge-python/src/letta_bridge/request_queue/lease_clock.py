"""The clock that measures leases: it never jumps, and also runs while the machine sleeps."""

from __future__ import annotations

import time
from typing import Final

_CLOCK: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""Goes on while the machine sleeps, where there is such a clock, so that a bridge that was away for long notices."""


def clock() -> float:
    """Seconds since an arbitrary start."""
    return time.clock_gettime(_CLOCK)
