"""An answer that many may ask for at once and that is asked for rarely."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

_Answer = TypeVar("_Answer")


class Remembered(Generic[_Answer]):
    """What ``ask`` returns, at most ``seconds`` old; one call asks for all that come while it goes on.

    With ``seconds`` 0 only callers at the same time share a call. An error is told to whoever asked, and not
    remembered.
    """

    def __init__(self, ask: Callable[[], Awaitable[_Answer]], seconds: float) -> None:
        self._ask = ask
        self._seconds = seconds
        self._answer: tuple[float, float, _Answer] | None = None
        """When it was asked for, when it came, and it."""
        self._asking = asyncio.Lock()

    async def __call__(self) -> _Answer:
        """The answer."""
        came = time.monotonic()
        async with self._asking:
            now = time.monotonic()
            if self._answer is not None:
                asked, answered, answer = self._answer
                # Counted from before the question: an answer is never older than it seems. Whoever has waited for one
                # takes it, however long it took: asking again for each of them, a slow source would never be done.
                if now - asked < self._seconds or answered > came:
                    return answer
            answer = await self._ask()
            self._answer = (now, time.monotonic(), answer)
            return answer
