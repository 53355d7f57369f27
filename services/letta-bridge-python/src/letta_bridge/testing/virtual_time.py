"""An event loop whose time passes by what is done, not by the clock: a slow machine changes no outcome.

Each turn of the loop takes a tick. While all tasks wait for a time, that time comes at once. So a deadline of a tenth
of a second is a thousand turns of the loop, however long they take. It is for fakes in memory: what a socket brings
would come too late.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable
from typing import Any, Final

_TICK_SECONDS: Final = 0.000_1


class _Selector(selectors.DefaultSelector):
    """Gives the loop its time.

    State: the time, and how many calls are at work in threads; while there are any, the loop waits for them.
    """

    now = 0.0
    threads = 0

    def select(self, timeout: float | None = None) -> Any:
        """See :class:`selectors.BaseSelector`."""
        waits = timeout is None or self.threads > 0
        events = super().select(timeout if waits else 0)
        self.now += _TICK_SECONDS if waits or events else max(_TICK_SECONDS, timeout or 0.0)
        return events


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """The loop."""

    def __init__(self) -> None:
        self._time = _Selector()
        super().__init__(self._time)

    def time(self) -> float:
        """Seconds since the loop was made."""
        return self._time.now

    def run_in_executor(  # type: ignore[override]  # the generics of the base say no more
        self, executor: Any, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        """See :meth:`asyncio.loop.run_in_executor`."""
        future = super().run_in_executor(executor, func, *args)
        self._time.threads += 1
        future.add_done_callback(self._thread_ended)
        return future

    async def shutdown_default_executor(self, *args: Any) -> None:
        """See :meth:`asyncio.loop.shutdown_default_executor`, whose limit, from Python 3.12 on, is one of real time."""
        self._time.threads += 1
        try:
            await super().shutdown_default_executor(*args)
        finally:
            self._time.threads -= 1

    def _thread_ended(self, _future: asyncio.Future[Any]) -> None:
        self._time.threads -= 1
