"""streaq on uvloop; it publishes through the worker's own client, which is coredis."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from streaq import Worker

from bridge_bench.worker_side.tasks import CONCURRENCY, REDIS_URL, RESPONSES
from bridge_bench.worker_side.turns import AsyncTurns

worker: Worker[Any] = Worker(redis_url=REDIS_URL, concurrency=CONCURRENCY, anyio_kwargs={"use_uvloop": True})
_turns = AsyncTurns(lambda reply: worker.redis.publish(RESPONSES, reply))


@worker.task(ttl=0)
async def work(payload: str) -> None:
    """One task."""
    await _turns.work(payload)


@asynccontextmanager
async def producer() -> AsyncIterator[Callable[[Sequence[str]], Awaitable[None]]]:
    """A function that sends a batch."""

    async def push(batch: Sequence[str]) -> None:
        await worker.enqueue_many([work.enqueue(payload) for payload in batch])

    async with worker:
        yield push
