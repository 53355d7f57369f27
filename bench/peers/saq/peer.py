"""SAQ, started from a script so that it runs on uvloop; its own command does the same on asyncio's loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import orjson
import uvloop
from redis.asyncio import Redis
from saq import Worker
from saq.queue.redis import RedisQueue

from bridge_bench.worker_side.tasks import CONCURRENCY, REDIS_URL, RESPONSES
from bridge_bench.worker_side.turns import AsyncTurns

_redis = Redis.from_url(REDIS_URL)
_turns = AsyncTurns(lambda reply: _redis.publish(RESPONSES, reply))


async def work(_context: Any, *, payload: str) -> None:
    """One task."""
    await _turns.work(payload)


def _queue() -> RedisQueue:
    return RedisQueue(Redis.from_url(REDIS_URL), dump=orjson.dumps, load=orjson.loads, max_concurrent_ops=CONCURRENCY)


async def _serve() -> None:
    await Worker(_queue(), [work], concurrency=CONCURRENCY).start()


@asynccontextmanager
async def producer() -> AsyncIterator[Callable[[Sequence[str]], Awaitable[None]]]:
    """A function that sends a batch."""
    queue = _queue()

    async def push(batch: Sequence[str]) -> None:
        await asyncio.gather(*(queue.enqueue("work", payload=payload, timeout=120) for payload in batch))

    await queue.connect()
    try:
        yield push
    finally:
        await queue.disconnect()


if __name__ == "__main__":
    uvloop.run(_serve())
