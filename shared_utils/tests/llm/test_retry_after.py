"""How long a server asks to be left alone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from shared_utils.llm.retry_after import RETRY_AFTER_CAP, parse_retry_after


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None), ("", None), ("soon", None), ("nan", None), ("0.5", 0.5), ("-3", 0.0),
        ("3600", RETRY_AFTER_CAP), ("inf", RETRY_AFTER_CAP), ("Fri, 20 Nov 2020 10:00:00 GMT", 0.0),
    ],
)  # fmt: skip
def test_retry_after_is_parsed_to_seconds(value: str | None, seconds: float | None) -> None:
    assert parse_retry_after(value) == seconds


def test_retry_after_as_a_date() -> None:
    seconds = parse_retry_after(format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True))
    assert seconds is not None
    assert 20 < seconds <= 30
