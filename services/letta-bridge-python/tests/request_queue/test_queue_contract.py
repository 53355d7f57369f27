"""One suite, two queues: the scripts on a real Redis, and the in-memory model of them."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from letta_bridge.request_queue import Outcome, PauseMode, Settlement
from letta_bridge.request_queue.port import FetchResult, Turn, fingerprint, is_full
from letta_bridge.request_queue.redis_queue import RedisQueue
from letta_bridge.settings import QueueSettings
from letta_bridge.testing.request_queue import InMemoryQueue

if TYPE_CHECKING:
    from letta_bridge_tests.request_queue.conftest import InMemoryRig, RedisRig


def task(user: str, task_id: str, **fields: str) -> bytes:
    return json.dumps({"task_id": task_id, "user_id": user, "content": "你好", **fields}).encode()


def answered(turn: Turn, user: str = "ada", task_id: str = "t1", **fields: Any) -> Settlement:
    values = {"reply": b'{"response_text":"hi"}', "task_response": b'{"text":"hi"}', **fields}
    return Settlement(turn.receipt, Outcome.LETTA, user_id=user, task_id=task_id, **values)


async def settle(queue: RedisQueue | InMemoryQueue, *settlements: Settlement, limit: int = 0) -> FetchResult:
    return await queue.settle_and_fetch(settlements, limit)


async def test_takes_in_arrival_order(rig: InMemoryRig | RedisRig) -> None:
    queue = rig.bridge("a")
    await rig.push(task("ada", "1"), task("bo", "2"), task("cy", "3"))
    turns = (await queue.settle_and_fetch([], 10)).turns
    assert [json.loads(turn.payload)["task_id"] for turn in turns] == ["1", "2", "3"]
    assert [turn.attempts for turn in turns] == [1, 1, 1]


async def test_one_turn_of_a_user_at_a_time_over_all_bridges(rig: InMemoryRig | RedisRig) -> None:
    first, second = rig.bridge("a"), rig.bridge("b")
    await rig.push(task("ada", "1"), task("ada", "2"))
    (turn,) = (await first.settle_and_fetch([], 10)).turns
    assert (await second.settle_and_fetch([], 10)).turns == []
    await settle(first, answered(turn, task_id="1"))
    (following,) = (await second.settle_and_fetch([], 10)).turns
    assert json.loads(following.payload)["task_id"] == "2"


async def test_a_flood_of_one_user_delays_others_by_a_round_at_most(rig: RedisRig) -> None:
    queue = rig.bridge("a")
    await rig.push(*[task("flood", f"f{index}") for index in range(50)], task("quiet", "q"))
    served = []
    turns = (await queue.settle_and_fetch([], 1)).turns
    while turns:
        served.append(json.loads(turns[0].payload)["task_id"])
        turns = (await settle(queue, answered(turns[0], turns[0].lane, served[-1]), limit=1)).turns
    assert served.index("q") <= 2
    assert [name for name in served if name != "q"] == [f"f{index}" for index in range(50)]


async def test_hands_out_no_more_than_wanted(rig: InMemoryRig | RedisRig) -> None:
    queue = rig.bridge("a")
    await rig.push(*[task(f"user{index}", str(index)) for index in range(5)])
    assert len((await queue.settle_and_fetch([], 2)).turns) == 2
    assert len((await queue.settle_and_fetch([], 0)).turns) == 0
    assert len((await queue.settle_and_fetch([], 9)).turns) == 3


async def test_settling_twice_counts_once(rig: InMemoryRig | RedisRig) -> None:
    queue = rig.bridge("a")
    await rig.push(task("ada", "t1"))
    (turn,) = (await queue.settle_and_fetch([], 1)).turns
    assert (await settle(queue, answered(turn), answered(turn))).settled == [True, False]
    assert (await rig.replies()) == [b'{"response_text":"hi"}']
    assert (await queue.status()).counters["settled:letta"] == 1


async def test_a_dead_bridges_turn_is_taken_over_and_its_late_answer_refused(rig: InMemoryRig | RedisRig) -> None:
    dying, other = rig.bridge("a"), rig.bridge("b")
    await rig.push(task("ada", "t1"), task("ada", "t2"))
    (turn,) = (await dying.settle_and_fetch([], 1)).turns
    assert (await other.settle_and_fetch([], 1)).turns == []
    await rig.expire_leases()
    (again,) = (await other.settle_and_fetch([], 1)).turns
    assert (again.payload, again.attempts, again.seq) == (turn.payload, 2, turn.seq)
    assert again.receipt != turn.receipt
    assert (await settle(dying, answered(turn))).settled == [False]
    assert (await settle(other, answered(again))).settled == [True]
    assert len(await rig.replies()) == 1
    assert (await other.status()).counters["redelivered"] == 1


async def test_renew_extends_leases_and_returns_lost_receipts(rig: InMemoryRig | RedisRig) -> None:
    queue = rig.bridge("a")
    await rig.push(task("ada", "t1"))
    (turn,) = (await queue.settle_and_fetch([], 1)).turns
    assert await queue.renew([turn.receipt, "9-9"]) == {"9-9"}
    await rig.expire_leases()
    assert await queue.renew([turn.receipt]) == set()
    assert (await queue.settle_and_fetch([], 1)).turns == []


async def test_released_turns_return_to_the_head_of_their_lane_uncounted(rig: InMemoryRig | RedisRig) -> None:
    queue = rig.bridge("a")
    await rig.push(task("ada", "1"), task("ada", "2"))
    (turn,) = (await queue.settle_and_fetch([], 1)).turns
    await queue.release([turn.receipt])
    (again,) = (await queue.settle_and_fetch([], 1)).turns
    assert (json.loads(again.payload)["task_id"], again.attempts) == ("1", 1)


async def test_orphans_are_given_back(rig: InMemoryRig | RedisRig, lose_answer: Callable[..., Any]) -> None:
    queue = rig.bridge("a")
    other = rig.bridge("b")
    await rig.push(task("ada", "1"), task("bo", "2"), task("cy", "3"))
    kept, lost = (await queue.settle_and_fetch([], 2)).turns
    lose_answer(queue.passes, [kept, lost])
    await other.settle_and_fetch([], 1)
    assert await queue.release_orphans({kept.receipt}) == 1
    assert [json.loads(turn.payload)["task_id"] for turn in (await queue.settle_and_fetch([], 5)).turns] == ["2"]


async def test_repeated_task_id_has_its_kept_reply_only_for_the_same_user(rig: InMemoryRig | RedisRig) -> None:
    queue = rig.bridge("a")
    await rig.push(task("a:b", "t1"), task("a", "b:t1"), task("a:b", "t1"))
    turns = (await queue.settle_and_fetch([], 5)).turns
    assert [turn.kept_reply for turn in turns] == [None, None]
    await settle(queue, answered(turns[0], user="a:b"))
    (repeated,) = (await queue.settle_and_fetch([], 5)).turns
    assert repeated.kept_reply == b'{"response_text":"hi"}'
    await rig.push(task("a", "b:t1"))
    await queue.release([turns[1].receipt])
    (stranger,) = (await queue.settle_and_fetch([], 1)).turns
    assert stranger.kept_reply is None


@pytest.mark.parametrize("user", ["anonymous", "小明", "100%", "a b"])
async def test_kept_replies_are_found_for_any_spelling(rig: InMemoryRig | RedisRig, user: str) -> None:
    queue = rig.bridge("a")
    await rig.push(task(user, "t1"), task(user, "t1"))
    (turn,) = (await queue.settle_and_fetch([], 5)).turns
    await settle(queue, answered(turn, user=user))
    (repeated,) = (await queue.settle_and_fetch([], 5)).turns
    assert repeated.kept_reply is not None


async def test_numbers_and_texts_name_the_same_user(rig: InMemoryRig | RedisRig) -> None:
    queue = rig.bridge("a")
    await rig.push(b'{"user_id":1234567890123456,"task_id":7}', b'{"user_id":"1234567890123456","task_id":"7"}')
    (turn,) = (await queue.settle_and_fetch([], 5)).turns
    assert turn.lane == "1234567890123456"
    await settle(queue, answered(turn, user="1234567890123456", task_id="7"))
    (repeated,) = (await queue.settle_and_fetch([], 5)).turns
    assert repeated.kept_reply is not None


async def test_tasks_without_a_user_share_the_anonymous_lane(rig: InMemoryRig | RedisRig) -> None:
    queue = rig.bridge("a")
    await rig.push(b'{"content":"1"}', b'{"user_id":null,"content":"2"}', b'{"user_id":"","content":"3"}')
    assert [turn.lane for turn in (await queue.settle_and_fetch([], 5)).turns] == ["anonymous"]


async def test_missed_turns_are_bounded_and_removed_after_catch_up(rig: InMemoryRig | RedisRig) -> None:
    queue = rig.bridge("a")
    await rig.push(*[task("ada", f"t{index}") for index in range(6)])
    for index in range(5):
        (turn,) = (await queue.settle_and_fetch([], 1)).turns
        assert turn.missed == min(index, 3)
        await settle(queue, Settlement(turn.receipt, Outcome.MEMORY, user_id="ada", missed=(b'{"n":%d}' % index,)))
    assert await queue.missed("ada") == [b'{"n":2}', b'{"n":3}', b'{"n":4}']
    (turn,) = (await queue.settle_and_fetch([], 1)).turns
    told = frozenset(fingerprint(record) for record in await queue.missed("ada"))
    await settle(queue, answered(turn, task_id="t5", caught_up=told))
    assert await queue.missed("ada") == []


async def next_turn(rig: InMemoryRig | RedisRig, queue: RedisQueue | InMemoryQueue, number: int) -> Turn:
    await rig.push(task("ada", f"t{number}"))
    (turn,) = (await queue.settle_and_fetch([], 1)).turns
    return turn


async def test_settlement_removes_only_the_named_missed_turns(rig: InMemoryRig | RedisRig) -> None:
    queue = rig.bridge("a")
    records = ['{"说":"第一句"}'.encode(), b'{"n":2}', b"not json"]
    for number, record in enumerate(records):
        turn = await next_turn(rig, queue, number)
        await settle(queue, Settlement(turn.receipt, Outcome.MEMORY, user_id="ada", missed=(record,)))
    turn = await next_turn(rig, queue, 3)
    told = frozenset({fingerprint(records[0]), fingerprint(b"never kept")})
    await settle(queue, Settlement(turn.receipt, Outcome.MEMORY, user_id="ada", caught_up=told, missed=(b'{"n":4}',)))
    assert await queue.missed("ada") == [b'{"n":2}', b"not json", b'{"n":4}']
    assert (await queue.status()).counters["missed_pending"] == 3
    turn = await next_turn(rig, queue, 4)
    await settle(queue, answered(turn, task_id="t4"))
    assert len(await queue.missed("ada")) == 3


async def test_a_settlement_leaves_a_missed_turn_to_each_of_several_personas(rig: InMemoryRig | RedisRig) -> None:
    queue = rig.bridge("a")
    kept = rig.settings.max_missed_per_user
    records = [b'{"n":%d,"persona":"%s"}' % (n, p) for n in range(kept + 1) for p in (b"doctor", b"coach")]
    for number in range(kept + 1):
        turn = await next_turn(rig, queue, number)
        both = (records[2 * number], records[2 * number + 1])
        await settle(queue, Settlement(turn.receipt, Outcome.MEMORY, user_id="ada", missed=both))
    assert await queue.missed("ada") == records[2:]
    counters = (await queue.status()).counters
    assert (counters["missed_pending"], counters["missed_dropped"]) == (2 * kept, 2)


async def test_one_personas_missed_turns_do_not_push_out_anothers(rig: InMemoryRig | RedisRig) -> None:
    queue = rig.bridge("a")
    kept = rig.settings.max_missed_per_user
    records = [b'{"n":0}', *(b'{"n":%d,"persona":"doctor"}' % number for number in range(1, kept + 3))]
    for number, record in enumerate(records):
        turn = await next_turn(rig, queue, number)
        await settle(queue, Settlement(turn.receipt, Outcome.MEMORY, user_id="ada", missed=(record,)))
    assert await queue.missed("ada") == [records[0], *records[-kept:]]
    counters = (await queue.status()).counters
    assert (counters["missed_pending"], counters["missed_dropped"]) == (kept + 1, 2)
    turn = await next_turn(rig, queue, 99)
    await settle(queue, Settlement(turn.receipt, Outcome.MEMORY, user_id="ada", missed=(b'{"persona":"default"}',)))
    assert (await queue.missed("ada"))[0] == records[0]


async def test_kept_reply_has_members_that_are_not_published(rig: InMemoryRig | RedisRig) -> None:
    queue = rig.bridge("a")
    turn = await next_turn(rig, queue, 1)
    await settle(queue, answered(turn, task_id="t1", reply=b'{"text":"}"}', mark=b'"idempotency_key":"1-2"'))
    repeated: Any = await next_turn(rig, queue, 1)
    assert json.loads(repeated.kept_reply) == {"text": "}", "idempotency_key": "1-2"}
    assert [json.loads(reply) for reply in await rig.replies()] == [{"text": "}"}]


async def test_a_settlement_may_leave_the_kept_reply_of_an_earlier_task(rig: InMemoryRig | RedisRig) -> None:
    queue = rig.bridge("a")
    turn = await next_turn(rig, queue, 1)
    await settle(queue, answered(turn, task_id="t1", reply=b'{"of":"the first"}'))
    turn = await next_turn(rig, queue, 1)
    await settle(queue, answered(turn, task_id="t1", reply=b'{"of":"the second"}', replaces_kept=False))
    assert (await next_turn(rig, queue, 1)).kept_reply == b'{"of":"the first"}'
    assert await rig.replies() == [b'{"of":"the first"}', b'{"of":"the second"}']


async def test_dead_letters_keep_the_payload_to_the_byte(rig: InMemoryRig | RedisRig) -> None:
    queue = rig.bridge("a")
    payload = b'\xff\x00{"task_id": broken\n\r\n'
    await rig.push(payload)
    (turn,) = (await queue.settle_and_fetch([], 1)).turns
    assert turn.payload == payload
    await settle(queue, Settlement(turn.receipt, Outcome.DEAD, dead=b'{"code":"malformed"}'))
    assert await rig.dead() == [({"code": "malformed"}, payload)]
    assert (await queue.status()).dead == 1


async def test_dead_letters_beyond_their_bytes_push_out_the_oldest_and_are_counted(rig: InMemoryRig | RedisRig) -> None:
    queue = rig.bridge("a")
    for number in range(3):
        await rig.push(b"%d" % number + b"x" * 400_000)
        (turn,) = (await queue.settle_and_fetch([], 1)).turns
        await settle(queue, Settlement(turn.receipt, Outcome.DEAD, dead=b"{}"))
    assert [payload[:1] for _, payload in await rig.dead()] == [b"2", b"1"]
    assert (await queue.status()).counters["dead_dropped"] == 1


async def test_a_dead_letter_larger_than_the_bound_is_kept_alone(rig: InMemoryRig | RedisRig) -> None:
    queue = rig.bridge("a")
    for payload in (b"x", b"y" * 3_000_000):
        await rig.push(payload)
        (turn,) = (await queue.settle_and_fetch([], 1)).turns
        await settle(queue, Settlement(turn.receipt, Outcome.DEAD, dead=b"{}"))
    assert [payload[:1] for _, payload in await rig.dead()] == [b"y"]


async def test_missed_turns_beyond_their_bytes_push_out_the_oldest_of_the_persona(rig: InMemoryRig | RedisRig) -> None:
    queue = rig.bridge("a")
    other = b'{"persona":"doctor"}'
    records = [other, *(b'{"n":%d,"text":"%s"}' % (number, b"x" * 900) for number in range(3))]
    for number, record in enumerate(records):
        turn = await next_turn(rig, queue, number)
        await settle(queue, Settlement(turn.receipt, Outcome.MEMORY, user_id="ada", missed=(record,)))
    assert await queue.missed("ada") == [other, *records[-2:]]
    large = b'{"text":"%s"}' % (b"y" * 5000)
    turn = await next_turn(rig, queue, 9)
    await settle(queue, Settlement(turn.receipt, Outcome.MEMORY, user_id="ada", missed=(large,)))
    assert await queue.missed("ada") == [other, large]
    counters = (await queue.status()).counters
    assert (counters["missed_pending"], counters["missed_dropped"]) == (2, 3)


async def test_an_oversized_payload_is_cut_on_the_way_and_whole_in_the_dead_letters(
    rig: InMemoryRig | RedisRig,
) -> None:
    queue = rig.bridge("a")
    await rig.push(b"x" * 5000)
    (turn,) = (await queue.settle_and_fetch([], 1)).turns
    assert turn.payload == b"x" * 1025
    await settle(queue, Settlement(turn.receipt, Outcome.DEAD, dead=b"{}"))
    assert (await rig.dead())[0][1] == b"x" * 5000


async def test_hostile_payloads_do_not_share_one_lane(rig: InMemoryRig | RedisRig) -> None:
    queue = rig.bridge("a")
    await rig.push(*[b"[" * 900 for _ in range(20)], b"null", b"3", b'{"user_id":[]}', b'{"user_id":"a\\nb"}', b"")
    assert len((await queue.settle_and_fetch([], 100)).turns) == 25


async def test_everything_taken_is_settled_waiting_or_in_flight(rig: InMemoryRig | RedisRig) -> None:
    queue = rig.bridge("a")
    await rig.push(*[task(f"user{index % 3}", str(index)) for index in range(10)])
    turns = (await queue.settle_and_fetch([], 2)).turns
    await settle(queue, answered(turns[0], turns[0].lane, "0"))
    status = await queue.status()
    assert (status.depth, status.waiting, status.in_flight) == (0, 8, 1)
    assert status.counters["taken"] == status.waiting + status.in_flight + status.counters["settled:letta"]


async def test_a_pause_stops_taking_and_handing_out_and_nothing_else(rig: RedisRig) -> None:
    queue = rig.bridge("a")
    await rig.push(task("ada", "1"), task("bo", "2"))
    (turn,) = (await queue.settle_and_fetch([], 1)).turns
    await rig.pause(PauseMode.ALL)
    await rig.push(task("cy", "3"))
    assert (await queue.settle_and_fetch([], 10)).turns == []
    assert await queue.renew([turn.receipt]) == set()
    assert (await settle(queue, answered(turn, task_id="1"), limit=10)).settled == [True]
    status = await queue.status()
    assert (status.paused, status.depth, status.waiting, status.in_flight) == (PauseMode.ALL, 1, 1, 0)
    await rig.resume()
    assert [json.loads(turn.payload)["task_id"] for turn in (await queue.settle_and_fetch([], 10)).turns] == ["2", "3"]
    assert (await queue.status()).paused is None


async def test_paused_intake_still_hands_out_tasks_of_lanes(rig: InMemoryRig | RedisRig) -> None:
    queue = rig.bridge("a")
    await rig.push(task("ada", "1"), task("ada", "2"))
    (turn,) = (await queue.settle_and_fetch([], 1)).turns
    await rig.pause(PauseMode.INTAKE)
    await rig.push(task("ada", "3"))
    (turn,) = (await settle(queue, answered(turn, task_id="1"), limit=10)).turns
    assert json.loads(turn.payload)["task_id"] == "2"
    assert (await settle(queue, answered(turn, task_id="2"), limit=10)).turns == []
    status = await queue.status()
    assert (status.paused, status.depth, status.waiting, status.in_flight) == (PauseMode.INTAKE, 1, 0, 0)


async def test_a_dead_bridges_turn_waits_out_a_pause_in_its_lane(rig: InMemoryRig | RedisRig) -> None:
    queue = rig.bridge("a")
    await rig.push(task("ada", "1"))
    await queue.settle_and_fetch([], 1)
    await rig.pause(PauseMode.ALL)
    await rig.expire_leases()
    assert (await queue.settle_and_fetch([], 1)).turns == []
    assert (await queue.status()).in_flight == 0
    await rig.resume()
    assert [turn.attempts for turn in (await queue.settle_and_fetch([], 1)).turns] == [2]


async def test_wait_and_fetch_returns_an_arriving_task_at_once(rig: InMemoryRig | RedisRig) -> None:
    queue = rig.bridge("a")
    assert await queue.wait_and_fetch(1, 0.05) == []
    taking = asyncio.create_task(queue.wait_and_fetch(2, 3))
    await rig.push(task("ada", "1"))
    (turn,) = await asyncio.wait_for(taking, 20)
    assert (json.loads(turn.payload)["task_id"], turn.attempts) == ("1", 1)
    await rig.push(task("ada", "2"), task("bo", "3"), task("cy", "4"))
    assert [json.loads(turn.payload)["task_id"] for turn in await queue.wait_and_fetch(1, 3)] == ["3"]
    fetched = await settle(queue, answered(turn), limit=5)
    assert [json.loads(turn.payload)["task_id"] for turn in fetched.turns] == ["4", "2"]


async def test_settling_without_fetching_reports_whether_turns_wait(rig: InMemoryRig | RedisRig) -> None:
    queue = rig.bridge("a")
    await rig.push(task("ada", "1"), task("bo", "2"), task("ada", "3"))
    ada, bo = (await queue.settle_and_fetch([], 2)).turns
    fetched = await settle(queue, answered(bo), limit=0)
    assert (fetched.settled, fetched.turns, fetched.more) == ([True], [], False)
    fetched = await settle(queue, answered(ada), limit=0)
    assert (fetched.settled, fetched.turns, fetched.more) == ([True], [], True)
    fetched = await queue.settle_and_fetch([], 2)
    assert ([json.loads(turn.payload)["task_id"] for turn in fetched.turns], fetched.more) == (["3"], False)


async def test_a_paused_queue_lets_the_wait_pass(rig: InMemoryRig | RedisRig) -> None:
    queue = rig.bridge("a")
    await rig.pause(PauseMode.ALL)
    await queue.settle_and_fetch([], 1)
    await rig.push(task("ada", "1"))
    assert await queue.wait_and_fetch(1, 0.05) == []
    assert (await queue.status()).depth == 1


async def test_orphans_of_the_wait_are_distinguished_from_the_others(
    rig: InMemoryRig | RedisRig, lose_answer: Callable[..., Any]
) -> None:
    queue = rig.bridge("a")
    await rig.push(task("ada", "1"))
    (settled_and_fetched,) = (await queue.settle_and_fetch([], 1)).turns
    await rig.push(task("bo", "2"), task("cy", "3"))
    kept, lost = await queue.wait_and_fetch(2, 3)
    lose_answer(queue.passes, [settled_and_fetched])
    lose_answer(queue.waits, [kept, lost])
    assert await queue.release_orphans({settled_and_fetched.receipt}) == 0
    assert await queue.release_orphans({kept.receipt}, from_idle=True) == 1
    assert [json.loads(turn.payload)["task_id"] for turn in (await queue.settle_and_fetch([], 5)).turns] == ["3"]


async def test_turn_whose_hand_out_arrived_is_no_orphan(rig: InMemoryRig | RedisRig) -> None:
    """The bridge does not have it any more because its lease ran out, or because Redis forgot that it was settled."""
    queue = rig.bridge("a")
    await rig.push(task("ada", "1"))
    await queue.settle_and_fetch([], 1)
    assert await queue.release_orphans(set()) == 0
    await rig.expire_leases()
    assert [turn.attempts for turn in (await queue.settle_and_fetch([], 1)).turns] == [2]


@pytest.mark.integration
async def test_scripts_are_loaded_again_after_script_flush(redis_url: str, redis_rig: Any) -> None:
    rig = redis_rig(QueueSettings(requests=f"q-{uuid.uuid4().hex[:8]}"), redis_url)
    queue = rig.bridge("a")
    await rig.push(task("ada", "t1"), task("ada", "t2"))
    (turn,) = (await queue.settle_and_fetch([], 1)).turns
    await rig.client.script_flush()
    fetched = await settle(queue, answered(turn), limit=1)
    assert fetched.settled == [True]
    assert len(fetched.turns) == 1
    await rig.client.script_flush()
    await rig.push(task("bo", "t3"))
    assert len(await queue.wait_and_fetch(1, 3)) == 1
    await rig.close()


@pytest.mark.integration
async def test_replies_expire_and_lie_under_the_documented_key(redis_url: str, redis_rig: Any) -> None:
    rig = redis_rig(QueueSettings(requests=f"q-{uuid.uuid4().hex[:8]}", reply_ttl_seconds=100), redis_url)
    queue = rig.bridge("a")
    await rig.push(task("a:b", "t1"))
    (turn,) = (await queue.settle_and_fetch([], 1)).turns
    await settle(queue, answered(turn, user="a:b"))
    key = f"{{{rig.settings.requests}}}:reply:a%3Ab:t1"
    assert await rig.client.get(key) == b'{"response_text":"hi"}'
    assert 90 < await rig.client.ttl(key) <= 100
    await rig.close()


async def test_tasks_beyond_a_full_lane_wait_in_lanes_of_their_own_and_are_counted(rig: InMemoryRig | RedisRig) -> None:
    queue = rig.bridge("a")
    queue.max_lane = 2
    await rig.push(*[task("ada", f"t{number}") for number in range(5)], task("bo", "b0"))
    turns = (await queue.settle_and_fetch([], 10)).turns
    by_lane = {turn.lane: json.loads(turn.payload)["task_id"] for turn in turns}
    assert (by_lane.pop("ada"), by_lane.pop("bo")) == ("t0", "b0")
    assert sorted(by_lane.values()) == ["t2", "t3", "t4"]
    assert all(lane.startswith("~full:") for lane in by_lane)
    status = await queue.status()
    assert status.counters["taken"] == status.waiting + status.in_flight == 6
    ended = [
        Settlement(turn.receipt, Outcome.ERROR, user_id="ada", task_id=json.loads(turn.payload)["task_id"])
        for turn in turns
    ]
    (following,) = (await queue.settle_and_fetch(ended, 10)).turns
    assert (following.lane, json.loads(following.payload)["task_id"]) == ("ada", "t1")


async def test_a_lane_that_has_emptied_takes_tasks_again(rig: InMemoryRig | RedisRig) -> None:
    queue = rig.bridge("a")
    queue.max_lane = 1
    await rig.push(task("ada", "t1"))
    (turn,) = (await queue.settle_and_fetch([], 10)).turns
    await rig.push(task("ada", "t2"), task("ada", "t3"))
    (refused,) = (await queue.settle_and_fetch([], 10)).turns
    assert json.loads(refused.payload)["task_id"] == "t3"
    (following,) = (await settle(queue, answered(turn, task_id="t1"), limit=10)).turns
    assert following.lane == "ada"


async def test_turn_has_the_waiting_time_of_its_task(rig: InMemoryRig | RedisRig) -> None:
    queue = rig.bridge("a")
    await rig.push(task("ada", "t1"))
    (turn,) = (await queue.settle_and_fetch([], 1)).turns
    assert 0 <= turn.queued_seconds < 60


async def test_missed_turns_are_counted_over_all_users(rig: InMemoryRig | RedisRig) -> None:
    queue = rig.bridge("a")

    async def pending() -> int:
        return (await queue.status()).counters.get("missed_pending", 0)

    for number in range(3):
        for user in ("ada", "bob"):
            await rig.push(task(user, f"{user}{number}"))
    for _ in range(3):
        turns = (await queue.settle_and_fetch([], 10)).turns
        await queue.settle_and_fetch(
            [Settlement(turn.receipt, Outcome.MEMORY, turn.lane, missed=(b"{}",)) for turn in turns], 0
        )
    assert await pending() == 6
    await rig.push(task("ada", "a9"))
    (turn,) = (await queue.settle_and_fetch([], 1)).turns
    told = Settlement(turn.receipt, Outcome.LETTA, "ada", caught_up=frozenset({fingerprint(b"{}")}))
    await queue.settle_and_fetch([told], 0)
    await queue.settle_and_fetch([told], 0)
    assert await pending() == 3


async def test_missed_turns_that_are_dropped_are_not_counted(rig: InMemoryRig | RedisRig) -> None:
    queue = rig.bridge("a")
    kept = rig.settings.max_missed_per_user
    for number in range(kept + 2):
        await rig.push(task("ada", f"t{number}"))
        (turn,) = (await queue.settle_and_fetch([], 1)).turns
        await queue.settle_and_fetch([Settlement(turn.receipt, Outcome.MEMORY, "ada", missed=(b"{}",))], 0)
    counters = (await queue.status()).counters
    assert (counters["missed_pending"], counters["missed_dropped"]) == (kept, 2)


async def test_the_oldest_turn_that_is_not_journalled_has_an_age(rig: InMemoryRig | RedisRig) -> None:
    queue = rig.bridge("a")
    assert (await queue.status()).unjournalled_age == 0
    for number in range(2):
        await rig.push(task("ada", f"t{number}"))
        (turn,) = (await queue.settle_and_fetch([], 1)).turns
        await queue.settle_and_fetch([answered(turn, task_id=f"t{number}", journal=b"{}")], 0)
    await rig.let_time_pass()
    status = await queue.status()
    assert status.unjournalled == 2
    assert 0 < status.unjournalled_age < 60


async def test_the_oldest_task_is_reported_whether_it_waits_or_is_in_flight(rig: RedisRig) -> None:
    queue = rig.bridge("a")
    assert (await queue.status()).oldest_age == 0
    await rig.push(task("ada", "t1"))
    await queue.settle_and_fetch([], 0)
    waiting = (await queue.status()).oldest_age
    (turn,) = (await queue.settle_and_fetch([], 1)).turns
    in_flight = (await queue.status()).oldest_age
    assert 0 <= waiting <= in_flight < 60
    await queue.settle_and_fetch([answered(turn, task_id="t1")], 0)
    assert (await queue.status()).oldest_age == 0


async def test_a_held_users_tasks_wait_and_others_continue(rig: InMemoryRig | RedisRig) -> None:
    queue = rig.bridge("a")
    await rig.hold("ada")
    await rig.push(task("ada", "1"), task("bo", "2"), task("ada", "3"), task("cy", "4"))
    assert [turn.lane for turn in (await queue.settle_and_fetch([], 10)).turns] == ["bo", "cy"]
    assert (await queue.settle_and_fetch([], 10)).turns == []
    status = await queue.status()
    assert (status.waiting, status.held) == (2, 1)
    await rig.release("ada")
    (turn,) = (await queue.settle_and_fetch([], 10)).turns
    assert json.loads(turn.payload)["task_id"] == "1"


async def test_a_hold_lets_a_turn_in_flight_end_and_holds_the_next(rig: InMemoryRig | RedisRig) -> None:
    queue = rig.bridge("a")
    await rig.push(task("ada", "1"), task("ada", "2"))
    (turn,) = (await queue.settle_and_fetch([], 10)).turns
    await rig.hold("ada")
    assert (await settle(queue, answered(turn))).settled == [True]
    assert (await queue.settle_and_fetch([], 10)).turns == []
    await rig.release("ada")
    assert len((await queue.settle_and_fetch([], 10)).turns) == 1


async def test_hold_covers_turns_of_a_dead_bridge(rig: InMemoryRig | RedisRig) -> None:
    queue = rig.bridge("a")
    await rig.push(task("ada", "1"))
    await queue.settle_and_fetch([], 1)
    await rig.hold("ada")
    await rig.expire_leases()
    assert (await rig.bridge("b").settle_and_fetch([], 10)).turns == []


async def test_a_hold_ends_by_itself(rig: InMemoryRig | RedisRig) -> None:
    queue = rig.bridge("a")
    await rig.hold("ada")
    await rig.push(task("ada", "1"))
    assert (await queue.settle_and_fetch([], 10)).turns == []
    await rig.end_holds()
    assert len((await queue.settle_and_fetch([], 10)).turns) == 1


async def test_many_held_users_do_not_keep_others_from_their_turn(rig: InMemoryRig | RedisRig) -> None:
    queue = rig.bridge("a")
    for number in range(30):
        await rig.hold(f"held-{number}")
        await rig.push(task(f"held-{number}", "1"))
    await rig.push(task("ada", "1"), task("bo", "1"))
    assert [turn.lane for turn in (await queue.settle_and_fetch([], 2)).turns] == ["ada", "bo"]
    await rig.release("held-7")
    assert [turn.lane for turn in (await queue.settle_and_fetch([], 2)).turns] == ["held-7"]


async def test_the_oldest_task_is_reported_without_its_payload_until_it_is_settled(rig: InMemoryRig | RedisRig) -> None:
    queue = rig.bridge("a")
    assert (await queue.status()).oldest_age == 0
    await rig.push(task("ada", "1"), task("ada", "2"))
    (first,) = (await queue.settle_and_fetch([], 1)).turns
    await rig.age(5.0)
    await rig.push(task("bo", "3"))
    (second,) = (await queue.settle_and_fetch([], 1)).turns
    assert 4.5 < (await queue.status()).oldest_age < 60
    await settle(queue, answered(first), answered(second, "bo", "3"))
    assert 4.5 < (await queue.status()).oldest_age < 60  # ada's second one waits as long
    (third,) = (await queue.settle_and_fetch([], 1)).turns
    await settle(queue, answered(third, task_id="2"))
    assert (await queue.status()).oldest_age == 0


@pytest.fixture
def small_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hand-outs end behind two thousand bytes."""
    for module in ("port", "redis_queue"):
        monkeypatch.setattr(f"letta_bridge.request_queue.{module}.MAX_FETCHED_BYTES", 2000)


@pytest.mark.usefixtures("small_answers")
@pytest.mark.parametrize("waits", [False, True])
async def test_hand_out_ends_after_the_turn_that_reaches_its_size_limit(
    rig: InMemoryRig | RedisRig, waits: bool
) -> None:
    queue = rig.bridge("a")
    await rig.push(*(task(f"u{number}", str(number), content="x" * 850) for number in range(5)))
    handed = []
    for expected in (3, 2):
        turns = await queue.wait_and_fetch(5, 0.2) if waits else (await queue.settle_and_fetch([], 5)).turns
        assert (len(turns), is_full(turns, 5)) == (expected, expected == 3)
        handed += [json.loads(turn.payload)["task_id"] for turn in turns]
    assert handed == ["0", "1", "2", "3", "4"]


@pytest.mark.usefixtures("small_answers")
async def test_a_kept_reply_counts_toward_the_size_of_a_hand_out(rig: InMemoryRig | RedisRig) -> None:
    queue = rig.bridge("a")
    for user in ("ada", "bo"):
        await rig.push(task(user, "t1"))
        (turn,) = (await queue.settle_and_fetch([], 1)).turns
        await settle(queue, answered(turn, user, reply=b'{"response_text":"%s"}' % (b"x" * 2000)))
    await rig.push(task("ada", "t1"), task("bo", "t1"))
    assert [len((await queue.settle_and_fetch([], 5)).turns) for _ in range(3)] == [1, 1, 0]


async def test_many_large_settlements_are_settled_in_several_calls(
    rig: InMemoryRig | RedisRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("letta_bridge.request_queue.redis_queue._CALL_BYTES", 100)
    queue = rig.bridge("a")
    await rig.push(*(task(f"u{number}", str(number)) for number in range(5)))
    turns = (await queue.settle_and_fetch([], 5)).turns
    ends = [
        answered(turn, f"u{number}", str(number), reply=b'{"n":"%s"}' % (b"x" * 90))
        for number, turn in enumerate(turns)
    ]
    assert (await settle(queue, *ends)).settled == [True] * 5
    assert len(await rig.replies()) == 5


async def test_many_turns_are_released_in_several_calls(rig: InMemoryRig | RedisRig) -> None:
    queue = rig.bridge("a")
    await rig.push(*(task(f"u{number}", str(number)) for number in range(40)))
    turns = (await queue.settle_and_fetch([], 40)).turns
    await queue.release([turn.receipt for turn in turns])
    assert len((await queue.settle_and_fetch([], 40)).turns) == 40
