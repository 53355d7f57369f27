"""The tables of the session file, in numbered steps (tables.sql), and time as their columns hold it."""

from __future__ import annotations

import re
import sqlite3
from datetime import UTC, datetime
from functools import cache
from importlib import resources
from typing import Final

_STEP: Final = re.compile(r"^-- step: \d+$", re.MULTILINE)


def prepare(connection: sqlite3.Connection) -> None:
    """Make the tables, or bring those of an older release up to date."""
    [version] = connection.execute("PRAGMA user_version").fetchone()
    for number, step in enumerate(_steps()[version:], version + 1):
        for statement in step.split(";"):
            connection.execute(statement)  # executescript would end the transaction
        connection.execute(f"PRAGMA user_version = {number}")


def time_text(time: datetime) -> str:
    """ISO 8601 in UTC, always of one length, so that text compares as time does."""
    return time.astimezone(UTC).isoformat(timespec="microseconds")


@cache
def _steps() -> list[str]:
    text = resources.files(__package__).joinpath("tables.sql").read_text("utf-8")
    return _STEP.split(text)[1:]
