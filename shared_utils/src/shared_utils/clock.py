"""The time, as in records."""

from __future__ import annotations

from datetime import UTC, datetime


def utc_now() -> datetime:
    """Now, with its time zone."""
    return datetime.now(UTC)
