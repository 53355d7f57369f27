"""Ends background tasks for certain: Python before 3.12 and redis-py swallow a cancellation now and then."""

from __future__ import annotations

import asyncio
from typing import Any, Final

_CANCEL_AGAIN_SECONDS: Final = 2.0
"""What a task may take to leave things in order before it is cancelled once more."""


async def end(*tasks: asyncio.Task[Any]) -> None:
    """Cancel tasks until all of them have ended; what they raise is left in them.

    A loop around commands to Redis goes on where its cancellation comes in the moment in which a command has been sent.
    """
    running = set(tasks)
    while running:
        for task in running:
            task.cancel()
        _, running = await asyncio.wait(running, timeout=_CANCEL_AGAIN_SECONDS)
