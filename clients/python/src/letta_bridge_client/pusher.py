"""Pushes tasks in the order in which they were given, as many as wait in one command."""

from __future__ import annotations

import asyncio
import itertools
from typing import Final

from letta_bridge_client.ending import end
from letta_bridge_client.errors import RedisUnavailable
from letta_bridge_client.redis_url import RedisClient
from letta_bridge_client.retrying import Outage

_MOST: Final = 256
_MOST_BYTES: Final = 4_194_304
"""Of one command, unless its first task alone is larger: Redis serves nobody else meanwhile."""


class Pusher:
    """The only producer of one client.

    A push whose answer was lost is repeated: a task that the bridge receives twice, with the same id and content, is
    answered once, and the second one gets the same reply.

    Args:
        client: of Redis.
        requests: the list of tasks.
        outage: of the same Redis.
    """

    def __init__(self, client: RedisClient, requests: str, outage: Outage) -> None:
        self._client = client
        self._requests = requests
        self._outage = outage
        self._waiting: list[tuple[bytes, asyncio.Future[None]]] = []
        self._task: asyncio.Task[None] | None = None

    async def push(self, payload: bytes) -> None:
        """Push one task; returns when Redis has it. After a cancellation the push is not repeated.

        Raises:
            RedisUnavailable: Redis refuses it.
        """
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((payload, done))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._push_all(), name="letta-bridge-client-pusher")
        await done

    async def close(self) -> None:
        """Stop; whoever still waits is cancelled."""
        if self._task is not None:
            await end(self._task)
        for _, done in self._waiting:
            done.cancel()

    async def _push_all(self) -> None:
        while self._waiting:
            try:
                batch = await self._outage.outlast(self._push_batch)
            except RedisUnavailable as error:
                self._end(self._batch(), error)
            else:
                self._end(batch)

    async def _push_batch(self) -> list[tuple[bytes, asyncio.Future[None]]]:
        self._waiting = [one for one in self._waiting if not one[1].done()]
        batch = self._batch()
        if batch:
            await self._client.lpush(self._requests, *(payload for payload, _ in batch))
        return batch

    def _batch(self) -> list[tuple[bytes, asyncio.Future[None]]]:
        sizes = itertools.accumulate(len(payload) for payload, _ in self._waiting[:_MOST])
        fitting = sum(size <= _MOST_BYTES for size in sizes)
        return self._waiting[: max(fitting, 1)]

    def _end(self, batch: list[tuple[bytes, asyncio.Future[None]]], error: RedisUnavailable | None = None) -> None:
        ended = {id(done) for _, done in batch}
        self._waiting = [one for one in self._waiting if id(one[1]) not in ended]
        for _, done in batch:
            if done.done():
                continue
            if error is None:
                done.set_result(None)
            else:
                done.set_exception(error)
