"""Ends tasks for sure."""

from __future__ import annotations

import asyncio
from typing import Any, Final, TypeVar

_Result = TypeVar("_Result")

_AGAIN_SECONDS: Final = 0.05


async def end(task: asyncio.Task[Any]) -> None:
    """Cancel a task until it has ended, because ``asyncio.wait_for`` of Python 3.11, in redis-py, can lose a cancel."""
    while not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=_AGAIN_SECONDS)


async def within(seconds: float | None, task: asyncio.Task[_Result]) -> _Result:
    """The result of a task that ends in time; None: it has any time.

    Raises:
        TimeoutError: it did not, or was cancelled by another one.
    """
    try:
        await asyncio.wait([task], timeout=None if seconds is None else max(seconds, 0))
    finally:
        await end(task)
    if task.cancelled():
        raise TimeoutError
    return task.result()
