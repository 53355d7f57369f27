"""Calls from threads into the event loop that a store works in."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from concurrent.futures import CancelledError, wait
from typing import Any, Final, TypeVar

_LOOK_SECONDS: Final = 0.5
"""Between two looks whether the loop is still running."""

_Result = TypeVar("_Result")


def result_of(coroutine: Coroutine[Any, Any, _Result], loop: asyncio.AbstractEventLoop | None, wrong: str) -> _Result:
    """What a coroutine returns that runs in another thread's loop.

    A loop that ends meanwhile never answers: who waited for it would keep the whole program from ending.

    Args:
        coroutine: to be run.
        loop: to run it in.
        wrong: what to say where that loop does not run, or runs in this very thread.

    Raises:
        RuntimeError: the loop cannot run it, or has ended before it was done.
    """
    if loop is None or not loop.is_running() or loop is running_loop():
        coroutine.close()
        raise RuntimeError(wrong)
    future = asyncio.run_coroutine_threadsafe(coroutine, loop)
    while not wait([future], timeout=_LOOK_SECONDS).done:
        if not loop.is_running():
            future.cancel()
            raise RuntimeError(f"the event loop ended before the call was done; {wrong}")
    try:
        return future.result()
    except CancelledError:
        raise RuntimeError(f"the event loop was ended while the call went on; {wrong}") from None


def running_loop() -> asyncio.AbstractEventLoop | None:
    """This thread's."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
