"""dramatiq with async actors: one event loop for all worker threads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import dramatiq
import uvloop
from dramatiq.brokers.redis import RedisBroker
from dramatiq.middleware.asyncio import AsyncIO
from redis.asyncio import Redis

from bridge_bench.worker_side.tasks import REDIS_URL, RESPONSES
from bridge_bench.worker_side.turns import AsyncTurns

asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())  # the middleware takes what the policy gives
broker = RedisBroker(url=REDIS_URL)
broker.add_middleware(AsyncIO())
dramatiq.set_broker(broker)

_redis = Redis.from_url(REDIS_URL)
_turns = AsyncTurns(lambda reply: _redis.publish(RESPONSES, reply))


@dramatiq.actor(max_retries=0)
async def work(payload: str) -> None:
    """One task."""
    await _turns.work(payload)


@asynccontextmanager
async def producer() -> AsyncIterator[Callable[[Sequence[str]], Awaitable[None]]]:
    """A function that sends a batch."""

    async def push(batch: Sequence[str]) -> None:
        for payload in batch:
            work.send(payload)

    yield push
