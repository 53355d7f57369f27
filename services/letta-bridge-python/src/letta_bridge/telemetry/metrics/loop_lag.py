"""Measures the lag of the event loop, which reveals blocking code."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Final, Protocol

_EVERY_SECONDS: Final = 0.5
_MOST_TIMERS: Final = 600
"""Of those that one block of the loop delays, so many are observed: five minutes of them."""


class _Observer(Protocol):
    def observe(self, amount: float) -> None: ...


@contextlib.asynccontextmanager
async def loop_lag_watched(histogram: _Observer) -> AsyncIterator[None]:
    """For the length of the block, observe for each half second by how many seconds its timer is late.

    A blocked loop delays every timer that was due meanwhile, and each is counted; otherwise a block of ten seconds
    would look like one of half a second.
    """
    task = asyncio.create_task(_watch(histogram), name="loop-lag")
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def _watch(histogram: _Observer) -> None:
    clock = asyncio.get_running_loop().time
    while True:
        due = clock() + _EVERY_SECONDS
        await asyncio.sleep(_EVERY_SECONDS)
        lag = max(0.0, clock() - due)
        for number in range(min(int(lag / _EVERY_SECONDS) + 1, _MOST_TIMERS)):
            histogram.observe(lag - number * _EVERY_SECONDS)
