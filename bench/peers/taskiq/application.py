"""What both brokers share: the task, and the producer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from redis.asyncio import Redis
from taskiq import AsyncBroker
from taskiq.serializers import ORJSONSerializer

from bridge_bench.worker_side.tasks import REDIS_URL, RESPONSES
from bridge_bench.worker_side.turns import AsyncTurns

_Producer = Callable[[], AbstractAsyncContextManager[Callable[[Sequence[str]], Awaitable[None]]]]

_redis = Redis.from_url(REDIS_URL)
_turns = AsyncTurns(lambda reply: _redis.publish(RESPONSES, reply))


async def work(payload: str) -> None:
    """One task."""
    await _turns.work(payload)


def application(broker: AsyncBroker) -> tuple[AsyncBroker, _Producer]:
    """The broker with its task, and what sends batches to it."""
    broker = broker.with_serializer(ORJSONSerializer())
    task = broker.register_task(work, task_name="work")

    @asynccontextmanager
    async def producer() -> AsyncIterator[Callable[[Sequence[str]], Awaitable[None]]]:
        await broker.startup()

        async def push(batch: Sequence[str]) -> None:
            await asyncio.gather(*(task.kiq(payload) for payload in batch))

        try:
            yield push
        finally:
            await broker.shutdown()

    return broker, producer
