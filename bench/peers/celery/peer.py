"""Celery with a pool of threads; results are not kept, as nobody asks for them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

from celery import Celery

from bridge_bench.worker_side import blocking_turns
from bridge_bench.worker_side.tasks import REDIS_URL

app = Celery("bench", broker=REDIS_URL)
app.conf.update(
    task_ignore_result=True,
    worker_prefetch_multiplier=4,
    worker_disable_rate_limits=True,
    worker_send_task_events=False,
    broker_connection_retry_on_startup=True,
)


@app.task(name="work")
def work(payload: str) -> None:
    """One task."""
    blocking_turns.work(payload)


@asynccontextmanager
async def producer() -> AsyncIterator[Callable[[Sequence[str]], Awaitable[None]]]:
    """A function that sends a batch."""
    with app.producer_pool.acquire() as sender:

        async def push(batch: Sequence[str]) -> None:
            for payload in batch:
                work.apply_async((payload,), producer=sender)

        yield push
