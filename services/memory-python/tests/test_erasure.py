"""What was on its way to memory while its user was erased is remembered nowhere, however late it comes."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest
from redis.asyncio import Redis

from memory_service import keys
from shared_utils.persistence.erasures.log import user_hash

pytestmark = pytest.mark.integration

QUEUE = "user_input_queue"
COUNTERS = "memory:{user_input_queue}:counters"


async def erase(client: Redis, user: str) -> int:
    """What ``letta-bridge user erase`` does to memory-python's keys, without looking for tasks in its hands."""
    seconds, micros = await client.time()
    at = seconds * 1000 + micros // 1000
    await client.zadd(keys.ERASURES, {user_hash(user): at})
    messages = keys.user_session(user)
    if ids := await client.zrange(keys.seen(messages), 0, -1):
        await client.zrem(keys.seen(keys.GLOBAL_CONTEXT), *ids)
    await client.delete(messages, keys.seen(messages))
    for raw in await client.lrange(keys.GLOBAL_CONTEXT, 0, -1):
        if json.loads(raw)["user_id"] == user:
            await client.lrem(keys.GLOBAL_CONTEXT, 0, raw)  # type: ignore[arg-type]  # bytes are right as well
    return at


async def everything(client: Redis) -> str:
    """All that memory-python keeps, as one text."""
    found: list[Any] = []
    async for key in client.scan_iter(match="memory:*"):
        kind = await client.type(key)
        if kind == b"list":
            found += await client.lrange(key, 0, -1)
        elif kind == b"hash":
            found += (await client.hgetall(key)).values()
    return b"\n".join(found).decode()


async def test_a_task_claimed_before_the_erasure_is_not_remembered(
    client: Redis, run_service: Any, push: Any, eventually: Any, kept: Any
) -> None:
    """An instance that was killed, or frozen, with the task in its hands."""
    receipt = f"{int(time.time() * 1e6):016d}-0001-dead:1:2:abc"
    payload = json.dumps({"task_id": "t", "user_id": "ann", "content": "secret"})
    await client.hset("memory:{user_input_queue}:processing:dead:1:2:abc", receipt, payload)
    await client.zadd("memory:{user_input_queue}:instances", {"dead:1:2:abc": 1})
    await asyncio.sleep(0.002)
    await erase(client, "ann")
    await push("other", user_id="bob")
    async with run_service():
        await eventually(lambda: client.hget(COUNTERS, "erased"))
        await push("hello again", task_id="t2")
        await eventually(kept)
    assert "secret" not in await everything(client)
    assert [record["content"] for record in await kept()] == ["hello again"]
    assert [record["content"] for record in await kept("bob")] == ["other"]


async def test_a_handover_of_a_turn_taken_before_the_erasure_is_not_answered(
    client: Redis, run_service: Any, push: Any, handover: Any, eventually: Any, ear: Any
) -> None:
    """A bridge that was cut off from Redis pushes it late."""
    at = await erase(client, "ann")
    await push("secret", task_id="own", handover=handover("x") | {"task_id": "t1", "taken_ms": at - 1})
    await push("new", task_id="own2", handover=handover("y") | {"task_id": "t2", "taken_ms": at + 1})
    async with run_service():
        await ear.count("letta_responses", 1)
        await eventually(lambda: client.hget(COUNTERS, "erased"))
    assert [reply["task_id"] for reply in ear.on("letta_responses")] == ["t2"]
    assert "secret" not in await everything(client)


async def test_an_answer_that_is_being_written_during_the_erasure_is_not_remembered(
    client: Redis, run_service: Any, push: Any, handover: Any, ear: Any, model: Any, eventually: Any
) -> None:
    model.release, model.answer = asyncio.Event(), "about the secret"
    await push("secret", task_id="t1", handover=handover("x"))
    async with run_service(model):
        await eventually(lambda: asyncio.sleep(0, bool(model.asked)))
        await erase(client, "ann")
        model.release.set()
        await ear.count("letta_responses", 1)
        await eventually(lambda: client.hget(COUNTERS, "settled"))
    assert "secret" not in await everything(client)


async def test_an_answer_heard_to_an_erased_message_is_not_remembered(
    client: Redis, run_service: Any, push: Any, ear: Any, eventually: Any, kept: Any
) -> None:
    async with run_service():
        await push("secret", task_id="t1")
        (update,) = await ear.count("memory_updates", 1)
        await erase(client, "ann")
        said = {"user_id": "ann", "text": "about the secret", "original_message_id": update["message_id"]}
        await client.publish("ai_responses", json.dumps(said))
        await push("hello again", task_id="t2")
        _, update = await ear.count("memory_updates", 2)
        said = {"user_id": "ann", "text": "welcome back", "original_message_id": update["message_id"]}
        await client.publish("ai_responses", json.dumps(said))

        async def both() -> bool:
            return len(await kept()) == 2

        await eventually(both)
    assert [record["content"] for record in await kept()] == ["welcome back", "hello again"]
    assert "secret" not in await everything(client)


async def test_a_summary_made_during_the_erasure_replaces_nothing(
    client: Redis, run_service: Any, push: Any, ear: Any, model: Any, eventually: Any
) -> None:
    model.release, model.answer = asyncio.Event(), "a summary of secrets"
    async with run_service(model, max_memory_size=5, summary={"enabled": True}):
        for number in range(5):
            await push(f"secret {number}", task_id=f"t{number}")
        await eventually(lambda: asyncio.sleep(0, bool(model.asked)))
        await erase(client, "ann")
        model.release.set()
        await asyncio.sleep(0.2)
        await push("hello again", task_id="t9")
        await ear.count("memory_updates", 6)
    assert "secret" not in await everything(client)


async def test_erasure_of_another_user_has_no_effect(
    client: Redis, run_service: Any, push: Any, kept: Any, ear: Any
) -> None:
    await client.zadd(keys.ERASURES, {user_hash("zoe"): 1})
    await push("one", task_id="t1")
    async with run_service():
        await ear.count("memory_updates", 1)
    assert [record["content"] for record in await kept()] == ["one"]
