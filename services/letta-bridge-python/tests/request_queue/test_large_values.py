"""Large payloads: no call of a script moves more than a bounded number of bytes, and nothing is lost between calls."""

from __future__ import annotations

import json
from typing import Any

import pytest

from letta_bridge.request_queue import Outcome, RedisQueue, Settlement
from letta_bridge.request_queue.port import fingerprint
from letta_bridge.request_queue.user_records import UserRecords
from letta_bridge.settings import QueueSettings
from shared_utils.config.settings import RedisSettings
from shared_utils.redis.connection import RedisClient, connect

pytestmark = pytest.mark.integration

MEGABYTE = 2**20


@pytest.fixture
def settings() -> QueueSettings:
    return QueueSettings(max_payload_bytes=2 * MEGABYTE)


@pytest.fixture
def queue(client: RedisClient, settings: QueueSettings) -> RedisQueue:
    return RedisQueue(client, client, settings, "a")


def large(user: str, task_id: str) -> str:
    return json.dumps({"user_id": user, "task_id": task_id, "content": "x" * MEGABYTE})


def task_ids(payloads: Any) -> list[str]:
    return [json.loads(payload)["task_id"] for payload in payloads]


async def test_one_call_routes_some_large_tasks_and_the_next_ones_the_others_in_order(
    client: RedisClient, queue: RedisQueue
) -> None:
    for number in range(24):
        await client.lpush("letta_requests", large(f"u{number}", str(number)))
    turns = (await queue.settle_and_fetch([], 1)).turns
    assert await client.llen("letta_requests") >= 8
    while found := (await queue.settle_and_fetch([], 24)).turns:
        turns += found
    assert task_ids(turn.payload for turn in turns) == list(map(str, range(24)))
    assert (await queue.status()).counters["taken"] == 24


async def test_many_small_tasks_are_routed_by_one_call(client: RedisClient, queue: RedisQueue) -> None:
    for number in range(500):
        await client.lpush("letta_requests", json.dumps({"user_id": "ada", "task_id": str(number), "content": "hi"}))
    await queue.settle_and_fetch([], 1)
    assert await client.llen("letta_requests") == 0


async def test_one_call_hands_out_as_many_turns_as_a_large_bridge_has_room_for(
    client: RedisClient, queue: RedisQueue
) -> None:
    tasks = [json.dumps({"user_id": f"u{number}", "task_id": str(number), "content": "hi"}) for number in range(9_000)]
    await client.lpush("letta_requests", *tasks)
    while await client.llen("letta_requests"):
        await queue.settle_and_fetch([], 0)
    turns = (await queue.settle_and_fetch([], 10_000)).turns
    assert len(turns) == len(tasks)
    assert await client.zcard(queue.keys.begun) == await client.zcard(queue.keys.leases) == len(tasks)


async def test_large_turns_of_a_dead_bridge_are_taken_over_by_several_calls(
    client: RedisClient, queue: RedisQueue, settings: QueueSettings
) -> None:
    dead = RedisQueue(client, client, settings, "dead")
    for number in range(20):
        await client.lpush("letta_requests", large(f"u{number}", str(number)))
    held = []
    while found := (await dead.settle_and_fetch([], 20)).turns:
        held += found
    await client.zadd(queue.keys.leases, {turn.receipt: 1 for turn in held})
    await queue.settle_and_fetch([], 0)
    assert 0 < (await queue.status()).counters["redelivered"] < 20
    taken = []
    while found := (await queue.settle_and_fetch([], 20)).turns:
        taken += found
    assert sorted(task_ids(turn.payload for turn in taken)) == sorted(map(str, range(20)))


async def test_a_users_large_tasks_are_dropped_by_several_calls_and_all_of_them(
    client: RedisClient, queue: RedisQueue, settings: QueueSettings
) -> None:
    for number in range(12):
        await client.lpush("letta_requests", large("ada", str(number)))
    while await client.llen("letta_requests"):
        await queue.settle_and_fetch([], 0)
    traces = UserRecords(client, settings, "ada")
    dropped = [entry.partition(b"\n")[2] async for entries in traces.drop_waiting(Outcome.ERASED) for entry in entries]
    assert task_ids(dropped) == list(map(str, range(12)))
    assert (await queue.status()).waiting == 0


@pytest.mark.parametrize("rights", [["+@all"], ["+@all", "-lpos", "-hkeys"]])
async def test_a_lost_turn_is_found_behind_large_ones_with_this_releases_rights_and_the_last_ones(
    client: Any, settings: QueueSettings, redis_url: str, rights: list[str]
) -> None:
    await client.execute_command("ACL", "SETUSER", "bridge", "on", ">secret", "~*", "&*", *rights)
    limited = connect(RedisSettings(url=redis_url.replace("redis://", "redis://bridge:secret@")), name="bridge")
    queue = RedisQueue(limited, limited, settings, "a")
    try:
        await queue.settle_and_fetch([], 1)
        for number in range(6):
            await client.lpush("letta_requests", large("ada", str(number)))
        saved = {key: await client.dump(key) async for key in client.scan_iter(match="*letta_requests*")}
        (turn,) = (await queue.settle_and_fetch([], 1)).turns
        await client.flushdb()
        for key, content in saved.items():
            await client.restore(key, 0, content)
        await queue.settle_and_fetch([], 1)
        assert queue.writes_lost
        assert await queue.restore([turn]) == set()
        waiting = await client.lrange("letta_requests", 0, -1)
        assert task_ids(reversed(waiting)) == ["1", "2", "3", "4", "5"]
    finally:
        await limited.aclose()
        await client.execute_command("ACL", "DELUSER", "bridge")


@pytest.mark.parametrize("rights", [["+@all"], ["+@all", "-hkeys"]])
async def test_damage_is_mended_without_reading_every_turn(
    client: RedisClient, settings: QueueSettings, redis_url: str, rights: list[str]
) -> None:
    await client.execute_command("ACL", "SETUSER", "bridge", "on", ">secret", "~*", "&*", *rights)
    limited = connect(RedisSettings(url=redis_url.replace("redis://", "redis://bridge:secret@")), name="bridge")
    queue = RedisQueue(limited, limited, settings, "a")
    try:
        for user in ("ada", "bo"):
            await client.lpush("letta_requests", json.dumps({"user_id": user, "task_id": user, "content": "hi"}))
        ada, bo = (await queue.settle_and_fetch([], 2)).turns
        await client.hdel(queue.keys.lanes, "ada")
        await client.zrem(queue.keys.leases, bo.receipt)
        await queue.settle_and_fetch([], 0)
        assert await client.hget(queue.keys.lanes, "ada") == ada.receipt.encode()
        assert await client.lrange(queue.keys.ready, 0, -1) == [bo.lane.encode()]  # its lease began and ended at once
    finally:
        await limited.aclose()
        await client.execute_command("ACL", "DELUSER", "bridge")


async def test_removing_forty_thousand_missed_turns_takes_one_short_call(
    client: RedisClient,
) -> None:
    """Redis serves nobody meanwhile: a call that takes longer than the client's time-out fails."""
    settings = QueueSettings(max_missed_per_user=40_000, missed_bytes=2**30)
    queue = RedisQueue(client, client, settings, "a")
    records = [json.dumps({"task_id": f"k{number}", "content": "hi", "timestamp": 1}) for number in range(40_000)]
    for start in range(0, len(records), 1000):
        await client.rpush(queue.keys.missed("ada"), *records[start : start + 1000])
    await client.rpush(queue.keys.missed("ada"), "of another persona")
    await client.lpush("letta_requests", json.dumps({"user_id": "ada", "task_id": "1", "content": "hi"}))
    (turn,) = (await queue.settle_and_fetch([], 1)).turns
    told = frozenset(fingerprint(record.encode()) for record in records)
    end = Settlement(turn.receipt, Outcome.LETTA, user_id="ada", task_id="1", reply=b"{}", caught_up=told)
    assert (await queue.settle_and_fetch([end], 0)).settled == [True]
    assert await client.lrange(queue.keys.missed("ada"), 0, -1) == [b"of another persona"]
