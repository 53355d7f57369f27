"""Kills, restarts and stops: nothing lost, nothing stored twice."""

from __future__ import annotations

import asyncio
import json
import signal
import threading
from typing import Any

import pytest
from redis.asyncio import Redis

pytestmark = pytest.mark.integration

QUEUE = "user_input_queue"
COUNTERS = "memory:{user_input_queue}:counters"
TASKS = 4000
USERS = 8


def task(number: int, **fields: object) -> str:
    # Every other task has no id: what tells those apart is their place in the queue alone.
    named = {"task_id": f"t{number}"} if number % 2 else {}
    return json.dumps({**named, "user_id": f"u{number % USERS}", "content": str(number), **fields})


async def fill(client: Redis, count: int = TASKS) -> None:
    for start in range(0, count, 1000):
        await client.lpush(QUEUE, *[task(number) for number in range(start, min(start + 1000, count))])


async def stored(client: Redis) -> list[list[int]]:
    """Each user's numbers, oldest first."""
    lists = [await client.lrange(f"memory:user_sessions:u{user}", 0, -1) for user in range(USERS)]
    return [[int(json.loads(raw)["content"]) for raw in reversed(kept)] for kept in lists]


def expected(count: int = TASKS) -> list[list[int]]:
    return [list(range(user, count, USERS)) for user in range(USERS)]


async def settled(client: Redis) -> int:
    return int(await client.hget(COUNTERS, "settled") or 0)


async def test_killed_again_and_again_nothing_is_lost_doubled_or_out_of_order(
    client: Redis, redis_url: str, start_process: Any, eventually: Any
) -> None:
    await fill(client)
    options = {"max_memory_size": 10_000, "batch": 50}
    for share in (0.1, 0.4, 0.7):
        process = start_process(redis_url, **options)

        async def far_enough(goal: float = share * TASKS) -> bool:
            return await settled(client) >= goal

        await eventually(far_enough)
        process.kill()
        process.wait()
    start_process(redis_url, **options)

    async def all_done() -> bool:
        return await settled(client) == TASKS and not await client.keys("memory:*processing*")

    await eventually(all_done, timeout=40)
    assert await stored(client) == expected()
    assert await client.llen("memory:global_context") == 1000


async def test_a_dead_instances_claim_is_taken_over_in_order_and_stored_once(
    client: Redis, run_service: Any, eventually: Any, kept: Any
) -> None:
    """As a kill leaves it: claimed by an instance whose lease is over, half of it stored already."""
    await fill(client, 20)
    async with run_service():
        await eventually(lambda: client.exists("memory:user_sessions:u7"))
    receipts = [f"{number:016d}-0001-dead" for number in range(40)]
    entries: dict[Any, Any] = {
        receipts[number]: task(number, task_id=f"t{number}") for number in reversed(range(1, 40, 2))
    }
    await client.hset("memory:{user_input_queue}:processing:dead", mapping=entries)
    await client.zadd("memory:{user_input_queue}:instances", {"dead": 1})
    async with run_service():

        async def adopted() -> bool:
            return not await client.exists("memory:{user_input_queue}:processing:dead") and len(await kept("u7")) == 5

        await eventually(adopted)
    assert [record["content"] for record in await kept("u7")] == ["39", "31", "23", "15", "7"]


async def test_killed_between_its_answer_and_the_next_step_it_is_answered_once(
    *, client: Redis, run_service: Any, ear: Any, eventually: Any, handover: Any, kept: Any
) -> None:
    """The reply is out, the task not settled: the heir says nothing and remembers what was said."""
    given = handover("t1")
    payload = json.dumps({"task_id": "t1", "user_id": "ann", "content": "q", "meta": {"letta_bridge": given}})
    reply = {"task_id": "t1", "user_id": "ann", "response_text": "said", "memory_updated": False}
    reply |= {"source": "memory-python", "timestamp": 5.0}
    await client.set(given["answer_key"], json.dumps(reply))
    await client.hset("memory:{user_input_queue}:processing:dead", "0000000000000001-0001-dead", payload)
    await client.zadd("memory:{user_input_queue}:instances", {"dead": 1})
    async with run_service():

        async def remembered() -> bool:
            return len(await kept()) == 2

        await eventually(remembered)
    assert [(record["source"], record["content"]) for record in await kept()] == [("ai", "said"), ("user", "q")]
    assert ear.on("letta_responses") == []


async def test_a_restart_of_redis_is_survived_without_a_restart(
    durable_valkey: Any, start_process: Any, eventually: Any
) -> None:
    durable_valkey.start()
    process = start_process(durable_valkey.url, max_memory_size=10_000, batch=20)
    async with Redis.from_url(durable_valkey.url) as client:
        await fill(client, 2000)
        for _ in range(2):
            before = await settled(client)

            async def moving(mark: int = before) -> bool:
                return await settled(client) > mark

            await eventually(moving)
            durable_valkey.stop()
            durable_valkey.start()
            await client.connection_pool.disconnect()
            await client.lpush(QUEUE, task(1))

        async def all_done() -> bool:
            return await client.llen(QUEUE) == 0 and not await client.keys("memory:*processing*")

        await eventually(all_done)
        assert await stored(client) == expected(2000)
    assert process.poll() is None


async def test_service_starts_without_redis_logs_once_and_serves_later(
    durable_valkey: Any, start_process: Any, eventually: Any
) -> None:
    process = start_process(durable_valkey.url)
    lines: list[str] = []
    thread = threading.Thread(target=lambda: lines.extend(process.stdout), daemon=True)
    thread.start()

    async def complained() -> bool:
        return any("redis_unavailable" in line for line in lines)

    await eventually(complained)
    durable_valkey.start()
    async with Redis.from_url(durable_valkey.url) as client:
        await fill(client, 8)
        await eventually(lambda: client.exists("memory:user_sessions:u7"))
    process.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(process.wait, 20) == 0
    thread.join(5)
    assert sum("redis_unavailable" in line for line in lines) == 1


async def test_shutdown_finishes_tasks_in_time_and_releases_the_others_in_order(
    *, client: Redis, run_service: Any, push: Any, handover: Any, model: Any, eventually: Any, ear: Any
) -> None:
    model.release = asyncio.Event()
    async with run_service(model, shutdown_grace_seconds=0.2):
        for number in range(3):
            await push(f"q{number}", task_id=f"t{number}", handover=handover(f"t{number}"))
        await ear.count("memory_updates", 3)

        async def asked() -> bool:
            return bool(model.asked)

        await eventually(asked)
    left = [json.loads(raw)["content"] for raw in await client.lrange(QUEUE, 0, -1)]
    assert left == ["q2", "q1", "q0"]
    assert await client.keys("memory:*processing*") == []
    assert await client.zcard("memory:{user_input_queue}:instances") == 0
    model.release.set()
    async with run_service(model):
        replies = await ear.count("letta_responses", 3)
    assert [reply["task_id"] for reply in replies] == ["t0", "t1", "t2"]
    assert len(ear.on("memory_updates")) == 3


async def test_it_stops_while_redis_is_unavailable(durable_valkey: Any, start_process: Any, eventually: Any) -> None:
    durable_valkey.start()
    process = start_process(durable_valkey.url, shutdown_grace_seconds=1)
    async with Redis.from_url(durable_valkey.url) as client:
        await fill(client, 8)
        await eventually(lambda: client.exists("memory:user_sessions:u7"))
    durable_valkey.stop()
    process.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(process.wait, 20) == 0


async def test_two_instances_share_the_work_and_store_each_task_once(
    client: Redis, run_service: Any, eventually: Any
) -> None:
    await fill(client, 2000)
    async with run_service(max_memory_size=10_000, batch=10), run_service(max_memory_size=10_000, batch=10):

        async def all_done() -> bool:
            return await settled(client) == 2000

        await eventually(all_done)
    assert [sorted(numbers) for numbers in await stored(client)] == expected(2000)
