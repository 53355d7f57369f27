"""Large messages: lists are bounded by bytes, no call moves more than a bounded number, and nothing is lost."""

from __future__ import annotations

import json
from typing import Any

import pytest
from redis.asyncio import Redis

from memory_service import keys
from memory_service.input_queue import InputQueue
from memory_service.keys import QueueKeys
from memory_service.memory_store import MemoryStore
from memory_service.records import Memory
from memory_service.survey import take_survey

pytestmark = pytest.mark.integration

MEGABYTE = 2**20
QUEUE = "user_input_queue"
OLD_RIGHTS = ("-memory", "-hkeys", "-hmget", "-hget")
"""What the Redis user of the release before may not do."""


def large(number: int) -> str:
    return json.dumps({"task_id": f"t{number}", "user_id": "ann", "content": "x" * MEGABYTE})


def numbers(payloads: Any) -> list[int]:
    return [int(json.loads(payload)["task_id"][1:]) for payload in payloads]


def input_queue(client: Redis, instance: str, lease: float = 30) -> InputQueue:
    return InputQueue(client, client, QueueKeys(QUEUE), instance=instance, lease=lease, dead_limit=10)


async def set_rights(client: Redis, *rights: str) -> None:
    """The user `memory` with all rights but these."""
    words = ("ACL", "SETUSER", "memory", "on", ">secret", "~*", "&*", "+@all", *rights)
    await client.execute_command(*words)  # type: ignore[no-untyped-call]


@pytest.fixture(params=[(), OLD_RIGHTS], ids=["rights of this release", "rights of the release before"])
async def limited(request: Any, client: Redis, redis_url: str) -> Any:
    await set_rights(client, *request.param)
    async with Redis.from_url(redis_url, username="memory", password="secret") as redis:
        yield redis
    await client.acl_deluser("memory")


async def test_lists_are_cut_by_bytes_and_keep_the_newest(client: Redis, make_settings: Any, record: Any) -> None:
    settings = make_settings(max_memory_bytes=400_000, global_memory_bytes=900_000).memory
    store = MemoryStore(client, settings)
    for number in range(12):
        (outcome,) = await store.remember([Memory(record(f"{number:02}" + "x" * 100_000, message_id=str(number)))])
    ann = [json.loads(raw)["content"][:2] for raw in await client.lrange(keys.user_session("ann"), 0, -1)]
    assert ann == ["11", "10", "09"][: len(ann)]
    assert outcome.length == len(ann) >= 2
    assert (await client.memory_usage(keys.user_session("ann"), samples=0) or 0) <= 400_000
    assert (await client.memory_usage(keys.GLOBAL_CONTEXT, samples=0) or 0) <= 900_000
    await store.remember([Memory(record("larger than the bound" + "x" * MEGABYTE))])
    assert await client.llen(keys.user_session("ann")) == 1


async def test_without_the_right_to_ask_for_memory_messages_are_kept(
    client: Redis, redis_url: str, make_settings: Any, record: Any
) -> None:
    await set_rights(client, "-memory")
    async with Redis.from_url(redis_url, username="memory", password="secret") as redis:
        store = MemoryStore(redis, make_settings(max_memory_bytes=65_536).memory)
        for number in range(3):
            await store.remember([Memory(record(f"{number}" + "x" * 100_000))])
    assert await client.llen(keys.user_session("ann")) == 3
    await client.acl_deluser("memory")


async def test_large_tasks_are_claimed_held_and_given_back_in_parts_and_in_order(client: Redis, limited: Redis) -> None:
    for number in range(20):
        await client.lpush(QUEUE, large(number))
    queue = input_queue(limited, "one")
    claimed = []
    while some := await queue.claim(100):
        assert len(some) <= 4
        claimed += some
    assert numbers(held.payload for held in claimed) == list(range(20))
    but = {claimed[3].receipt}
    held = [one async for page in queue.held(but=but) for one in page]
    assert numbers(one.payload for one in held) == [number for number in range(20) if number != 3]
    assert await queue.release() == 20
    assert numbers(reversed(await client.lrange(QUEUE, 0, -1))) == list(range(20))
    assert await client.exists("memory:{user_input_queue}:processing:one") == 0


async def test_unclaimed_tasks_are_released_before_large_ones(client: Redis, limited: Redis) -> None:
    for number in range(15):
        await client.lpush(QUEUE, large(number))
    queue = input_queue(limited, "one")
    while await queue.claim(100):
        pass
    await client.lpush(QUEUE, large(15))
    await queue.wait()
    assert await queue.release() == 15
    assert numbers(reversed(await client.lrange(QUEUE, 0, -1))) == list(range(16))


async def test_large_tasks_of_a_dead_instance_are_taken_over_whole(client: Redis, limited: Redis) -> None:
    for number in range(20):
        await client.lpush(QUEUE, large(number))
    dead, other = input_queue(limited, "dead"), input_queue(limited, "other")
    while await dead.claim(100):
        pass
    await client.zadd("memory:{user_input_queue}:instances", {"dead": 1})
    assert await other.adopt() == 20
    assert numbers([held.payload async for page in other.held(but=()) for held in page]) == list(range(20))
    assert await client.zscore("memory:{user_input_queue}:instances", "dead") is None


async def test_a_survey_asks_for_fewer_users_at_once_where_their_messages_are_large(
    client: Redis, make_settings: Any, record: Any, monkeypatch: Any
) -> None:
    store = MemoryStore(client, make_settings().memory)
    for number in range(60):
        await store.remember([Memory(record("x" * 300_000, user_id=f"u{number}", message_id=str(number)))])
    sizes = []
    pipeline = client.pipeline

    def counting(**options: Any) -> Any:
        asked = pipeline(**options)
        lindex = asked.lindex
        sizes.append(0)

        def count(*arguments: Any) -> Any:
            sizes[-1] += 1
            return lindex(*arguments)

        monkeypatch.setattr(asked, "lindex", count)
        return asked

    monkeypatch.setattr(client, "pipeline", counting)
    assert (await take_survey(client)).users == 60
    assert max(sizes) <= 8
