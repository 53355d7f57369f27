"""An operator drops one user's waiting tasks: each gets an error reply, others wait on; on a real Redis."""

from __future__ import annotations

import json
from typing import Any

import pytest

from letta_bridge.request_queue import RedisQueue
from letta_bridge.request_queue.holds import Holds
from letta_bridge.request_queue.idempotency import KeptReply, content_digest
from letta_bridge.settings import QueueSettings
from letta_bridge.user_data.dropped_tasks import drop_waiting
from shared_utils.config.settings import RedisSettings
from shared_utils.contracts.messages import parse_task
from shared_utils.redis.connection import RedisClient, connect

pytestmark = pytest.mark.integration

SETTINGS = QueueSettings()


@pytest.fixture
async def queue(client: RedisClient, redis_url: str) -> RedisQueue:
    return RedisQueue(client, connect(RedisSettings(url=redis_url), name="pop"), SETTINGS, "bridge")


def task(task_id: str, user: str = "ada", content: str = "hi") -> Any:
    return json.dumps({"task_id": task_id, "user_id": user, "content": content}).encode()


async def test_waiting_tasks_end_with_a_kept_error_reply_and_others_wait_on(client: Any, queue: Any) -> None:
    await client.lpush("letta_requests", task("1"), task("2"), task("3", "bo"))
    (turn,) = (await queue.settle_and_fetch([], 1)).turns
    assert turn.lane == "ada"
    await client.lpush("letta_requests", task("4"))
    channels = client.pubsub()
    await channels.subscribe("task_response:2", "task_stream:2")
    assert await drop_waiting(client, SETTINGS, "ada") == 2
    status = await queue.status()
    assert (status.depth, status.waiting, status.in_flight) == (0, 1, 1)
    assert status.counters["settled:error"] == 1
    replies: list[Any] = [KeptReply.read(await client.get(queue.keys.reply("ada", number))) for number in ("2", "4")]
    assert [(reply.content["code"], reply.content["retryable"]) for reply in replies] == [("dropped", True)] * 2
    assert replies[0].is_of(parse_task(task("2"), SETTINGS.limits))
    assert not replies[0].is_of(parse_task(task("2", content="other"), SETTINGS.limits))
    assert replies[0].content["content_digest"] == content_digest(parse_task(task("2"), SETTINGS.limits))
    assert await client.xlen(queue.keys.replies) == 2
    response, event = [await channels.get_message(timeout=10) for _ in range(4)][2:]
    assert json.loads(response["data"])["error"] is True
    assert (
        json.loads(event["data"]).items()
        >= {"task_id": "2", "user_id": "ada", "type": "error", "code": "dropped"}.items()
    )
    assert not await client.exists(queue.keys.reply("ada", "1"))


async def test_dropping_keeps_the_reply_of_an_earlier_task_with_the_same_id(
    client: RedisClient, queue: RedisQueue
) -> None:
    key = queue.keys.reply("ada", "1")
    await client.set(key, b'{"response_text":"earlier"}')
    await client.lpush("letta_requests", task("1"))
    assert await drop_waiting(client, SETTINGS, "ada") == 1
    assert await client.get(key) == b'{"response_text":"earlier"}'


async def test_task_that_was_begun_before_is_left_to_a_bridge_and_stays_first(
    client: RedisClient, queue: RedisQueue
) -> None:
    await client.lpush("letta_requests", task("1"), task("2"), task("3"))
    (turn,) = (await queue.settle_and_fetch([], 1)).turns
    await client.zadd(queue.keys.leases, {turn.receipt: 0})  # its bridge was killed
    await Holds(client, queue.keys).keep("ada", "an operator", 60)
    assert (await queue.settle_and_fetch([], 5)).turns == []
    assert await drop_waiting(client, SETTINGS, "ada") == 2
    await Holds(client, queue.keys).lift("ada")
    (again,) = (await queue.settle_and_fetch([], 5)).turns
    assert (again.number, again.attempts) == (turn.number, 2)
    assert (await queue.status()).waiting == 0


async def test_reply_that_a_dropped_task_has_found_is_kept_no_longer_than_any(
    client: RedisClient, queue: RedisQueue
) -> None:
    key = queue.keys.reply("ada", "1")
    await client.set(key, b'{"error":true,"retryable":true,"idempotency_key":"1-1"}', ex=60)
    await client.lpush("letta_requests", task("1"))
    (turn,) = (await queue.settle_and_fetch([], 1)).turns
    await queue.release([turn.receipt])
    assert await client.ttl(key) > SETTINGS.reply_ttl_seconds
    assert await drop_waiting(client, SETTINGS, "ada") == 1
    assert 0 < await client.ttl(key) <= SETTINGS.reply_ttl_seconds


@pytest.mark.parametrize("payload", [b'{"task_id":"1","user_id":"ada","content":5,"type":[]}', b'{"user_id":"ada"}'])
async def test_task_that_cannot_be_read_is_dropped_too(client: RedisClient, queue: RedisQueue, payload: bytes) -> None:
    await client.lpush("letta_requests", payload)
    await queue.settle_and_fetch([], 0)
    assert await drop_waiting(client, SETTINGS, "ada") == 1
    assert (await queue.status()).waiting == 0


async def test_held_user_waits_while_others_are_served(client: RedisClient, queue: RedisQueue) -> None:
    holds = Holds(client, queue.keys)
    assert await holds.keep("ada", "floods", 60) == 0
    await client.lpush("letta_requests", task("1"), task("2", "bo"))
    (turn,) = (await queue.settle_and_fetch([], 5)).turns
    assert turn.lane == "bo"
    await holds.lift("ada")
    (turn,) = (await queue.settle_and_fetch([], 5)).turns
    assert turn.lane == "ada"
