"""FastStream over a Redis list."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

from faststream import FastStream
from faststream.redis import ListSub, RedisBroker
from redis.asyncio import Redis

from bridge_bench.worker_side.tasks import CONCURRENCY, REDIS_URL, RESPONSES
from bridge_bench.worker_side.turns import AsyncTurns

_AT_ONCE = 50  # its pool of connections does not wait, but fails where it is full

broker = RedisBroker(REDIS_URL)
app = FastStream(broker)
_redis = Redis.from_url(REDIS_URL)
_turns = AsyncTurns(lambda reply: _redis.publish(RESPONSES, reply))


@broker.subscriber(list=ListSub("bench-tasks"), max_workers=CONCURRENCY)
async def work(payload: str) -> None:
    """One task."""
    await _turns.work(payload)


@asynccontextmanager
async def producer() -> AsyncIterator[Callable[[Sequence[str]], Awaitable[None]]]:
    """A function that sends a batch."""

    async def push(batch: Sequence[str]) -> None:
        for start in range(0, len(batch), _AT_ONCE):
            some = batch[start : start + _AT_ONCE]
            await asyncio.gather(*(broker.publish(payload, list="bench-tasks") for payload in some))

    async with broker:
        yield push
