"""arq, started from a script so that it runs on uvloop; results are not kept, as nobody asks for them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import uvloop
from arq import create_pool
from arq.connections import RedisSettings
from arq.worker import Worker
from redis.asyncio import Redis

from bridge_bench.worker_side.tasks import CONCURRENCY, REDIS_URL, RESPONSES
from bridge_bench.worker_side.turns import AsyncTurns

_SETTINGS = RedisSettings.from_dsn(REDIS_URL)

_redis = Redis.from_url(REDIS_URL)
_turns = AsyncTurns(lambda reply: _redis.publish(RESPONSES, reply))


async def work(_context: Any, payload: str) -> None:
    """One task."""
    await _turns.work(payload)


async def _serve() -> None:
    await Worker([work], redis_settings=_SETTINGS, max_jobs=CONCURRENCY, keep_result=0).async_run()


@asynccontextmanager
async def producer() -> AsyncIterator[Callable[[Sequence[str]], Awaitable[None]]]:
    """A function that sends a batch."""
    pool = await create_pool(_SETTINGS)

    async def push(batch: Sequence[str]) -> None:
        await asyncio.gather(*(pool.enqueue_job("work", payload) for payload in batch))

    try:
        yield push
    finally:
        await pool.aclose()


if __name__ == "__main__":
    uvloop.run(_serve())
