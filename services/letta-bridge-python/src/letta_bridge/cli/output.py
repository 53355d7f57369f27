"""Prints tables, JSON, ages, and untrusted text."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""What could move the cursor, colour the terminal or turn a line around."""
_PIPE_WIDTH: Final = 1000
"""Columns where no terminal limits them: a program that reads a table wants it whole."""
_PERIOD: Final = re.compile(r"(\d+(?:\.\d+)?)(s|m|h|d)")
_PERIOD_SECONDS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_UNITS: Final = (("d", 86_400), ("h", 3_600), ("min", 60))


def print_json(content: Any) -> None:
    """Print one line of JSON, with Chinese text unescaped."""
    typer.echo(json.dumps(content, ensure_ascii=False))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]], *, numbers: Sequence[str] = ()) -> None:
    """Print a table without a frame; the columns in ``numbers`` are right-aligned. Wide characters count as two."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, justify="right" if column in numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(plain(str(cell))) for cell in row))
    console = Console(highlight=False, width=None if sys.stdout.isatty() else _PIPE_WIDTH)
    with console.capture() as printed:
        console.print(table)
    for line in printed.get().splitlines():
        typer.echo(line.rstrip())


def plain(text: str) -> str:
    """One line that a terminal only shows: each control character becomes a space."""
    return _CONTROL.sub(" ", text)


def cut(text: str, characters: int) -> str:
    """The text, or its beginning."""
    return text if len(text) <= characters else f"{text[: characters - 1]}…"


def duration(seconds: float) -> str:
    """For people: ``0.4 s``, ``12 s``, ``3 min``, ``2 h 5 min``, ``3 d 1 h``."""
    if seconds < 10:  # noqa: PLR2004  # below, a tenth still says something
        return f"{seconds:.1f} s"
    left, parts = int(seconds), []
    for unit, size in _UNITS:
        count, left = divmod(left, size)
        if count:
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2]) if parts else f"{left} s"


def seconds_of(period: str) -> float | None:
    """A period such as ``90s``, ``10m``, ``2h`` or ``1.5d`` in seconds; None if it is not one."""
    found = _PERIOD.fullmatch(period)
    return float(found[1]) * _PERIOD_SECONDS[found[2]] if found else None


def moment(timestamp: object) -> str:
    """Seconds since 1970 as local time; a dash if there is no time."""
    try:
        return datetime.fromtimestamp(float(str(timestamp)), UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError, OSError):
        return "-"
