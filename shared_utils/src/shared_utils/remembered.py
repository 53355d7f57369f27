"""An answer that many may ask for at once and that is asked for rarely."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

_Answer = TypeVar("_Answer")


class Remembered(Generic[_Answer]):
    """What ``ask`` returns, at most ``seconds`` old; one call asks for all that come meanwhile.

    An error is told to whoever asked, and not remembered.
    """

    def __init__(self, ask: Callable[[], Awaitable[_Answer]], seconds: float) -> None:
        self._ask = ask
        self._seconds = seconds
        self._answer: tuple[float, _Answer] | None = None
        self._asking = asyncio.Lock()

    async def __call__(self) -> _Answer:
        """The answer."""
        async with self._asking:
            # Counted from before the question: an answer is never older than it seems.
            now = time.monotonic()
            if self._answer is None or now - self._answer[0] >= self._seconds:
                self._answer = (now, await self._ask())
            return self._answer[1]
