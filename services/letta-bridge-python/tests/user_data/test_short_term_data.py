"""What memory-python has of a user in Redis goes: messages, tasks it has not settled, dead letters; nobody else's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from letta_bridge.user_data.short_term_data import ShortTermUserData
from shared_utils.contracts.memory_keys import QueueKeys
from shared_utils.redis.connection import RedisClient

pytestmark = pytest.mark.integration

USERS = ("小明", "u*", "u1", "a:b", "a", "a%3Ab", "u[1]", "{x}")
"""Ids that a careless pattern would take for one another."""
KEYS = QueueKeys("user_input_queue")


def task(user: str, content: str) -> str:
    return json.dumps({"task_id": "t", "user_id": user, "content": content})


async def fill(client: Any) -> None:
    """Of every user: a message, in everybody's list too, a task in each place, dead letters of tasks and an answer."""
    for user in USERS:
        record = json.dumps({"user_id": user, "content": "记住"}, ensure_ascii=False)
        messages = f"memory:user_sessions:{user}"
        await client.lpush(messages, record)
        await client.lpush("memory:global_context", record)
        tag = messages if "{" in messages else f"{{{messages}}}"
        await client.zadd(f"memory:seen:{tag}", {f"id of {user}": 1})
        await client.zadd("memory:seen:{memory:global_context}", {f"id of {user}": 1})
        await client.set(f"memory:summary_pause:{messages}", "1")
        await client.lpush("user_input_queue", task(user, "untaken"))
        await client.lpush(KEYS.incoming, task(user, "incoming"))
        await client.hset(KEYS.processing("dead:1:2:abc"), f"r-{user}", task(user, "claimed"))
        for payload, origin in (
            (task(user, "x"), "queue"),
            (json.dumps({"user_id": user, "text": " "}), "ai_responses"),
        ):
            await client.lpush(KEYS.dead, json.dumps({"payload": payload, "code": "malformed", "origin": origin}))
        cut = json.dumps({"user_id": user, "content": "x" * 100}, ensure_ascii=True)[:60]
        await client.lpush(KEYS.dead, json.dumps({"payload": cut, "code": "malformed", "origin": "queue"}))


EXPECTED = {"short_term_messages": 2, "handed_over_tasks": 3, "short_term_dead_letters": 3, "short_term_marks": 2}


async def test_one_user_goes_and_no_other(client: RedisClient, tmp_path: Path) -> None:
    trace = ShortTermUserData(client, "user_input_queue")
    await fill(client)
    assert {user: await trace.count(user) for user in USERS} == dict.fromkeys(USERS, EXPECTED)
    for gone in range(len(USERS)):
        assert await trace.erase(USERS[gone]) == EXPECTED
        assert set((await trace.count(USERS[gone])).values()) == {0}
        for user in USERS[gone + 1 :]:
            assert await trace.count(user) == EXPECTED
    assert [key async for key in client.scan_iter(match="*")] == []


async def test_all_of_it_is_exported(client: Any, tmp_path: Path) -> None:
    trace = ShortTermUserData(client, "user_input_queue")
    await fill(client)
    exported = await trace.export("u*", tmp_path)
    assert exported == {"short_term_messages": 1, "handed_over_tasks": 3, "short_term_dead_letters": 3}
    tasks = [json.loads(line) for line in (tmp_path / "handed_over_tasks.jsonl").read_text("utf-8").splitlines()]
    assert sorted(one["content"] for one in tasks) == ["claimed", "incoming", "untaken"]


async def test_a_task_of_another_form_of_the_id_is_found(client: RedisClient) -> None:
    await client.lpush("user_input_queue", b'{"user_id":42,"content":"x"}', b'{"content":"nobody"}')
    trace = ShortTermUserData(client, "user_input_queue")
    assert (await trace.erase("42"))["handed_over_tasks"] == 1
    assert (await trace.erase("anonymous"))["handed_over_tasks"] == 1
