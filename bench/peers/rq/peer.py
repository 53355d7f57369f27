"""RQ; its SimpleWorker works in its own process, one job at a time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import redis
from rq import Queue

from bridge_bench.worker_side import blocking_turns
from bridge_bench.worker_side.tasks import REDIS_URL


def work(payload: str) -> None:
    """One task."""
    blocking_turns.work(payload)


@asynccontextmanager
async def producer() -> AsyncIterator[Callable[[Sequence[str]], Awaitable[None]]]:
    """A function that sends a batch."""
    queue = Queue(connection=redis.Redis.from_url(REDIS_URL))

    async def push(batch: Sequence[str]) -> None:
        queue.enqueue_many([Queue.prepare_data(work, (payload,), result_ttl=0) for payload in batch])

    yield push
