"""The clock by which leases are measured: it never jumps, and goes on while the machine sleeps."""

from __future__ import annotations

import time
from typing import Final

_CLOCK: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""Goes on while the machine sleeps, where there is such a clock, so that a bridge that was away for long notices."""


def clock() -> float:
    """Seconds, of no particular beginning."""
    return time.clock_gettime(_CLOCK)
