"""Ends a command's work on ^C for certain.

Python before 3.12 and redis-py swallow a cancellation that comes in the moment in which what they wait for is done. A
loop that waits for minutes would then go on as if nobody had asked it to stop, so the work is cancelled until it ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Coroutine, Sequence
from typing import Any, Final, TypeVar

_CANCEL_AGAIN_SECONDS: Final = 3.0
"""What the work may take to leave things in order before it is cancelled once more."""

_Result = TypeVar("_Result")


def run_command(work: Coroutine[Any, Any, _Result], *, signals: Sequence[signal.Signals] = (signal.SIGINT,)) -> _Result:
    """What the work returns. The first of these signals cancels it; a second ^C ends the program at once.

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
        while not task.done():
            task.cancel()
            await asyncio.wait({task}, timeout=_CANCEL_AGAIN_SECONDS)
    finally:
        waiting.cancel()
    if interrupted.is_set() and task.cancelled():
        raise KeyboardInterrupt
    return task.result()
