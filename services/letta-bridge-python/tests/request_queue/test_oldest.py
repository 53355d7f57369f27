"""The oldest task's age over bridges that do not keep the count of open tasks; on a real Redis."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest

from letta_bridge.request_queue import Outcome, RedisQueue, Settlement
from letta_bridge.request_queue.port import Turn
from letta_bridge.settings import QueueSettings
from shared_utils.redis.connection import RedisClient

pytestmark = pytest.mark.integration


@pytest.fixture
def queue(client: RedisClient) -> RedisQueue:
    return RedisQueue(client, client, QueueSettings(requests=f"q-{uuid.uuid4().hex[:8]}"), "a")


async def push(client: Any, queue: RedisQueue, *users: str) -> None:
    for user in users:
        await client.lpush(queue.keys.requests, json.dumps({"task_id": "t", "user_id": user}))


async def settle(queue: RedisQueue, *turns: Turn) -> None:
    await queue.settle_and_fetch([Settlement(turn.receipt, Outcome.LETTA, user_id=turn.lane) for turn in turns], 0)


async def test_oldest_drops_tasks_settled_by_an_older_release(client: Any, queue: Any) -> None:
    """It took tasks with this release's scripts, so to speak, and settled them with its own."""
    await push(client, queue, "ada", "bo")
    ada, bo = (await queue.settle_and_fetch([], 2)).turns
    before = await client.hgetall(queue.keys.open)
    await settle(queue, ada, bo)
    for tenth, tasks in before.items():  # its settle left the count alone
        await client.hset(queue.keys.open, str(int(tenth) - 36_000), tasks)
    await push(client, queue, "cy")
    (cy,) = (await queue.settle_and_fetch([], 1)).turns
    assert (await queue.status()).oldest_age < 60
    assert sum(map(int, await client.hvals(queue.keys.open))) == 1
    await settle(queue, cy)
    assert (await queue.status()).oldest_age == 0
    assert not await client.exists(queue.keys.open)


async def test_open_count_never_becomes_negative_for_tasks_of_an_older_release(client: Any, queue: Any) -> None:
    await push(client, queue, "ada")
    (ada,) = (await queue.settle_and_fetch([], 1)).turns
    await client.delete(queue.keys.open)
    await settle(queue, ada)
    assert not await client.exists(queue.keys.open)
    assert (await queue.status()).oldest_age == 0


async def test_open_count_is_corrected_when_a_wrongly_dropped_task_ends(client: Any, queue: Any) -> None:
    await push(client, queue, "ada")
    (ada,) = (await queue.settle_and_fetch([], 1)).turns
    [tenth] = await client.hkeys(queue.keys.open)
    await client.hset(queue.keys.open, str(int(tenth) + 1), 1)  # left behind, and younger than ada's
    assert (await queue.status()).oldest_age < 60
    await settle(queue, ada)
    assert (await queue.status()).oldest_age == 0
    assert not await client.exists(queue.keys.open)


async def test_no_payload_is_read_for_the_status(client: Any, queue: Any) -> None:
    await push(client, queue, *(f"user-{number}" for number in range(50)))
    await queue.settle_and_fetch([], 20)
    await client.config_resetstat()
    await queue.status()
    used = {name.removeprefix("cmdstat_") for name in await client.info("commandstats")}
    assert not used & {"hget|turns", "lindex", "lrange", "hscan"}
    assert (await client.info("commandstats")).get("cmdstat_hget", {}).get("calls", 0) <= 1  # whether it is paused
