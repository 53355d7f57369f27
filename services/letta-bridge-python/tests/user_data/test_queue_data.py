"""What one user left in the queue goes, and nobody else's; on a real Redis."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from letta_bridge.request_queue import Outcome, RedisQueue, Settlement
from letta_bridge.settings import QueueSettings
from letta_bridge.user_data.lane import UserLane
from letta_bridge.user_data.port import ErasureBusy
from letta_bridge.user_data.queue_data import QueueUserData
from shared_utils.config.settings import RedisSettings
from shared_utils.redis.connection import RedisClient, connect

pytestmark = pytest.mark.integration

USERS = ("小明", "u*", "u1", "a:b", "u[1]")
"""Ids that a careless pattern would take for one another."""


@pytest.fixture
async def queue(client: RedisClient, redis_url: str) -> RedisQueue:
    return RedisQueue(client, connect(RedisSettings(url=redis_url), name="pop"), QueueSettings(), "bridge")


def payload(user: str, number: int) -> str:
    return json.dumps({"task_id": f"{user}-{number}", "user_id": user, "content": f"消息 {number}"})


async def fill(client: Any, queue: RedisQueue) -> None:
    """Every user: an answered task, a dead letter, a missed turn, a waiting task and an untaken one; meters."""
    for number in range(3):
        for user in USERS:
            await client.lpush("letta_requests", payload(user, number))
    outcomes = {0: Outcome.LETTA, 1: Outcome.MEMORY, 2: Outcome.DEAD}
    for number, outcome in outcomes.items():
        turns = (await queue.settle_and_fetch([], limit=10)).turns
        assert len(turns) == len(USERS)
        for turn in turns:
            user = turn.lane
            about = json.dumps({"user_id": user, "task_id": f"{user}-{number}", "code": "malformed"}).encode()
            reply = json.dumps({"user_id": user, "task_id": f"{user}-{number}", "response_text": "好"}).encode()
            settlement = Settlement(
                turn.receipt,
                outcome,
                user_id=user,
                task_id=f"{user}-{number}",
                reply=reply,
                missed=(b'{"missed": 1}',) if outcome is Outcome.MEMORY else (),
                dead=about if outcome is Outcome.DEAD else None,
                journal=json.dumps({"user_id": user}).encode() if outcome is Outcome.LETTA else None,
            )
            await queue.settle_and_fetch([settlement], limit=0)
    for number, user in enumerate(USERS):
        answer = json.dumps({"user_id": user, "task_id": "t", "response_text": "好"})
        await client.set(f"{{letta_requests}}:fallback:{number}-1", answer)
        await client.lpush("letta_requests", payload(user, 3), payload(user, 4))
        await client.set(f"{{letta_requests}}:rate:{user}", "1")
        await leave_streams(client, user)
        await client.hset("{letta_requests}:tokens:20000", user, 5)


async def leave_streams(client: Any, user: str) -> None:
    """Two task streams, an interrupt that a bridge has noted, and two that wait, one of which cannot be read."""
    escaped = user.replace("%", "%25").replace(":", "%3A")
    event = {"v": 1, "seq": 0, "task_id": "t", "user_id": user, "attempt": 1, "type": "started", "source": "letta"}
    for task_id in ("0", "1"):
        await client.xadd(f"{{letta_requests}}:stream:{escaped}:{task_id}", {"event": json.dumps(event), "by": "1-1 1"})
    request = json.dumps({"type": "interrupt", "user_id": user, "task_id": "t"})
    await client.hset("{letta_requests}:interrupts", f"{escaped}:t", f"9999999999999 -\n{request}")
    await client.lpush("letta_control", request, json.dumps({"type": "stop", "user_id": user}))


@pytest.fixture
def trace(client: RedisClient) -> QueueUserData:
    return QueueUserData(client, QueueSettings())


@pytest.fixture
def lane(client: RedisClient) -> UserLane:
    return UserLane(client, QueueSettings(), patience=0.3)


EXPECTED = {
    "waiting_tasks": 2,
    "missed_turns": 1,
    "kept_replies": 3,
    "task_streams": 2,
    "interrupts": 3,
    "fallback_answers": 1,
    "streamed_replies": 3,
    "dead_letters": 1,
    "unjournalled_turns": 1,
    "meters": 2,
}


async def test_one_user_goes_and_no_other(
    client: RedisClient, queue: RedisQueue, trace: QueueUserData, lane: UserLane
) -> None:
    await fill(client, queue)
    assert {user: await trace.count(user) for user in USERS} == dict.fromkeys(USERS, EXPECTED)
    for gone in range(len(USERS)):
        assert await lane.quiet(USERS[gone]) == 2
        assert {"waiting_tasks": 2, **await trace.erase(USERS[gone])} == EXPECTED
        assert await trace.count(USERS[gone]) == dict.fromkeys(EXPECTED, 0)
        for user in USERS[gone + 1 :]:
            assert await trace.count(user) == EXPECTED
    assert set((await trace.erase(USERS[0])).values()) == {0}


async def test_counters_still_add_up(client: Any, queue: Any, trace: QueueUserData, lane: UserLane) -> None:
    await fill(client, queue)
    turns = (await queue.settle_and_fetch([], limit=2)).turns  # routes what waits; two are in flight
    held = {turn.lane for turn in turns}
    for user in set(USERS) - held:
        await lane.quiet(user)
        await trace.erase(user)
    status = await queue.status()
    settled = sum(count for name, count in status.counters.items() if name.startswith("settled:"))
    assert status.counters["taken"] == settled + status.waiting + status.in_flight
    assert status.counters["missed_pending"] == len(held)


async def test_a_turn_in_flight_is_waited_for(
    client: RedisClient, queue: RedisQueue, trace: QueueUserData, lane: UserLane
) -> None:
    await client.lpush("letta_requests", payload("u1", 1))
    [turn] = (await queue.settle_and_fetch([], limit=1)).turns
    with pytest.raises(ErasureBusy, match="letta-bridge lanes"):
        await lane.quiet("u1")
    patient = UserLane(client, QueueSettings(), patience=30)
    waiting = asyncio.create_task(patient.quiet("u1"))
    await queue.settle_and_fetch(
        [Settlement(turn.receipt, Outcome.LETTA, user_id="u1", task_id="u1-1", reply=b"{}")], limit=0
    )
    assert await waiting == 0
    assert (await trace.erase("u1"))["kept_replies"] == 1


@pytest.mark.parametrize("lane", ["~3", "~full:3", "u1~again:0017-1"])
async def test_record_set_aside_in_another_lane_is_erased_with_its_user(
    client: RedisClient, trace: QueueUserData, lane: str
) -> None:
    about = {"v": 2, "code": "unreadable_record", "lane": lane, "user_id": lane}
    entry = "7 1 1\n" + payload("u1", 1)
    bodies = {"entry": entry, "turn": f"bridge v2\n{lane}\n{entry}", "journal": '{}\n{"user_id":"u1"}'}
    for kind, body in bodies.items():
        for owner in ("u1", "a:b"):
            letter = (
                json.dumps(about | {"record": kind}) + "\n" + body.replace("u1-1", "t").replace('"u1"', f'"{owner}"')
            )
            await client.lpush("{letta_requests}:dead", letter)
    assert (await trace.count("u1"))["dead_letters"] == 3
    assert (await trace.erase("u1"))["dead_letters"] == 3
    left = await client.lrange("{letta_requests}:dead", 0, -1)
    assert len(left) == 3
    assert all(b'"a:b"' in letter for letter in left)


async def test_all_of_it_is_exported(client: Any, queue: Any, trace: QueueUserData, tmp_path: Path) -> None:
    await fill(client, queue)
    counts = await trace.export("小明", tmp_path)
    assert counts.items() <= (await trace.count("小明")).items()
    waiting = [json.loads(line) for line in (tmp_path / "waiting_tasks.jsonl").read_text("utf-8").splitlines()]
    assert [task["content"] for task in waiting] == ["消息 3", "消息 4"]
    assert "小明" in (tmp_path / "dead_letters.jsonl").read_text("utf-8")
