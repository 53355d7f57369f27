"""The formats in Redis over releases: what an older bridge wrote is read, what a later one wrote is set aside whole.

A bridge of the release before runs beside this one during an upgrade, and after going back. Its grammar is spelled out
here as it is in its scripts; what this release writes has to satisfy it.
"""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from letta_bridge.request_queue import Outcome, RedisQueue, Settlement
from letta_bridge.request_queue.admin import QueueAdmin
from letta_bridge.request_queue.keys import Keys
from letta_bridge.request_queue.port import Turn
from letta_bridge.settings import QueueSettings
from shared_utils.config.settings import RedisSettings
from shared_utils.redis.connection import RedisClient, connect

pytestmark = pytest.mark.integration

ENTRY_BEFORE = re.compile(rb"^(\d+) (\d+) (\d+)\n(.*)$", re.DOTALL)
"""What the release before reads in a lane: seq, attempts, first_ms, payload."""
TURN_BEFORE = re.compile(rb"^([^\n]*)\n([^\n]*)\n(.*)$", re.DOTALL)
"""What it reads of a turn: taker, lane, entry."""

NEXT_ENTRY = b'v2 {"seq":"9","attempts":0}\n{"user_id":"ada","task_id":"next"}'
GARBAGE = (b"", b"\x00\xff\xfe", b"12 x 3\n{}", b"1 2\n{}", b"-1 2 3\n{}", b"\n\n\n")


def groups(grammar: re.Pattern[bytes], record: Any) -> tuple[Any, ...]:
    """The parts of a record that satisfies a grammar."""
    found = grammar.match(record)
    assert found is not None, record
    return found.groups()


@pytest.fixture
def settings() -> QueueSettings:
    return QueueSettings(max_payload_bytes=1024)


@pytest.fixture
def queue(client: RedisClient, settings: QueueSettings) -> RedisQueue:
    return RedisQueue(client, client, settings, "a")


@pytest.fixture
def admin(client: RedisClient, settings: QueueSettings) -> QueueAdmin:
    return QueueAdmin(client, settings)


async def push(client: Any, *pairs: Any) -> None:
    for user, task_id in pairs:
        await client.lpush("letta_requests", json.dumps({"user_id": user, "task_id": task_id, "content": "hi"}))


async def wait_in_lane(client: Any, keys: Keys, lane: str, *entries: bytes) -> None:
    """As if a bridge had routed these, the first one first."""
    await client.hincrby(keys.counters, "taken", len(entries))
    await client.lpush(keys.lane(lane), *entries)
    await client.rpush(keys.ready, lane)


async def fly(client: Any, keys: Keys, receipt: str, lane: str, record: bytes, *, deadline_ms: int = 1) -> None:
    """As if a bridge had been handed this."""
    await client.hincrby(keys.counters, "taken", 1)
    await client.hset(keys.turns, receipt, record)
    await client.hset(keys.lanes, lane, receipt)
    await client.zadd(keys.leases, {receipt: deadline_ms})


def ended(turn: Turn) -> Settlement:
    task = json.loads(turn.payload)
    return Settlement(turn.receipt, Outcome.LETTA, user_id=task["user_id"], task_id=task["task_id"], reply=turn.payload)


async def letters(client: Any, keys: Any) -> Any:
    found = [letter.partition(b"\n") for letter in await client.lrange(keys.dead, 0, -1)]
    return [(json.loads(line), body) for line, _, body in found]


async def assert_adds_up(queue: RedisQueue) -> None:
    status = await queue.status()
    settled = sum(count for name, count in status.counters.items() if name.startswith("settled:"))
    assert status.counters.get("taken", 0) == settled + status.waiting + status.in_flight


async def served(queue: RedisQueue, client: Any, user: str) -> None:
    """Whether this user's next task is handed out and ends."""
    await push(client, (user, "proof"))
    turns = (await queue.settle_and_fetch([], 10)).turns
    assert "proof" in [json.loads(turn.payload)["task_id"] for turn in turns]
    assert all((await queue.settle_and_fetch([ended(turn) for turn in turns], 0)).settled)
    await assert_adds_up(queue)


# Forward: what the release before wrote


async def test_entry_of_the_previous_release_keeps_its_number(queue: RedisQueue, client: RedisClient) -> None:
    await wait_in_lane(client, queue.keys, "ada", b'41 2 1700000000123\n{"user_id":"ada","task_id":"t1"}')
    (turn,) = (await queue.settle_and_fetch([], 1)).turns
    assert (turn.number, turn.attempts, turn.payload) == (
        "41-1700000000123",
        3,
        b'{"user_id":"ada","task_id":"t1"}',
    )
    assert (await queue.settle_and_fetch([ended(turn)], 0)).settled == [True]
    await assert_adds_up(queue)


async def test_a_turn_of_the_release_before_is_taken_over_when_its_lease_ends(
    queue: RedisQueue, client: RedisClient
) -> None:
    record = b'host-7-abcdef+\nada\n41 1 1700000000123\n{"user_id":"ada","task_id":"t1"}'
    await fly(client, queue.keys, "41-44", "ada", record)
    (turn,) = (await queue.settle_and_fetch([], 1)).turns
    assert (turn.number, turn.attempts) == ("41-1700000000123", 2)


async def test_dead_letter_of_the_previous_release_returns_to_the_request_list(
    queue: RedisQueue, client: RedisClient, admin: QueueAdmin
) -> None:
    line = b'{"code":"internal","reason":"x","attempts":1,"time":1.0,"task_id":"t1","user_id":"ada"}'
    await client.lpush(queue.keys.dead, line + b'\n{"user_id":"ada","task_id":"t1"}')
    (letter,) = [letter async for letter in admin.dead()]
    assert await admin.retry(letter)
    assert await client.lrange("letta_requests", 0, -1) == [b'{"user_id":"ada","task_id":"t1"}']
    (turn,) = (await queue.settle_and_fetch([], 1)).turns
    assert turn.kept_reply is not None
    assert json.loads(turn.kept_reply)["retryable"] is True


# Back: what this release writes, read by the one before


async def test_records_match_the_grammar_of_the_previous_release(
    queue: RedisQueue, client: RedisClient, settings: QueueSettings
) -> None:
    await push(client, ("ada", "1"), ("ada", "2"), ("bo", "3"))
    (settled_and_fetched,) = (await queue.settle_and_fetch([], 1)).turns
    (waited,) = await queue.wait_and_fetch(1, 0.1)
    (entry,) = await client.lrange(queue.keys.lane("ada"), 0, -1)
    seq, attempts, _, payload = groups(ENTRY_BEFORE, entry)
    assert (int(attempts), json.loads(payload)["task_id"]) == (0, "2")
    assert int(seq) > 0
    for turn, taker in ((settled_and_fetched, b"a"), (waited, b"a+")):
        record: Any = await client.hget(queue.keys.turns, turn.receipt)
        taken_by, lane, rest = groups(TURN_BEFORE, record)
        seq, attempts, first_ms, payload = groups(ENTRY_BEFORE, rest)
        assert (taken_by, lane.decode(), payload) == (taker, turn.lane, turn.payload)
        # It names the task for itself, and gives it the same number.
        assert f"{int(seq)}-{int(first_ms)}" == turn.number


async def test_a_retried_task_is_read_by_the_release_before_as_handed_out_once(
    queue: RedisQueue, client: Any, admin: QueueAdmin
) -> None:
    await push(client, ("ada", "1"))
    (turn,) = (await queue.settle_and_fetch([], 1)).turns
    line = json.dumps({"code": "internal", "number": turn.number, "lane": "ada"}).encode()
    await queue.settle_and_fetch([Settlement(turn.receipt, Outcome.DEAD, dead=line)], 0)
    (letter,) = [letter async for letter in admin.dead()]
    assert await admin.retry(letter)
    (entry,) = await client.lrange(queue.keys.lane("ada"), 0, -1)
    seq, attempts, first_ms, payload = groups(ENTRY_BEFORE, entry)
    assert (f"{int(seq)}-{int(first_ms)}", int(attempts), payload) == (turn.number, 1, turn.payload)


async def test_dead_letter_format_is_readable_by_every_release(queue: Any, client: Any) -> None:
    await push(client, ("ada", "1"))
    (turn,) = (await queue.settle_and_fetch([], 1)).turns
    line = json.dumps({"code": "internal", "number": turn.number, "lane": "ada"}).encode()
    await queue.settle_and_fetch([Settlement(turn.receipt, Outcome.DEAD, dead=line)], 0)
    ((about, body),) = await letters(client, queue.keys)
    assert (about["code"], body) == ("internal", turn.payload)
    assert "v" not in about


# Back: what the next release wrote; and damage


@pytest.mark.parametrize(("lane", "user"), [("~~ada", "~ada"), ("~7", None), ("~full:7", None)])
async def test_a_letter_of_a_record_names_the_user_of_the_lane(
    queue: Any, client: Any, lane: str, user: str | None
) -> None:
    await client.rpush(queue.keys.lane_prefix + lane, GARBAGE[0])
    await client.rpush(queue.keys.ready, lane)
    await queue.settle_and_fetch([], 10)
    ((about, _),) = await letters(client, queue.keys)
    assert (about["lane"], about.get("user_id")) == (lane, user)


@pytest.mark.parametrize(
    ("entry", "code"), [(NEXT_ENTRY, "newer_record"), *((entry, "unreadable_record") for entry in GARBAGE)]
)
async def test_an_entry_that_cannot_be_read_is_set_aside_whole_and_its_user_served(
    queue: Any, client: Any, entry: Any, code: str
) -> None:
    readable = b'7 0 1700000000123\n{"user_id":"ada","task_id":"t7"}'
    await wait_in_lane(client, queue.keys, "ada", entry, readable)
    await push(client, ("bo", "other"))
    turns = (await queue.settle_and_fetch([], 10)).turns
    assert [json.loads(turn.payload)["task_id"] for turn in turns] == ["t7", "other"]
    ((about, body),) = await letters(client, queue.keys)
    assert body == entry
    assert (about["v"], about["record"], about["code"], about["lane"], about["user_id"]) == (
        2,
        "entry",
        code,
        "ada",
        "ada",
    )
    await queue.settle_and_fetch([ended(turn) for turn in turns], 0)
    await assert_adds_up(queue)


async def test_lane_of_unreadable_entries_does_not_delay_other_lanes(queue: Any, client: Any) -> None:
    await wait_in_lane(client, queue.keys, "ada", *[b"garbage"] * 250)
    await push(client, ("bo", "other"))
    assert len((await queue.settle_and_fetch([], 10)).turns) == 1
    for _ in range(3):
        await queue.settle_and_fetch([], 10)
    assert await client.llen(queue.keys.dead) == 250
    await served(queue, client, "ada")


@pytest.mark.parametrize(
    ("record", "code"),
    [
        (b"host-7-abcdef v2\nada\n" + NEXT_ENTRY, "newer_record"),
        (b"host-7-abcdef v2\nada\n1 1 1\n{}", "newer_record"),
        (b"host-7-abcdef\nada\n" + NEXT_ENTRY, "newer_record"),
        (b"host-7-abcdef\nada\ngarbage", "unreadable_record"),
        *((record, "unreadable_record") for record in GARBAGE),
    ],
)
async def test_a_turn_that_cannot_be_read_is_set_aside_whole_and_its_user_served(
    queue: Any, client: Any, record: Any, code: str
) -> None:
    await fly(client, queue.keys, "41-44", "ada", record)
    await wait_in_lane(client, queue.keys, "bo", b'7 0 1\n{"user_id":"bo","task_id":"t7"}')
    await client.lpush(queue.keys.lane("ada"), b'8 0 1\n{"user_id":"ada","task_id":"t8"}')
    await client.hincrby(queue.keys.counters, "taken", 1)
    turns = (await queue.settle_and_fetch([], 10)).turns
    assert sorted(json.loads(turn.payload)["task_id"] for turn in turns) == ["t7", "t8"]
    ((about, body),) = await letters(client, queue.keys)
    assert (about["record"], about["code"], about["user_id"], body) == ("turn", code, "ada", record)
    await queue.settle_and_fetch([ended(turn) for turn in turns], 0)
    await assert_adds_up(queue)


@pytest.mark.parametrize("record", [NEXT_ENTRY, b"a v2\nada\n1 1 1\n{}", *GARBAGE])
async def test_no_call_fails_because_of_a_turn_that_cannot_be_read(
    queue: Any, client: Any, admin: QueueAdmin, record: Any
) -> None:
    await push(client, ("bo", "t1"))
    (turn,) = (await queue.settle_and_fetch([], 1)).turns
    await fly(client, queue.keys, "41-44", "ada", record, deadline_ms=9_000_000_000_000)
    assert await queue.renew([turn.receipt, "41-44"]) == {"41-44"}
    await queue.release(["41-44"])
    assert (await queue.settle_and_fetch([Settlement("41-44", Outcome.LETTA)], 1)).settled == [False]
    await wait_in_lane(client, queue.keys, "cy", b"garbage")
    assert (await queue.status()).in_flight == 2
    lanes = await admin.lanes(10)
    assert {"bo", "cy"} <= {lane.lane for lane in lanes.lanes}
    assert (await queue.settle_and_fetch([ended(turn)], 0)).settled == [True]


async def test_lane_key_of_the_wrong_type_is_set_aside_for_a_task(queue: Any, client: Any) -> None:
    lane = queue.keys.lane("ada")
    await client.hset(lane, "no", "list")
    content = await client.dump(lane)
    await push(client, ("ada", "t1"), ("bo", "t2"))
    turns = (await queue.settle_and_fetch([], 10)).turns
    assert [json.loads(turn.payload)["task_id"] for turn in turns] == ["t1", "t2"]
    ((about, body),) = await letters(client, queue.keys)
    assert (about["record"], about["code"], body) == ("key", "unreadable_record", content)
    assert all((await queue.settle_and_fetch([ended(turn) for turn in turns], 0)).settled)
    await assert_adds_up(queue)


async def test_a_lane_that_cannot_be_used_costs_its_users_tasks_and_no_other_users(
    queue: Any, client: Any, redis_url: str, settings: QueueSettings
) -> None:
    """A Redis user without the right to DUMP: what lies there stays, and each task becomes a dead letter."""
    await client.set(queue.keys.lane("ada"), "no list")
    await client.rpush(queue.keys.ready, "ada")
    await client.execute_command("ACL", "SETUSER", "poor", "on", ">secret", "~*", "&*", "+@all", "-dump")
    poor = connect(RedisSettings(url=redis_url, username="poor", password="secret"), name="poor")
    bridge = RedisQueue(poor, poor, settings, "b")
    bridge.max_lane = 2
    await push(client, ("ada", "t1"), ("bo", "t2"))
    (turn,) = (await bridge.settle_and_fetch([], 10)).turns
    assert json.loads(turn.payload)["task_id"] == "t2"
    ((about, body),) = await letters(client, queue.keys)
    assert (about["record"], about["user_id"]) == ("entry", "ada")
    assert b'"t1"' in body
    await assert_adds_up(queue)
    await client.delete(queue.keys.lane("ada"))
    await served(queue, client, "ada")
    await bridge.close()
    await client.execute_command("ACL", "DELUSER", "poor")


async def test_a_turn_without_a_lease_is_taken_over(queue: RedisQueue, client: Any) -> None:
    await push(client, ("ada", "t1"))
    (turn,) = (await queue.settle_and_fetch([], 1)).turns
    await client.delete(queue.keys.leases)
    (again,) = (await queue.settle_and_fetch([], 1)).turns
    assert (again.number, again.attempts) == (turn.number, 2)


async def test_a_lane_whose_turn_is_gone_is_served_again(queue: RedisQueue, client: Any) -> None:
    await push(client, ("ada", "t1"), ("ada", "t2"))
    (turn,) = (await queue.settle_and_fetch([], 1)).turns
    await client.hdel(queue.keys.turns, turn.receipt)
    (following,) = (await queue.settle_and_fetch([], 1)).turns
    assert json.loads(following.payload)["task_id"] == "t2"
    assert await client.zrange(queue.keys.leases, 0, -1) == [following.receipt.encode()]


async def test_a_turn_whose_lane_is_not_marked_keeps_its_lane_to_itself(queue: RedisQueue, client: Any) -> None:
    await push(client, ("ada", "t1"), ("ada", "t2"))
    (turn,) = (await queue.settle_and_fetch([], 1)).turns
    await client.delete(queue.keys.lanes)
    assert (await queue.settle_and_fetch([], 1)).turns == []
    (following,) = (await queue.settle_and_fetch([ended(turn)], 1)).turns
    assert json.loads(following.payload)["task_id"] == "t2"


async def test_a_lane_named_twice_among_the_ready_ones_is_served_one_at_a_time(queue: RedisQueue, client: Any) -> None:
    await push(client, ("ada", "t1"), ("ada", "t2"))
    await queue.settle_and_fetch([], 0)
    await client.rpush(queue.keys.ready, "ada", "nobody")
    (turn,) = (await queue.settle_and_fetch([], 5)).turns
    (following,) = (await queue.settle_and_fetch([ended(turn)], 5)).turns
    assert json.loads(following.payload)["task_id"] == "t2"


async def test_a_kept_reply_of_another_kind_counts_as_none(queue: RedisQueue, client: Any) -> None:
    await client.rpush(queue.keys.reply("ada", "t1"), "no text")
    await push(client, ("ada", "t1"))
    (turn,) = (await queue.settle_and_fetch([], 1)).turns
    assert turn.kept_reply is None
    assert (await queue.settle_and_fetch([ended(turn)], 0)).settled == [True]


async def test_a_pause_of_a_later_release_stops_everything(queue: RedisQueue, client: Any) -> None:
    await client.hset(queue.keys.paused, mapping={"mode": "some other way", "since": 1})
    await push(client, ("ada", "t1"))
    assert (await queue.settle_and_fetch([], 1)).turns == []
    assert (await queue.status()).paused == "all"


# A record that was set aside, once a release can read it


@pytest.mark.parametrize("kind", ["entry", "turn"])
async def test_a_record_set_aside_is_put_back_by_a_release_that_reads_it(
    queue: RedisQueue, client: RedisClient, admin: QueueAdmin, kind: str
) -> None:
    """Here the later release is this one: the record is of a format that it knows."""
    entry = b'7 0 1700000000123\n{"user_id":"ada","task_id":"t7"}'
    body = entry if kind == "entry" else b"host-1-abcdef\nada\n" + entry
    line = json.dumps({"v": 2, "record": kind, "code": "newer_record", "lane": "ada", "user_id": "ada"})
    await client.lpush(queue.keys.dead, line.encode() + b"\n" + body)
    await client.hset(queue.keys.counters, mapping={"taken": 1, "settled:dead": 1})
    (letter,) = [letter async for letter in admin.dead()]
    assert await admin.retry(letter)
    (turn,) = (await queue.settle_and_fetch([], 1)).turns
    assert (turn.number, turn.attempts, turn.lane) == ("7-1700000000123", 2, "ada")
    assert await client.llen(queue.keys.dead) == 0
    await assert_adds_up(queue)


@pytest.mark.parametrize(
    ("line", "body"),
    [
        ({"v": 2, "record": "entry", "lane": "ada"}, NEXT_ENTRY),
        ({"v": 2, "record": "turn", "lane": "ada"}, b"x v2\nada\n1 1 1\n{}"),
        ({"v": 2, "record": "key", "lane": "ada"}, b"\x00dump"),
        ({"v": 2, "record": "journal"}, b'{"v":2}\n{}'),
        ({"v": 2, "record": "of the future"}, b"{}"),
        ({"v": 3}, b"{}"),
    ],
)
async def test_a_record_that_this_release_cannot_read_stays_a_letter(
    queue: RedisQueue, client: RedisClient, admin: QueueAdmin, line: dict[str, Any], body: bytes
) -> None:
    await client.lpush(queue.keys.dead, json.dumps(line).encode() + b"\n" + body)
    (letter,) = [letter async for letter in admin.dead()]
    assert not await admin.retry(letter)
    assert [letter.payload async for letter in admin.dead()] == [body]
    assert (await queue.settle_and_fetch([], 1)).turns == []
    assert await admin.drop(letter)


async def test_set_aside_journal_record_returns_to_its_stream(queue: Any, client: Any, admin: QueueAdmin) -> None:
    line = json.dumps({"v": 2, "record": "journal", "code": "newer_record"})
    await client.lpush(queue.keys.dead, line.encode() + b'\n{"v":1,"user_id":"ada"}\n{"text":"a\\nb"}')
    (letter,) = [letter async for letter in admin.dead()]
    assert await admin.retry(letter)
    ((_, fields),) = await client.xrange(queue.keys.journal)
    assert fields == {b"turn": b'{"v":1,"user_id":"ada"}', b"reply": b'{"text":"a\\nb"}'}
