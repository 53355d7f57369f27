"""Work of another queue that nobody does is found; work that somebody does is not."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from letta_bridge.request_queue import RedisQueue
from letta_bridge.request_queue.other_queues import LeftBehind, left_behind
from letta_bridge.settings import QueueSettings
from shared_utils.config.settings import RedisSettings
from shared_utils.redis.connection import RedisClient, close, connect

pytestmark = pytest.mark.integration


def task(user: str) -> str:
    return json.dumps({"user_id": user, "task_id": "1", "content": "hi"})


@pytest.fixture
def queue(client: RedisClient) -> Callable[..., Any]:
    """A bridge's queue of some name; it is handed one turn of three."""

    async def make(name: str) -> RedisQueue:
        await client.lpush(name, *map(task, "abc"))
        queue = RedisQueue(client, client, QueueSettings(requests=name), "a-bridge")
        assert len((await queue.settle_and_fetch([], 1)).turns) == 1
        await client.lpush(name, task("d"))
        return queue

    return make


async def test_queue_without_a_bridge_is_found_with_its_counts(client: RedisClient, queue: Callable[..., Any]) -> None:
    old = await queue("old_requests")
    assert await left_behind(client, "letta_requests") == []  # its bridge has just been there
    await client.delete(old.keys.bridges)
    before = {key: await client.dump(key) async for key in client.scan_iter()}
    (found,) = await left_behind(client, "letta_requests")
    assert found == LeftBehind("old_requests", in_flight=1, lanes=2, not_taken=1)
    assert "LETTA_REQUESTS=old_requests" in str(found)
    assert {key: await client.dump(key) async for key in client.scan_iter()} == before
    assert await left_behind(client, "old_requests") == []


async def test_other_peoples_keys_are_no_queues(client: RedisClient) -> None:
    await client.set("{x}:counters", "text")
    await client.set("{y}:counters", "text")
    await client.sadd("{y}:turns", "1")
    await client.set("}:counters", "text")
    await client.set("memory:{user_input_queue}:counters", "text")
    await client.hset("{idle}:counters", "taken", 7)
    await client.hset("{waiting}:counters", "taken", 7)
    await client.lpush("waiting", "{}")
    (found,) = await left_behind(client, "letta_requests")
    assert found == LeftBehind("waiting", in_flight=0, lanes=0, not_taken=1)


async def test_queues_that_this_redis_user_may_not_see_hold_nothing_up(
    client: RedisClient, queue: Callable[..., Any], redis_url: str
) -> None:
    old = await queue("old_requests")
    await client.delete(old.keys.bridges)
    await client.execute_command(
        "ACL", "SETUSER", "limited", "on", ">pw", "resetkeys", "~letta_requests", "~{letta_requests}:*", "+@all"
    )
    limited = connect(RedisSettings(url=redis_url, username="limited", password="pw"), name="limited")
    try:
        assert await left_behind(limited, "letta_requests") == []
    finally:
        await close(limited)
        await client.execute_command("ACL", "DELUSER", "limited")
