"""What short-term memory keeps, and what it lets go."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from redis.asyncio import Redis

from memory_service import keys, records
from memory_service.context import recent
from memory_service.memory_store import MemoryStore
from memory_service.outage import Outage
from memory_service.records import Memory
from memory_service.survey import last_survey, take_survey
from memory_service.upkeep import Upkeep
from shared_utils.observability import logs

pytestmark = pytest.mark.integration

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)


@pytest.fixture
def store(client: Redis, make_settings: Any) -> Any:
    def make(**memory: Any) -> MemoryStore:
        return MemoryStore(client, make_settings(**memory).memory)

    return make


@pytest.fixture
def upkeep(client: Redis, make_settings: Any, store: Any) -> Any:
    settings = make_settings().memory
    return Upkeep(
        client, store(), settings, Outage(logs.get("test"), asyncio.Event()), "memory:{user_input_queue}:counters"
    )


async def test_the_window_is_the_newest_messages_in_the_order_they_were_said(store: Any, record: Any) -> None:
    memory = store()
    await memory.remember([Memory(record(str(number))) for number in range(30)])
    assert [each.content for each in await recent(memory, "ann", 4)] == ["26", "27", "28", "29"]
    assert await recent(memory, "nobody", 4) == []


async def test_user_list_is_trimmed_and_expires_and_the_shared_list_is_only_trimmed(
    client: Redis, store: Any, record: Any
) -> None:
    memory = store(max_memory_size=3, global_memory_limit=5, memory_ttl_hours=0.5)
    for number in range(8):
        (outcome,) = await memory.remember([Memory(record(str(number)))])
    assert (outcome.stored, outcome.length) == (True, 3)
    assert [json.loads(raw)["content"] for raw in await client.lrange(keys.user_session("ann"), 0, -1)] == list("765")
    assert await client.ttl(keys.user_session("ann")) in range(1700, 1801)
    assert await client.llen(keys.GLOBAL_CONTEXT) == 5
    assert await client.ttl(keys.GLOBAL_CONTEXT) == -1
    assert await client.ttl(keys.seen(keys.user_session("ann"))) in range(3500, 3601)


async def test_memory_is_gone_after_its_time(client: Redis, store: Any, record: Any, eventually: Any) -> None:
    await store(memory_ttl_hours=0.0001).remember([Memory(record("soon gone"))])

    async def gone() -> bool:
        return not await client.exists(keys.user_session("ann"))

    await eventually(gone)


async def test_an_interrupted_store_is_completed_by_repeating_it(client: Redis, store: Any, record: Any) -> None:
    memory = store()
    both = [Memory(record("a")), Memory(record("b", user_id="bob"))]
    await memory.remember(both)
    await client.delete(keys.user_session("bob"), keys.seen(keys.user_session("bob")))
    outcomes = await memory.remember(both)
    assert [outcome.stored for outcome in outcomes] == [False, True]
    assert await client.llen(keys.GLOBAL_CONTEXT) == 2


async def test_replacing_the_oldest_keeps_messages_that_arrived_meanwhile(
    client: Redis, store: Any, record: Any
) -> None:
    memory = store()
    await memory.remember([Memory(record(str(number))) for number in range(6)])
    raw = await memory.oldest(keys.user_session("ann"), 4)
    await memory.remember([Memory(record("new"))])
    assert await memory.replace_oldest(keys.user_session("ann"), raw[0], records.dump(record("all of it", "ai"))) == 4
    assert [each.content for each in await recent(memory, "ann", 9)] == ["all of it", "4", "5", "new"]
    assert await client.ttl(keys.user_session("ann")) > 0
    assert await memory.replace_oldest(keys.user_session("ann"), raw[0], b"late") == 0


async def test_cleanup_forgets_by_age_whatever_else_lies_about(
    client: Redis, store: Any, record: Any, upkeep: Any
) -> None:
    memory = store()

    def aged(hours: float, user: str) -> Memory:
        when = (NOW - timedelta(hours=hours)).isoformat()
        return Memory(record(f"{user}{hours}", user_id=user, timestamp=when))

    await memory.remember([aged(hours, "old") for hours in range(350, 100, -1)])
    await memory.remember([aged(hours, "ann") for hours in (100, 60, 49, 47, 1)])
    await client.set("memory:user_sessions:stranger", "a string")
    await client.rpush("memory:user_sessions:odd", "not json")
    assert await upkeep.clean_up(NOW) == 3 + 100 + 253 + 1
    assert [each.content for each in await recent(memory, "ann", 9)] == ["ann47", "ann1"]
    assert await client.exists(keys.user_session("old"), "memory:user_sessions:odd") == 0
    assert await client.llen(keys.GLOBAL_CONTEXT) == 2


async def test_cleanup_and_survey_are_done_by_one_instance_in_their_interval(
    client: Redis, run_service: Any, eventually: Any, push: Any
) -> None:
    await push("hello", task_id="t")
    async with run_service(), run_service():
        await eventually(lambda: client.exists(keys.SURVEY))
        assert await client.ttl(keys.CLEANUP_TURN) in range(21_000, 21_601)
    assert await last_survey(client) is not None


async def test_a_survey_counts_users_and_messages(client: Redis, store: Any, record: Any) -> None:
    old = "2025-05-05T05:05:05+00:00"
    await store().remember(
        [Memory(record("a", timestamp=old)), Memory(record("b")), Memory(record("c", user_id="bob"))]
    )
    await client.set("memory:user_sessions:stranger", "a string")
    survey = await take_survey(client)
    assert (survey.users, survey.messages, survey.global_messages, survey.oldest) == (2, 3, 3, old)
