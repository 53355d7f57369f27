"""Many turns settled by one call of the script, on a real Redis."""

from __future__ import annotations

import json
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisAway
from redis.exceptions import ResponseError

from letta_bridge.request_queue import Outcome, RedisQueue, Settlement, redis_queue
from letta_bridge.request_queue.port import Refusal, Turn
from letta_bridge.settings import QueueSettings
from shared_utils.config.settings import RedisSettings
from shared_utils.redis.connection import RedisClient, connect

pytestmark = pytest.mark.integration


@pytest.fixture
def queue(client: RedisClient) -> RedisQueue:
    return RedisQueue(client, client, QueueSettings(), "a")


async def handed_out(queue: RedisQueue, client: Any, *users: str) -> Any:
    for user in users:
        await client.lpush("letta_requests", json.dumps({"task_id": f"of {user}", "user_id": user, "content": "hi"}))
    return (await queue.settle_and_fetch([], len(users))).turns


def answered(turn: Turn, **changes: Any) -> Settlement:
    ids = json.loads(turn.payload)
    values = {"user_id": ids["user_id"], "task_id": ids["task_id"], "reply": b'{"reply": 1}'} | changes
    return Settlement(turn.receipt, Outcome.LETTA, **values)


async def test_a_key_of_another_kind_among_the_missed_turns_is_set_aside_and_keeps_no_answer(
    queue: Any, client: Any
) -> None:
    turns = await handed_out(queue, client, "ada", "怡", "bo")
    ends = [answered(turns[0]), answered(turns[1], missed=(b"{}",)), answered(turns[2])]
    spoilt = queue.keys.missed("怡")
    await client.set(spoilt, "no list")
    dump = await client.dump(spoilt)
    assert (await queue.settle_and_fetch(ends, 0)).settled == [True, True, True]
    assert await queue.missed("怡") == [b"{}"]
    line, _, content = (await client.lindex(queue.keys.dead, 0)).partition(b"\n")
    assert content == dump
    about = json.loads(line)
    assert (about["code"], about["record"], about["user_id"]) == ("unreadable_record", "key", "怡")


async def test_an_answer_is_given_although_its_missed_turn_can_be_kept_nowhere(
    queue: Any, client: Any, redis_url: str
) -> None:
    """A Redis user without the right to DUMP."""
    (turn,) = await handed_out(queue, client, "怡")
    await client.set(queue.keys.missed("怡"), "no list")
    await client.execute_command("ACL", "SETUSER", "poor", "on", ">secret", "~*", "&*", "+@all", "-dump")
    poor = connect(RedisSettings(url=redis_url, username="poor", password="secret"), name="poor")
    bridge = RedisQueue(poor, poor, QueueSettings(), "a")
    assert (await bridge.settle_and_fetch([answered(turn, missed=(b'{"said": 1}',))], 0)).settled == [True]
    line, _, record = (await client.lindex(queue.keys.dead, 0)).partition(b"\n")
    assert (json.loads(line)["record"], record) == ("missed", b'{"said": 1}')
    await bridge.close()
    await client.execute_command("ACL", "DELUSER", "poor")


async def test_one_that_fails_does_not_hold_up_the_others(queue: Any, client: Any) -> None:
    turns = await handed_out(queue, client, "ada", "怡", "bo")
    ends = [answered(turns[0]), answered(turns[1], journal=b"{}"), answered(turns[2])]
    await client.set(queue.keys.journal, "no stream")
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        await queue.settle_and_fetch(ends, 0)
    assert list(await client.hkeys(queue.keys.turns)) == [turns[1].receipt.encode()]
    await client.delete(queue.keys.journal)
    again = await queue.settle_and_fetch(ends, 0)
    assert again.settled == [False, True, False]
    assert again.refused == {turns[0].receipt: Refusal.REPEATED, turns[2].receipt: Refusal.REPEATED}
    assert await client.hlen(queue.keys.turns) == 0


async def test_any_number_is_settled_in_order(queue: Any, client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_queue, "_TURNS_PER_SETTLE", 3)
    turns = await handed_out(queue, client, *(f"用户{number}" for number in range(8)))
    ends = [answered(turn, reply=b'{"number": %d}' % number) for number, turn in enumerate(turns)]
    ends.insert(4, Settlement("999-999", Outcome.LETTA))
    assert (await queue.settle_and_fetch(ends, 0)).settled == [True] * 4 + [False] + [True] * 4
    replies = [json.loads(entry[b"reply"])["number"] for _, entry in await client.xrange(queue.keys.replies)]
    assert replies == list(range(8))


async def test_missed_turns_are_waited_for_while_redis_is_unavailable(
    queue: RedisQueue, client: RedisClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    await client.rpush(queue.keys.missed("怡"), "first")
    read, failures = client.lrange, [RedisAway("gone"), RedisAway("still gone")]

    async def now_and_then(*args: Any) -> Any:
        if failures:
            raise failures.pop()
        return await read(*args)

    monkeypatch.setattr(client, "lrange", now_and_then)
    assert await queue.missed("怡") == [b"first"]
    assert not failures


RETRYABLE = b'{"error":true,"retryable":true}'
MARK = b'"idempotency_key":"1-1"'


async def time_to_live(queue: RedisQueue, client: Any) -> Any:
    return await client.ttl(queue.keys.reply("怡", "of 怡"))


async def test_the_reply_that_names_a_tasks_key_does_not_expire_while_the_task_is_in_flight(
    queue: Any, client: Any
) -> None:
    (first,) = await handed_out(queue, client, "怡")
    await queue.settle_and_fetch([answered(first, reply=RETRYABLE, mark=MARK)], 0)
    ttl = await time_to_live(queue, client)
    assert 0 < ttl <= QueueSettings().reply_ttl_seconds
    (again,) = await handed_out(queue, client, "怡")
    assert json.loads(again.kept_reply)["idempotency_key"] == "1-1"
    assert await time_to_live(queue, client) > 7 * 86_400
    await queue.settle_and_fetch([answered(again)], 0)
    assert 0 < await time_to_live(queue, client) <= ttl


@pytest.mark.parametrize("mark", [b"", MARK])
async def test_a_reply_that_another_task_has_found_is_kept_no_longer_than_any(
    queue: Any, client: Any, mark: bytes
) -> None:
    (first,) = await handed_out(queue, client, "怡")
    await queue.settle_and_fetch([answered(first, reply=RETRYABLE, mark=mark)], 0)
    (other,) = await handed_out(queue, client, "怡")
    await queue.settle_and_fetch([answered(other, replaces_kept=False)], 0)
    assert 0 < await time_to_live(queue, client) <= QueueSettings().reply_ttl_seconds


async def test_an_answer_that_is_kept_is_not_kept_longer_by_a_repetition(queue: Any, client: Any) -> None:
    (first,) = await handed_out(queue, client, "怡")
    await queue.settle_and_fetch([answered(first, mark=MARK)], 0)
    await handed_out(queue, client, "怡")
    assert 0 < await time_to_live(queue, client) <= QueueSettings().reply_ttl_seconds
