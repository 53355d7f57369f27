"""Ends a command's work on ^C for certain, however long it waits; see ``shared_utils.task_end``."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

from shared_utils.task_end import end

_Result = TypeVar("_Result")


def run_command(work: Coroutine[Any, Any, _Result], *, signals: Sequence[signal.Signals] = (signal.SIGINT,)) -> _Result:
    """Run the work and return its result. The first signal cancels it; a second ^C ends the program at once.

    Raises:
        KeyboardInterrupt: a signal came before the work had ended.
    """
    return asyncio.run(_interruptible(work, signals))


async def _interruptible(work: Coroutine[Any, Any, _Result], signals: Sequence[signal.Signals]) -> _Result:
    loop, interrupted = asyncio.get_running_loop(), asyncio.Event()

    def interrupt() -> None:
        interrupted.set()
        for number in signals:
            loop.remove_signal_handler(number)

    for number in signals:
        with contextlib.suppress(RuntimeError, ValueError):  # only the main thread may ask for signals
            loop.add_signal_handler(number, interrupt)
    task, waiting = asyncio.ensure_future(work), asyncio.ensure_future(interrupted.wait())
    try:
        await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
        await end(task)
    finally:
        waiting.cancel()
    if interrupted.is_set() and task.cancelled():
        raise KeyboardInterrupt
    return task.result()
