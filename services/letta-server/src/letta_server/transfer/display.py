"""The progress of a move: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Protocol

_REPORT_EVERY_SECONDS: Final = 30.0
"""Seconds after which a long step says in a line how far it is."""


class Display(Protocol):
    """Follows one piece of work after the other."""

    def begin(self, work: str, total: int) -> None:
        """A piece of work starts: its name, and how many rows it has."""
        ...

    def advance(self, rows: int) -> None: ...

    def end(self) -> None:
        """The piece begun last is done."""
        ...


class Lines:
    """A line a piece of work, on stdout."""

    def __init__(self) -> None:
        self._work, self._total, self._rows, self._spoke = "", 0, 0, 0.0

    def begin(self, work: str, total: int) -> None:
        self._work, self._total, self._rows, self._spoke = work, total, 0, time.monotonic()

    def advance(self, rows: int) -> None:
        self._rows += rows
        if time.monotonic() - self._spoke >= _REPORT_EVERY_SECONDS:
            self._spoke = time.monotonic()
            self._say(f"{self._work}: {self._rows} of {self._total} rows")

    def end(self) -> None:
        self._say(f"{self._work}: {self._rows} rows")

    @staticmethod
    def _say(line: str) -> None:
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()


@contextmanager
def display() -> Iterator[Display]:
    """The one that fits where the output goes."""
    if not sys.stderr.isatty():
        yield Lines()
        return
    # rich takes a tenth of a second to import, and only a terminal needs it.
    from letta_server.transfer.bar import Bar  # noqa: PLC0415

    with Bar() as bar:
        yield bar
