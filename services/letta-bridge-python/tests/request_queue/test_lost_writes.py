"""One suite, two queues: Redis loses its last writes, and no task gets the outcome of another, or two, or none."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from letta_bridge.request_queue import Outcome, Settlement
from letta_bridge.request_queue.port import Refusal, Turn
from letta_bridge.request_queue.redis_queue import RedisQueue
from letta_bridge.testing.request_queue import InMemoryQueue

if TYPE_CHECKING:
    from letta_bridge_tests.request_queue.conftest import InMemoryRig, RedisRig


def task(user: str, task_id: str, **fields: Any) -> bytes:
    return json.dumps({"task_id": task_id, "user_id": user, "content": "你好", **fields}).encode()


def answered(turn: Turn, **changes: Any) -> Settlement:
    ids = json.loads(turn.payload)
    reply = json.dumps({"to": ids["task_id"], "by": turn.receipt}).encode()
    values = {"user_id": ids["user_id"], "task_id": ids["task_id"], "reply": reply} | changes
    return Settlement(turn.receipt, Outcome.LETTA, **values)


def task_ids(turns: list[Turn]) -> list[str]:
    return [json.loads(turn.payload)["task_id"] for turn in turns]


async def replied(rig: InMemoryRig | RedisRig) -> list[str]:
    return [json.loads(reply)["to"] for reply in await rig.replies()]


async def adds_up(queue: RedisQueue | InMemoryQueue) -> bool:
    status = await queue.status()
    settled = sum(count for name, count in status.counters.items() if name.startswith("settled:"))
    return status.counters.get("taken", 0) == settled + status.waiting + status.in_flight


async def restored(queue: Any, *turns: Turn) -> set[Any]:
    """What a bridge with these turns does when it meets such a Redis; the receipts that stay lost."""
    assert (await queue.settle_and_fetch([], 5)).turns == []
    assert queue.writes_lost
    lost: set[Any] = await queue.restore(turns)
    assert not queue.writes_lost
    return lost


async def test_a_late_settlement_ends_no_task_that_came_after_the_loss(rig: InMemoryRig | RedisRig) -> None:
    first, second = rig.bridge("a"), rig.bridge("b")
    await first.settle_and_fetch([], 1)
    await second.settle_and_fetch([], 1)
    await rig.save()
    await rig.push(task("alice", "before"))
    (before,) = (await first.settle_and_fetch([], 1)).turns
    await rig.lose_writes()
    await rig.push(task("bob", "after"))
    (after,) = (await second.settle_and_fetch([], 1)).turns
    assert after.receipt != before.receipt
    assert after.number != before.number
    fetched = await first.settle_and_fetch([answered(before)], 0)
    assert (fetched.settled, fetched.refused, first.writes_lost) == ([False], {}, True)
    assert (await second.settle_and_fetch([answered(after)], 0)).settled == [True]
    assert await replied(rig) == ["after"]


async def test_an_answer_to_a_task_that_redis_forgot_reaches_its_user(rig: InMemoryRig | RedisRig) -> None:
    queue = rig.bridge("a")
    await queue.settle_and_fetch([], 1)
    await rig.save()
    await rig.push(task("ada", "t1"))
    (turn,) = (await queue.settle_and_fetch([], 1)).turns
    await rig.lose_writes()
    assert await restored(queue, turn) == set()
    assert await adds_up(queue)
    assert (await queue.settle_and_fetch([answered(turn)], 0)).settled == [True]
    assert await replied(rig) == ["t1"]
    assert await adds_up(queue)
    assert (await queue.status()).counters["restored"] == 1


async def test_a_hold_covers_the_lane_of_a_restored_turn_too(rig: InMemoryRig | RedisRig) -> None:
    queue, other = rig.bridge("a"), rig.bridge("b")
    await queue.settle_and_fetch([], 1)
    await other.settle_and_fetch([], 1)
    await rig.save()
    await rig.push(task("ada", "t1"))
    (turn,) = (await queue.settle_and_fetch([], 1)).turns
    await rig.lose_writes()
    await rig.push(task("ada", "t2"))
    await other.settle_and_fetch([], 1)
    assert await restored(queue, turn) == set()
    await rig.expire_leases()
    await rig.hold("ada")
    assert (await other.settle_and_fetch([], 5)).turns == []
    await rig.release("ada")
    assert sorted(task_ids((await other.settle_and_fetch([], 5)).turns)) == ["t1", "t2"]


async def test_a_restored_task_counts_as_open_since_it_was_taken(rig: RedisRig) -> None:
    queue = rig.bridge("a")
    await queue.settle_and_fetch([], 1)
    await rig.save()
    await rig.push(task("ada", "t1"))
    (turn,) = (await queue.settle_and_fetch([], 1)).turns
    await rig.lose_writes()
    assert await restored(queue, turn) == set()
    await rig.age(100)
    assert 99 < (await queue.status()).oldest_age < 130
    await queue.settle_and_fetch([answered(turn)], 0)
    assert (await queue.status()).oldest_age == 0


async def test_restoring_twice_restores_once(rig: RedisRig) -> None:
    queue = rig.bridge("a")
    await queue.settle_and_fetch([], 1)
    await rig.save()
    await rig.push(task("ada", "t1"))
    (turn,) = (await queue.settle_and_fetch([], 1)).turns
    await rig.lose_writes()
    assert await restored(queue, turn) == set()
    assert await queue.restore([turn]) == set()
    assert ((await queue.status()).in_flight, await adds_up(queue)) == (1, True)


async def test_a_turn_that_redis_remembers_as_waiting_is_taken_out_of_its_lane(rig: InMemoryRig | RedisRig) -> None:
    queue = rig.bridge("a")
    await rig.push(task("ada", "t1"), task("ada", "t2"))
    await queue.settle_and_fetch([], 0)
    await rig.save()
    (turn,) = (await queue.settle_and_fetch([], 1)).turns
    await rig.lose_writes()
    assert await restored(queue, turn) == set()
    assert (await queue.settle_and_fetch([], 5)).turns == []
    (following,) = (await queue.settle_and_fetch([answered(turn)], 5)).turns
    assert task_ids([following]) == ["t2"]
    assert (await queue.settle_and_fetch([answered(following)], 5)).turns == []
    assert await replied(rig) == ["t1", "t2"]
    assert await adds_up(queue)


async def test_a_turn_whose_task_is_in_the_request_list_again_is_removed_from_there(
    rig: InMemoryRig | RedisRig,
) -> None:
    queue = rig.bridge("a")
    await queue.settle_and_fetch([], 0)
    await rig.push(task("ada", "t1"), task("bob", "t2"))
    await rig.save()
    turns = (await queue.settle_and_fetch([], 5)).turns
    await rig.lose_writes()
    assert await restored(queue, *turns) == set()
    fetched = await queue.settle_and_fetch([answered(turn) for turn in turns], 5)
    assert (fetched.settled, fetched.turns) == ([True, True], [])
    assert await replied(rig) == ["t1", "t2"]
    assert ((await queue.status()).depth, await adds_up(queue)) == (0, True)


@pytest.mark.parametrize("content", [b'"half \\ud83d"', b'"\xff"'], ids=["half a pair", "not UTF-8"])
async def test_a_task_that_only_the_bridge_can_read_is_removed_from_the_request_list(
    rig: RedisRig, content: bytes
) -> None:
    queue = rig.bridge("a")
    await queue.settle_and_fetch([], 0)
    await rig.push(b'\xef\xbb\xbf{"user_id":"ada","task_id":"t1","content":' + content + b"}")
    await rig.save()
    (turn,) = (await queue.settle_and_fetch([], 5)).turns
    await rig.lose_writes()
    assert await restored(queue, turn) == set()
    assert ((await queue.status()).depth, await adds_up(queue)) == (0, True)


async def test_a_task_without_an_id_is_left_in_the_request_list(rig: InMemoryRig | RedisRig) -> None:
    """It may be another one with the same words."""
    queue = rig.bridge("a")
    await queue.settle_and_fetch([], 0)
    payload = b'{"user_id":"ada","content":"hi"}'
    await rig.push(payload)
    await rig.save()
    (turn,) = (await queue.settle_and_fetch([], 5)).turns
    await rig.lose_writes()
    assert await restored(queue, turn) == set()
    assert (await queue.status()).depth == 1


async def test_a_turn_deep_in_its_lane_is_found(rig: RedisRig) -> None:
    queue = rig.bridge("a")
    await rig.push(*[task("ada", f"t{number}") for number in range(250)])
    await queue.settle_and_fetch([], 0)
    await rig.save()
    turns: list[Any] = []
    for _ in range(150):
        turns += (await queue.settle_and_fetch([answered(turn) for turn in turns[-1:]], 1)).turns
    await rig.lose_writes()
    assert await restored(queue, turns[-1]) == set()
    status = await queue.status()
    assert (status.waiting, status.in_flight) == (249, 1)


async def test_waiting_tasks_count_as_redelivered_after_redis_lost_writes(rig: RedisRig) -> None:
    """It may have been, to a bridge that has not come back yet; the next one looks for it in Letta."""
    first, second = rig.bridge("a"), rig.bridge("b")
    await rig.push(task("ada", "t1"), task("ada", "t2"))
    await first.settle_and_fetch([], 0)
    await second.settle_and_fetch([], 0)
    await rig.save()
    (turn,) = (await first.settle_and_fetch([], 1)).turns
    await second.settle_and_fetch([], 0)
    await rig.lose_writes()
    assert await restored(second) == set()
    (again,) = (await second.settle_and_fetch([], 5)).turns
    assert (again.number, again.attempts, again.deliveries) == (turn.number, 2, 1)
    assert await restored(first, turn) == {turn.receipt}
    (following,) = (await second.settle_and_fetch([answered(again)], 1)).turns
    assert (task_ids([following]), following.attempts) == (["t2"], 1)
    assert await replied(rig) == ["t1"]


async def test_a_supposed_hand_out_stays_uncounted_over_further_ones(rig: RedisRig) -> None:
    first, second = rig.bridge("a"), rig.bridge("b")
    await rig.push(task("ada", "t1"))
    await first.settle_and_fetch([], 0)
    await rig.save()
    await first.settle_and_fetch([], 0)
    await rig.lose_writes()
    await restored(first)
    (turn,) = (await first.settle_and_fetch([], 1)).turns
    await first.release([turn.receipt])
    (released,) = (await second.settle_and_fetch([], 1)).turns
    await rig.expire_leases()
    (redelivered,) = (await first.settle_and_fetch([], 1)).turns
    assert [(one.attempts, one.deliveries) for one in (turn, released, redelivered)] == [(2, 1), (2, 1), (3, 2)]


async def test_a_turn_is_restored_beside_a_later_one_of_its_user(rig: InMemoryRig | RedisRig) -> None:
    first, second = rig.bridge("a"), rig.bridge("b")
    await first.settle_and_fetch([], 0)
    await rig.save()
    await rig.push(task("ada", "t1"))
    (turn,) = (await first.settle_and_fetch([], 1)).turns
    await rig.lose_writes()
    await rig.push(task("ada", "t2"), task("ada", "t3"))
    (later,) = (await second.settle_and_fetch([], 1)).turns
    assert await restored(first, turn) == set()
    assert (await first.settle_and_fetch([answered(turn)], 5)).settled == [True]
    (last,) = (await second.settle_and_fetch([answered(later)], 5)).turns
    assert task_ids([last]) == ["t3"]
    assert sorted(await replied(rig)) == ["t1", "t2"]
    assert await adds_up(first)


async def test_a_restored_turn_whose_bridge_dies_is_taken_over(rig: InMemoryRig | RedisRig) -> None:
    first, second = rig.bridge("a"), rig.bridge("b")
    await first.settle_and_fetch([], 0)
    await rig.save()
    await rig.push(task("ada", "t1"))
    (turn,) = (await first.settle_and_fetch([], 1)).turns
    await rig.lose_writes()
    await rig.push(task("ada", "t2"))
    await second.settle_and_fetch([], 1)
    await restored(first, turn)
    await rig.expire_leases()
    turns = (await second.settle_and_fetch([], 5)).turns
    assert sorted(task_ids(turns)) == ["t1", "t2"]
    assert {turn.attempts for turn in turns} == {2}


async def test_overflow_refusal_survives_lost_writes(rig: InMemoryRig | RedisRig) -> None:
    queue = rig.bridge("a")
    queue.max_lane = 1
    await queue.settle_and_fetch([], 0)
    await rig.save()
    await rig.push(task("ada", "t1"), task("ada", "t2"))
    turns = (await queue.settle_and_fetch([], 5)).turns
    refused = next(turn for turn in turns if turn.found_lane_full("ada"))
    await rig.lose_writes()
    assert await restored(queue, *turns) == set()
    await rig.expire_leases()
    again = (await queue.settle_and_fetch([], 5)).turns
    assert [turn.number for turn in again if turn.found_lane_full("ada")] == [refused.number]


async def test_a_settlement_that_redis_forgot_is_not_given_back_uncounted(rig: InMemoryRig | RedisRig) -> None:
    """Its turn is in flight again, and nobody's; it has been sent to Letta."""
    queue = rig.bridge("a")
    await rig.push(task("ada", "t1"))
    (turn,) = (await queue.settle_and_fetch([], 1)).turns
    await rig.save()
    assert (await queue.settle_and_fetch([answered(turn)], 1)).settled == [True]
    await rig.lose_writes()
    assert await restored(queue) == set()
    assert await queue.release_orphans(set()) == 0
    await rig.expire_leases()
    assert [again.attempts for again in (await queue.settle_and_fetch([], 1)).turns] == [2]


async def test_a_turn_that_ended_is_not_restored(rig: InMemoryRig | RedisRig) -> None:
    """Redis knows its hand-out; that it is gone means that it ended, or that another bridge has it."""
    first, second = rig.bridge("a"), rig.bridge("b")
    await rig.push(task("ada", "t1"), task("bob", "t2"))
    mine, other = (await first.settle_and_fetch([], 2)).turns
    await rig.expire_leases()
    again = (await second.settle_and_fetch([], 2)).turns
    await second.settle_and_fetch([answered(turn) for turn in again], 0)
    await rig.save()
    await first.settle_and_fetch([], 0)
    await rig.lose_writes()
    assert await restored(first, mine, other) == {mine.receipt, other.receipt}
    assert (await first.status()).in_flight == 0


async def test_a_forgotten_turn_is_not_reported_as_lost_by_renewing(rig: InMemoryRig | RedisRig) -> None:
    queue = rig.bridge("a")
    await queue.settle_and_fetch([], 0)
    await rig.save()
    await rig.push(task("ada", "t1"))
    (turn,) = (await queue.settle_and_fetch([], 1)).turns
    await rig.lose_writes()
    assert await queue.renew([turn.receipt]) == set()
    assert queue.writes_lost


async def test_a_waiting_bridge_notices_the_loss_as_well(rig: InMemoryRig | RedisRig) -> None:
    queue = rig.bridge("a")
    await rig.save()
    await rig.push(task("ada", "t1"))
    (turn,) = await queue.wait_and_fetch(1, 3)
    await rig.lose_writes()
    await rig.push(task("bob", "t2"))
    assert await queue.wait_and_fetch(1, 3) == []
    assert queue.writes_lost
    assert await queue.restore([turn]) == set()
    assert task_ids((await queue.settle_and_fetch([answered(turn)], 5)).turns) == ["t2"]


async def test_the_number_of_a_task_is_the_same_over_all_its_hand_outs(rig: InMemoryRig | RedisRig) -> None:
    first, second = rig.bridge("a"), rig.bridge("b")
    await rig.push(task("ada", "t1"))
    (turn,) = (await first.settle_and_fetch([], 1)).turns
    await first.release([turn.receipt])
    (released,) = (await second.settle_and_fetch([], 1)).turns
    await rig.expire_leases()
    (redelivered,) = (await first.settle_and_fetch([], 1)).turns
    assert turn.number == released.number == redelivered.number
    assert len({turn.receipt, released.receipt, redelivered.receipt}) == 3


@pytest.mark.parametrize("waited", [False, True])
async def test_a_bridge_can_do_nothing_with_the_receipt_of_another(rig: InMemoryRig | RedisRig, waited: bool) -> None:
    first, second = rig.bridge("a"), rig.bridge("aa")
    await rig.push(task("ada", "t1"))
    (turn,) = await first.wait_and_fetch(1, 3) if waited else (await first.settle_and_fetch([], 1)).turns
    fetched = await second.settle_and_fetch([answered(turn)], 0)
    assert (fetched.settled, fetched.refused) == ([False], {turn.receipt: Refusal.TAKEN_OVER})
    assert await second.renew([turn.receipt]) == {turn.receipt}
    await second.release([turn.receipt])
    assert (await first.status()).in_flight == 1
    assert (await first.settle_and_fetch([answered(turn)], 0)).settled == [True]


async def test_a_repeated_settlement_is_distinguished_from_an_answer_that_came_too_late(
    rig: InMemoryRig | RedisRig,
) -> None:
    first, second = rig.bridge("a"), rig.bridge("b")
    await rig.push(task("ada", "t1"), task("bob", "t2"))
    repeated, late = (await first.settle_and_fetch([], 2)).turns
    assert (await first.settle_and_fetch([answered(repeated)], 0)).settled == [True]
    await rig.expire_leases()
    (again,) = (await second.settle_and_fetch([], 2)).turns
    assert (await second.settle_and_fetch([answered(again)], 0)).settled == [True]
    fetched = await first.settle_and_fetch([answered(repeated), answered(late)], 0)
    assert fetched.refused == {repeated.receipt: Refusal.REPEATED, late.receipt: Refusal.TAKEN_OVER}
    assert (await first.status()).counters["answers_refused"] == 1


@pytest.mark.parametrize("user", ["ada", "ada~again:1-1", "小明"])
@pytest.mark.parametrize("first", ["task_id", "user_id"])
async def test_a_restored_turn_comes_with_the_kept_reply_and_missed_turns_of_its_user(
    rig: Any, first: str, user: str
) -> None:
    def task(task_id: str) -> bytes:
        ids = {"task_id": task_id, "user_id": user}
        return json.dumps({first: ids[first], **ids, "content": "你好"}, ensure_ascii=False).encode()

    killed, other = rig.bridge("a"), rig.bridge("b")
    await killed.settle_and_fetch([], 1)
    await other.settle_and_fetch([], 1)
    await rig.push(task("t1"))
    (turn,) = (await killed.settle_and_fetch([], 1)).turns
    reply = json.dumps({"task_id": "t1", "user_id": user, "error": True, "retryable": True}).encode()
    end = Settlement(turn.receipt, Outcome.ERROR, user_id=user, task_id="t1", reply=reply, missed=(b'{"missed":1}',))
    assert (await killed.settle_and_fetch([end], 0)).settled == [True]
    await rig.save()
    await rig.push(task("t1"))
    (turn,) = (await killed.settle_and_fetch([], 1)).turns
    await rig.lose_writes()
    await rig.push(task("t2"))
    assert len((await other.settle_and_fetch([], 5)).turns) == 1  # now t1 is restored into a lane beside its user's
    assert await restored(killed, turn) == set()
    await rig.expire_leases()
    turns = {json.loads(one.payload)["task_id"]: one for one in (await other.settle_and_fetch([], 5)).turns}
    assert turns["t1"].kept_reply == turn.kept_reply
    assert turns["t1"].missed == 1
    assert turns["t1"].choice is None or turns["t1"].choice.user_id == user
