"""FastStream over a Redis stream, in a consumer group."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

from faststream import FastStream
from faststream.redis import RedisBroker, StreamSub
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from bridge_bench.worker_side.tasks import CONCURRENCY, REDIS_URL, RESPONSES
from bridge_bench.worker_side.turns import AsyncTurns

_STREAM, _GROUP = "bench-tasks", "bench"
_AT_ONCE = 50  # its pool of connections does not wait, but fails where it is full

broker = RedisBroker(REDIS_URL)
app = FastStream(broker)
_redis = Redis.from_url(REDIS_URL)
_turns = AsyncTurns(lambda reply: _redis.publish(RESPONSES, reply))


@broker.subscriber(
    stream=StreamSub(_STREAM, group=_GROUP, consumer="one", max_records=CONCURRENCY), max_workers=CONCURRENCY
)
async def work(payload: str) -> None:
    """One task."""
    await _turns.work(payload)


@asynccontextmanager
async def producer() -> AsyncIterator[Callable[[Sequence[str]], Awaitable[None]]]:
    """A function that sends a batch."""

    async def push(batch: Sequence[str]) -> None:
        for start in range(0, len(batch), _AT_ONCE):
            some = batch[start : start + _AT_ONCE]
            await asyncio.gather(*(broker.publish(payload, stream=_STREAM) for payload in some))

    try:
        # The worker's own group would begin with what comes after its start.
        await _redis.xgroup_create(_STREAM, _GROUP, id="0", mkstream=True)
    except ResponseError as error:
        if "BUSYGROUP" not in str(error):
            raise
    async with broker:
        yield push
