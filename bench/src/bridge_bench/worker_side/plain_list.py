"""The producer of the bridge and of the baselines: LPUSH, as the surrounding stack does it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

from redis.asyncio import Redis

from bridge_bench.worker_side.tasks import REDIS_URL, REQUESTS


@asynccontextmanager
async def producer() -> AsyncIterator[Callable[[Sequence[str]], Awaitable[None]]]:
    """A function that pushes a batch."""
    async with Redis.from_url(REDIS_URL) as client:

        async def push(batch: Sequence[str]) -> None:
            await client.lpush(REQUESTS, *batch)

        yield push
