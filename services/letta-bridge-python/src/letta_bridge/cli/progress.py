"""Shows the progress of a long command on standard error: one updated line, or occasional lines in a log."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from letta_bridge.cli.common import tell

_LOG_SECONDS: Final = 30.0
"""Between two lines where no terminal shows a bar."""
_PATIENCE_SECONDS: Final = 1.0
"""Duration after which a command prints progress."""


@contextmanager
def counting(did: str) -> Iterator[Callable[[str, int], None]]:
    """Returns the progress callback (label, count); ``did`` is the verb in its lines."""
    if not sys.stderr.isatty():
        yield _logged(did)
        return
    console = Console(stderr=True)
    with Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        console=console, transient=True,
    ) as progress:  # fmt: skip
        tasks: dict[str, int] = {}

        def count(what: str, number: int) -> None:
            if what not in tasks:
                tasks[what] = int(progress.add_task(f"{what} {did}", total=None))
            progress.update(tasks[what], completed=number)  # type: ignore[arg-type]  # a NewType of int there

        yield count


def _logged(did: str) -> Callable[[str, int], None]:
    last = time.monotonic()

    def count(what: str, number: int) -> None:
        nonlocal last
        if time.monotonic() - last >= _LOG_SECONDS:
            last = time.monotonic()
            tell(f"{number} {what} {did}")

    return count


class SlowSteps:
    """Called with each beginning step; prints nothing for the first second, then the present and each later step.

    Args:
        write: gets one line without its end.
        patience: seconds from the first step to the first line.
    """

    def __init__(self, write: Callable[[str], None] = tell, *, patience: float = _PATIENCE_SECONDS) -> None:
        self._write = write
        self._patience = patience
        self.step = ""
        """The one that it is at; empty before the first."""
        self._begun = self._told = False

    def __call__(self, step: str) -> None:
        """A step begins; to be called inside an event loop."""
        self.step = step
        if self._told:
            self._write(f"… {step}")
        elif not self._begun:
            self._begun = True
            asyncio.get_running_loop().call_later(self._patience, self._tell)

    def _tell(self) -> None:
        self._told = True
        self._write(f"… {self.step}")
