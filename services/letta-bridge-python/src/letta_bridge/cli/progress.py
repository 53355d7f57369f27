"""How a long command shows how far it is: a line on standard error that is written over, and only on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


@contextmanager
def counting(did: str) -> Iterator[Callable[[str, int], None]]:
    """Gives what to call with what it is and how many; ``did`` says what was done to them."""
    console = Console(stderr=True)
    with Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        console=console, transient=True, disable=not sys.stderr.isatty(),
    ) as progress:  # fmt: skip
        tasks: dict[str, int] = {}

        def count(what: str, number: int) -> None:
            if what not in tasks:
                tasks[what] = int(progress.add_task(f"{what} {did}", total=None))
            progress.update(tasks[what], completed=number)  # type: ignore[arg-type]  # a NewType of int there

        yield count
