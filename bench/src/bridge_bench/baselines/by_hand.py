"""A handwritten worker with redis-py, aiohttp and uvloop: batched, without any guarantees.

Tasks in flight are lost when it dies, a user's turns overlap, and a failed POST ends it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import cast

import uvloop
from redis.asyncio import Redis

from bridge_bench.worker_side.tasks import CONCURRENCY, REDIS_URL, REQUESTS, RESPONSES
from bridge_bench.worker_side.turns import AsyncTurns


class _Worker:
    def __init__(self) -> None:
        self._redis = Redis.from_url(REDIS_URL)
        self._replies: list[bytes] = []
        self._running: set[asyncio.Task[None]] = set()
        self._ended = asyncio.Event()
        self._answered = asyncio.Event()
        self._turns = AsyncTurns(self._keep)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._take())
            group.create_task(self._publish())

    async def _take(self) -> None:
        while True:
            room = CONCURRENCY - len(self._running)
            for payload in await self._pop(room) if room else ():
                task = asyncio.create_task(self._turns.work(payload))
                self._running.add(task)
                task.add_done_callback(self._left)
            if len(self._running) == CONCURRENCY:
                self._ended.clear()
                await self._ended.wait()

    async def _pop(self, room: int) -> list[bytes]:
        tasks = await cast("Awaitable[list[bytes] | None]", self._redis.rpop(REQUESTS, room))
        if tasks:
            return tasks
        popped = await cast("Awaitable[tuple[bytes, bytes] | None]", self._redis.brpop([REQUESTS], 1))
        return [popped[1]] if popped else []

    async def _publish(self) -> None:
        while True:
            await self._answered.wait()
            self._answered.clear()
            replies, self._replies = self._replies, []
            pipeline = self._redis.pipeline(transaction=False)
            for reply in replies:
                pipeline.publish(RESPONSES, reply)
            await pipeline.execute()

    async def _keep(self, reply: bytes) -> None:
        self._replies.append(reply)
        self._answered.set()

    def _left(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._ended.set()
        task.result()


async def _serve() -> None:
    await _Worker().run()


if __name__ == "__main__":
    uvloop.run(_serve())
