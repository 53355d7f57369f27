"""How late the event loop is: what blocks it shows here first."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Final, Protocol

_EVERY_SECONDS: Final = 0.5


class _Observer(Protocol):
    def observe(self, amount: float) -> None: ...


@contextlib.asynccontextmanager
async def loop_lag_watched(histogram: _Observer) -> AsyncIterator[None]:
    """For the length of the block, observe twice a second by how many seconds a timer is late."""
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
        histogram.observe(max(0.0, clock() - due))
