"""Ends background tasks for certain: Python before 3.12 and redis-py swallow a cancellation now and then."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from typing import Any, Final, TypeVar

from shared_utils.observability import logs

_log = logs.get(__name__)
_CANCEL_AGAIN_SECONDS: Final = 2.0
"""Time for a task to clean up before it is cancelled again."""

_Result = TypeVar("_Result")


async def end(*tasks: asyncio.Task[Any]) -> None:
    """Cancel tasks until all of them have ended; what they raise is left in them.

    A loop around commands to Redis goes on where its cancellation comes in the moment in which a command has been sent.
    """
    running = set(tasks)
    while running:
        for task in running:
            task.cancel()
        _, running = await asyncio.wait(running, timeout=_CANCEL_AGAIN_SECONDS)


async def end_and_log(*tasks: asyncio.Task[Any]) -> None:
    """As :func:`end`, for tasks whose errors nobody else asks for: each is logged."""
    await end(*tasks)
    log_failures(*tasks)


def log_failures(*tasks: asyncio.Task[Any]) -> None:
    """Log what tasks that have ended raised."""
    for task in tasks:
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("background_task_failed", task=task.get_name(), exc_info=error)


async def completed(work: Coroutine[Any, Any, _Result]) -> _Result:
    """What the work returns. A cancellation takes effect when the work has ended, not in the middle of it."""
    task, cancelled = asyncio.ensure_future(work), False
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            cancelled = True
    if cancelled:
        with contextlib.suppress(asyncio.CancelledError):
            task.exception()  # the cancellation hides it
        raise asyncio.CancelledError
    return task.result()


@contextlib.asynccontextmanager
async def background(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Do the work beside a block, and end it with the block. An error of the work is raised there."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        await end(task)
        with contextlib.suppress(asyncio.CancelledError):
            await task
