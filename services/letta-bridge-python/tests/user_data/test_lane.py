"""A user's lane is emptied whatever JSON form the id has, and who waits for an answer is told; on a real Redis."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from letta_bridge.request_queue import Outcome, RedisQueue, Settlement
from letta_bridge.request_queue.port import Turn
from letta_bridge.settings import QueueSettings
from letta_bridge.user_data.lane import UserLane
from letta_bridge.user_data.port import ErasureBusy
from shared_utils.config.settings import RedisSettings
from shared_utils.redis.connection import RedisClient, connect

pytestmark = pytest.mark.integration

FORMS = {
    "42": [
        b'{"task_id":"a","user_id":"42"}',
        b'{"task_id":"b","user_id":42}',
        b'{"task_id":"c","user_id":"\\u0034\\u0032"}',
    ],
    "0": [b'{"task_id":"a","user_id":-0}', b'{"task_id":"b","user_id":"0"}'],
    "Ada": [b'{"task_id":"a","user_id":"\\u0041da"}', b'{"task_id":"b","user\\u005fid":"Ada"}'],
    "anonymous": [b'{"task_id":"a"}', b'{"task_id":"b","user_id":null}', b'{"task_id":"c","user_id":""}'],
    "小明": ['{"task_id":"a","user_id":"小明"}'.encode(), b'{"task_id":"b","user_id":"\\u5c0f\\u660e"}'],
    "~7": [b'{"task_id":"a","user_id":"~7"}'],
}
OTHERS = [
    json.dumps({"task_id": "a", "user_id": user}).encode()
    for user in ("420", "4", "ada", "Ada ", "anonymous2", "*", "a:b", "a%3Ab", "~70", "[4][2]", "?2")
]


@pytest.fixture
async def queue(client: RedisClient, redis_url: str) -> RedisQueue:
    return RedisQueue(client, connect(RedisSettings(url=redis_url), name="pop"), QueueSettings(), "bridge")


@pytest.fixture
def lane(client: RedisClient) -> UserLane:
    return UserLane(client, QueueSettings(), patience=0.3)


async def waiting(client: Any, queue: RedisQueue) -> list[bytes]:
    """Everything that waits, in whatever lane or list."""
    keys = [queue.keys.requests, queue.keys.incoming]
    keys += [key.decode() async for key in client.scan_iter(match="{letta_requests}:lane:*")]
    return sorted(
        [item[item.index(b"{") :] for key in keys for item in await client.lrange(key, 0, -1) if b"{" in item]
    )


@pytest.mark.parametrize("routed", [False, True], ids=["untaken", "in lanes"])
@pytest.mark.parametrize("user", FORMS)
async def test_every_form_of_an_id_is_found_and_no_other_user(
    client: Any, queue: Any, lane: UserLane, user: str, routed: bool
) -> None:
    mine = [payload for payload in FORMS[user] for _ in range(2)]
    for payload in (*OTHERS, *mine, *OTHERS):
        await client.lpush("letta_requests", payload)
    if routed:
        await queue.settle_and_fetch([], 0)
    else:
        await client.lmove("letta_requests", queue.keys.incoming, "RIGHT", "LEFT")
    assert await lane.quiet(user) == len(mine)
    assert await waiting(client, queue) == sorted(OTHERS * 2)
    assert await lane.quiet(user) == 0
    status = await queue.status()
    assert status.waiting == (len(OTHERS) * 2 if routed else 0)


async def test_a_users_tasks_among_unreadable_ones_are_found(client: Any, queue: Any, lane: UserLane) -> None:
    """What cannot be read as a task waits in shared lanes, and so does what found its own lane full."""
    queue.max_lane = 1
    unreadable = b'{"task_id":"u","user_id":"Ada","meta":[]'
    for payload in (b"{not json", unreadable, *(b'{"task_id":"%d","user_id":"Ada"}' % n for n in range(3)), b"{}"):
        await client.lpush("letta_requests", payload)
    await queue.settle_and_fetch([], 0)
    assert await lane.quiet("Ada") == 4
    assert await waiting(client, queue) == sorted([b"{not json", b"{}"])


async def test_the_lane_of_unreadable_tasks_is_not_emptied_for_a_user_of_its_name(
    client: Any, queue: Any, lane: UserLane
) -> None:
    for number in range(64):
        await client.lpush("letta_requests", b"{not json %d" % number)
    await client.lpush("letta_requests", b'{"task_id":"a","user_id":"~7"}')
    await queue.settle_and_fetch([], 0)
    assert await lane.quiet("~7") == 1
    assert len(await waiting(client, queue)) == 64


async def test_refused_tasks_get_a_published_error_reply(
    client: RedisClient, queue: RedisQueue, lane: UserLane
) -> None:
    async with client.pubsub(ignore_subscribe_messages=True) as heard:
        await heard.subscribe("letta_responses", "task_response:t1", "task_response:7")
        await heard.get_message(timeout=1)
        await client.lpush("letta_requests", b'{"task_id":"t1","user_id":"Ada"}', b'{"task_id":7,"user_id":"Ada"}')
        await queue.settle_and_fetch([], 0)
        await client.lpush("letta_requests", b'{"user_id":"Ada"}')
        assert await lane.quiet("Ada") == 3
        told: list[Any] = []
        async with asyncio.timeout(20):
            while len(told) < 4:
                if (message := await heard.get_message(timeout=1)) is not None:
                    told.append((message["channel"].decode(), json.loads(message["data"])))
    replies = [message for channel, message in told if channel == "letta_responses"]
    assert sorted(reply["task_id"] for reply in replies) == ["7", "t1"]
    assert all(
        reply.items() >= {"user_id": "Ada", "error": True, "code": "erased", "retryable": True}.items()
        for reply in replies
    )
    assert {channel for channel, _ in told} == {"letta_responses", "task_response:t1", "task_response:7"}
    assert [key async for key in client.scan_iter(match="*reply*")] == []
    assert not await client.exists(queue.keys.replies)
    assert (await queue.status()).counters["settled:erased"] == 2


async def test_a_turn_in_flight_from_a_shared_lane_is_waited_for(
    client: RedisClient, queue: RedisQueue, lane: UserLane
) -> None:
    await client.lpush("letta_requests", b'{"task_id":"u","user_id":"Ada","meta":[]')
    (turn,) = (await queue.settle_and_fetch([], 1)).turns
    assert turn.lane.startswith("~")
    with pytest.raises(ErasureBusy):
        await lane.quiet("Ada")
    await lane.quiet("bob")
    await queue.settle_and_fetch([Settlement(turn.receipt, Outcome.DEAD, dead=b"{}")], 0)
    assert await lane.quiet("Ada") == 0


async def lose_the_hand_out(client: Any, queue: RedisQueue, other: RedisQueue) -> tuple[Turn, Turn]:
    """Redis loses its writes while Ada's turn is in flight: the turn is restored beside a later one of hers."""
    await queue.settle_and_fetch([], 1)
    await client.lpush("letta_requests", b'{"task_id":"t1","user_id":"Ada"}')
    (turn,) = (await queue.settle_and_fetch([], 1)).turns
    await client.flushdb()
    await client.lpush("letta_requests", b'{"task_id":"t2","user_id":"Ada"}')
    (later,) = (await other.settle_and_fetch([], 1)).turns
    assert (await queue.settle_and_fetch([], 1)).turns == []
    assert await queue.restore([turn]) == set()
    return turn, later


async def test_a_restored_turn_in_a_lane_of_its_own_is_waited_for(
    client: RedisClient, queue: RedisQueue, lane: UserLane
) -> None:
    turn, later = await lose_the_hand_out(client, queue, RedisQueue(client, client, QueueSettings(), "other"))
    async with lane.held("Ada"):
        await RedisQueue(client, client, QueueSettings(), "other").settle_and_fetch(
            [Settlement(later.receipt, Outcome.LETTA, user_id="Ada", task_id="t2", reply=b"{}")], 0
        )
        with pytest.raises(ErasureBusy):
            await lane.quiet("Ada")
        await lane.quiet("Ada~again")
        await queue.settle_and_fetch(
            [Settlement(turn.receipt, Outcome.LETTA, user_id="Ada", task_id="t1", reply=b"{}")], 0
        )
        assert await lane.quiet("Ada") == 0


async def test_a_restored_task_that_waits_in_a_lane_of_its_own_is_refused(
    client: Any, queue: Any, lane: UserLane
) -> None:
    other = RedisQueue(client, client, QueueSettings(), "other")
    await lose_the_hand_out(client, queue, other)
    for receipt in await client.zrange(queue.keys.leases, 0, -1):
        await client.zadd(queue.keys.leases, {receipt: 1})
    async with lane.held("Ada"):
        assert (await other.settle_and_fetch([], 5)).turns == []
        assert await lane.quiet("Ada") == 2
    assert await client.llen(queue.keys.ready) == 0
    assert [key async for key in client.scan_iter(match="*:lane:*")] == []


async def test_an_agent_in_the_making_is_waited_for(client: RedisClient, queue: RedisQueue) -> None:
    lane = UserLane(client, QueueSettings(), patience=0.3, personas=("default", "cat"))
    await client.set(queue.keys.creating("Ada", "cat"), "token", px=60_000)
    with pytest.raises(ErasureBusy, match="making an agent"):
        await lane.quiet("Ada")
    assert await lane.quiet("Bo") == 0
    await client.pexpire(queue.keys.creating("Ada", "cat"), 200)
    assert await UserLane(client, QueueSettings(), patience=30, personas=("default", "cat")).quiet("Ada") == 0


async def test_sixty_waiting_tasks_are_refused_while_the_one_in_flight_ends(
    client: RedisClient, queue: RedisQueue
) -> None:
    lane = UserLane(client, QueueSettings(), patience=30)
    for number in range(61):
        await client.lpush("letta_requests", json.dumps({"task_id": f"t{number}", "user_id": "ada"}))
    (turn,) = (await queue.settle_and_fetch([], 10)).turns
    async with lane.held("ada"):
        quieting = asyncio.create_task(lane.quiet("ada"))
        while await client.exists(queue.keys.lane("ada")):
            await asyncio.sleep(0.005)
        await client.lpush("letta_requests", b'{"task_id":"late","user_id":"ada"}')
        end = Settlement(turn.receipt, Outcome.LETTA, user_id="ada", task_id="t0", reply=b"{}")
        assert (await queue.settle_and_fetch([end], 10)).turns == []
        assert await quieting == 61
    assert (await queue.settle_and_fetch([], 10)).turns == []
    assert (await queue.status()).waiting == 0
