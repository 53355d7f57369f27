"""The HTTP header ``Retry-After``."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

RETRY_AFTER_CAP: Final = 60.0
"""Seconds; a longer ``Retry-After`` is shortened to this."""


def parse_retry_after(value: str | None) -> float | None:
    """Seconds to wait, between 0 and ``RETRY_AFTER_CAP``; None where the header is absent or unreadable.

    Args:
        value: the header, in seconds or as a date.
    """
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            when = parsedate_to_datetime(value)
        except ValueError:
            return None
        seconds = (when.replace(tzinfo=when.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    return None if math.isnan(seconds) else min(max(seconds, 0.0), RETRY_AFTER_CAP)
