"""Task streams and interrupts: the scripts on a real Redis, and the in-memory model of them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from letta_bridge.request_queue import Outcome, Settlement
from letta_bridge.request_queue.interrupts import Heard, InterruptOutcome, InterruptRequest, stored_request
from letta_bridge.request_queue.port import UNCONDITIONAL, StreamRefusal, TaskEvents, Turn
from letta_bridge.request_queue.redis_queue import RedisQueue
from letta_bridge.testing.request_queue import InMemoryQueue

if TYPE_CHECKING:
    from letta_bridge_tests.request_queue.conftest import InMemoryRig, RedisRig

USER = "安妮:1"
INTERRUPT = InterruptRequest(type="interrupt", user_id=USER, task_id="t1", heard=Heard(seq=1))


def task(task_id: str = "t1", user: str = USER) -> bytes:
    return json.dumps({"task_id": task_id, "user_id": user, "content": "你好"}, ensure_ascii=False).encode()


def event(kind: str = "sentence", **fields: Any) -> bytes:
    body = {"task_id": "t1", "user_id": USER, "attempt": 1, "type": kind, **fields}
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()


def events_of(turn: Turn, *events: bytes) -> TaskEvents:
    return TaskEvents(turn.receipt, USER, "t1", list(events))


def end(turn: Turn, stream: TaskEvents | None = None, outcome: Outcome = Outcome.LETTA, **fields: Any) -> Settlement:
    return Settlement(
        turn.receipt, outcome, user_id=USER, task_id="t1", reply=b'{"status":"ok"}', stream=stream, **fields
    )


async def take(rig: InMemoryRig | RedisRig, queue: RedisQueue | InMemoryQueue) -> Turn:
    await rig.push(task())
    (turn,) = (await queue.settle_and_fetch([], 1)).turns
    return turn


async def read(queue: RedisQueue | InMemoryQueue) -> list[dict[str, Any]]:
    return [json.loads(one) for one in await queue.events(USER, "t1")]


async def kinds(queue: RedisQueue | InMemoryQueue) -> list[str]:
    return [one["type"] for one in await read(queue)]


async def test_events_are_kept_and_published_with_a_number_each(rig: InMemoryRig | RedisRig) -> None:
    queue = rig.bridge("a")
    await rig.listen(rig.settings.task_stream + "t1")
    stream = events_of(await take(rig, queue), event("started"), event(text="你好。"))
    assert await queue.append([stream]) == [None]
    assert stream.stored == 2
    stream.events.append(event(text="再见。"))
    assert await queue.append([stream]) == [None]
    kept = await read(queue)
    assert [(one["v"], one["seq"], one["type"]) for one in kept] == [
        (1, 0, "started"),
        (1, 1, "sentence"),
        (1, 2, "sentence"),
    ]
    assert [one["text"] for one in kept[1:]] == ["你好。", "再见。"]
    assert await rig.heard(3) == await queue.events(USER, "t1")


async def test_a_repeated_call_adds_nothing(rig: InMemoryRig | RedisRig) -> None:
    queue = rig.bridge("a")
    turn = await take(rig, queue)
    await queue.append([events_of(turn, event("started"), event(text="1"))])
    unanswered = events_of(turn, event("started"), event(text="1"), event(text="2"))
    await queue.append([unanswered])
    assert unanswered.stored == 3
    assert [one.get("text") for one in await read(queue)] == [None, "1", "2"]


async def test_a_bridge_that_lost_its_lease_can_add_nothing(rig: InMemoryRig | RedisRig) -> None:
    first, second = rig.bridge("a"), rig.bridge("b")
    turn = await take(rig, first)
    stream = events_of(turn, event("started"), event(text="one"))
    await first.append([stream])
    await rig.expire_leases()
    (again,) = (await second.settle_and_fetch([], 1)).turns
    stream.events.append(event(text="late"))
    assert await first.append([stream]) == [StreamRefusal.TAKEN_OVER]
    assert await second.append([events_of(again, event(text="two"))]) == [None]
    kept = await read(second)
    assert [(one["seq"], one.get("text")) for one in kept] == [(0, None), (1, "one"), (2, "two")]


async def test_the_settlement_ends_the_stream_with_what_is_not_written_yet(rig: InMemoryRig | RedisRig) -> None:
    queue = rig.bridge("a")
    turn = await take(rig, queue)
    stream = events_of(turn, event("started"), event(text="one"))
    await queue.append([stream])
    stream.events += [event(text="two"), event("end")]
    assert (await queue.settle_and_fetch([end(turn, stream)], 0)).settled == [True]
    assert await kinds(queue) == ["started", "sentence", "sentence", "end"]


async def test_a_settlement_adds_nothing_that_a_lost_answer_had_added(rig: InMemoryRig | RedisRig) -> None:
    queue = rig.bridge("a")
    turn = await take(rig, queue)
    await queue.append([events_of(turn, event("started"), event(text="one"))])
    unanswered = events_of(turn, event("started"), event(text="one"), event("end"))
    await queue.settle_and_fetch([end(turn, unanswered)], 0)
    assert await kinds(queue) == ["started", "sentence", "end"]


async def test_events_that_were_lost_are_added_again_under_the_same_numbers(rig: InMemoryRig | RedisRig) -> None:
    queue = rig.bridge("a")
    turn = await take(rig, queue)
    stream = events_of(turn, event("started"), event(text="one"))
    await queue.append([stream])
    await rig.drop_stream(USER, "t1")
    stream.events.append(event(text="two"))
    await queue.append([stream])
    assert stream.stored == 0
    await queue.append([stream])
    assert [(one["seq"], one.get("text")) for one in await read(queue)] == [(0, None), (1, "one"), (2, "two")]


async def test_a_settlement_is_repeated_with_all_events_where_some_were_lost(rig: InMemoryRig | RedisRig) -> None:
    queue = rig.bridge("a")
    turn = await take(rig, queue)
    stream = events_of(turn, event("started"), event(text="one"))
    await queue.append([stream])
    await rig.drop_stream(USER, "t1")
    stream.events.append(event("end"))
    fetched = await queue.settle_and_fetch([end(turn, stream)], 0)
    assert (fetched.settled, fetched.refused) == ([False], {})
    assert (await queue.settle_and_fetch([end(turn, stream)], 0)).settled == [True]
    assert await kinds(queue) == ["started", "sentence", "end"]


async def test_an_interrupt_stops_the_stream_at_once_and_the_next_turn_plays(rig: InMemoryRig | RedisRig) -> None:
    queue, other = rig.bridge("a"), rig.bridge("b")
    turn = await take(rig, queue)
    stream = events_of(turn, event("started"), event(text="one"))
    await queue.append([stream])
    result = await other.interrupt(INTERRUPT)
    assert (result.outcome, result.task_id, result.receipt) == (InterruptOutcome.INTERRUPTED, "t1", turn.receipt)
    stream.events.append(event(text="two"))
    assert await queue.append([stream]) == [StreamRefusal.INTERRUPTED]
    said = await read(queue)
    assert [one["type"] for one in said] == ["started", "sentence", "interrupted"]
    assert said[-1]["heard"] == {"seq": 1, "characters": 0}
    assert said[-1]["user_id"] == USER
    assert (await other.interrupt(INTERRUPT)).outcome is InterruptOutcome.REPEATED
    last = TaskEvents(turn.receipt, USER, "t1", [event("interrupted"), event("end")], stored=UNCONDITIONAL)
    assert (await queue.settle_and_fetch([end(turn, last, Outcome.INTERRUPTED)], 0)).settled == [True]
    assert await kinds(queue) == ["started", "sentence", "interrupted", "end"]
    await rig.push(task("t2"))
    (following,) = (await queue.settle_and_fetch([], 1)).turns
    assert following.interruption.request is None
    following_stream = TaskEvents(following.receipt, USER, "t2", [event("started")])
    assert await queue.append([following_stream]) == [None]


async def test_a_settlement_that_an_interrupt_overtook_is_replaced(rig: InMemoryRig | RedisRig) -> None:
    queue = rig.bridge("a")
    turn = await take(rig, queue)
    stream = events_of(turn, event("started"), event(text="one"))
    await queue.append([stream])
    await queue.interrupt(INTERRUPT)
    stream.events += [event(text="two"), event("end")]
    settlement = end(turn, stream, when_interrupted=lambda _: end(turn))
    fetched = await queue.settle_and_fetch([settlement], 0)
    assert fetched.settled == [False]
    assert fetched.interrupted[turn.receipt].heard == Heard(seq=1)
    assert stream.stored == 2, "what was not published before the interrupt never is"
    assert (await queue.status()).in_flight == 1


async def test_nothing_is_said_behind_an_interrupt_by_an_outcome_that_stays(rig: InMemoryRig | RedisRig) -> None:
    queue = rig.bridge("a")
    turn = await take(rig, queue)
    stream = events_of(turn, event("started"), event(text="one"))
    await queue.append([stream])
    await queue.interrupt(INTERRUPT)
    stream.events += [event(text="two"), event("end")]
    assert (await queue.settle_and_fetch([end(turn, stream, Outcome.MEMORY)], 0)).settled == [True]
    assert await kinds(queue) == ["started", "sentence", "interrupted", "end"]


async def test_an_interrupt_of_the_user_finds_the_turn_in_flight(rig: InMemoryRig | RedisRig) -> None:
    queue = rig.bridge("a")
    of_user = InterruptRequest(type="interrupt", user_id=USER)
    assert (await queue.interrupt(of_user)).outcome is InterruptOutcome.NOTHING
    turn = await take(rig, queue)
    assert (await queue.interrupt(of_user)).receipt == turn.receipt


async def test_a_new_message_finds_only_a_streamed_reply(rig: InMemoryRig | RedisRig) -> None:
    queue = rig.bridge("a")
    queue.barge_in = True
    barging: list[tuple[str, str]] = []
    queue.on_barge_in = lambda *told: barging.append(told)
    turn = await take(rig, queue)
    assert barging == []
    await rig.push(task())  # the same task again is no new message
    await queue.settle_and_fetch([], 1)
    assert barging == []
    await rig.push(task("t2"), task("t3"))
    await queue.settle_and_fetch([], 1)
    assert set(barging) == {(USER, turn.receipt)}
    by_message = InterruptRequest(type="interrupt", user_id=USER, hand_out=turn.receipt)
    assert (await queue.interrupt(by_message)).outcome is InterruptOutcome.NOTHING
    await queue.append([events_of(turn, event("started"))])
    assert (await queue.interrupt(by_message)).receipt == turn.receipt
    assert await kinds(queue) == ["started", "interrupted"]


async def test_an_interrupt_before_the_turn_stays_until_it_is_handed_out(rig: InMemoryRig | RedisRig) -> None:
    queue = rig.bridge("a")
    assert (await queue.interrupt(INTERRUPT)).outcome is InterruptOutcome.WAITING
    turn = await take(rig, queue)
    assert turn.interruption.request is not None
    assert turn.interruption.request.heard == Heard(seq=1)
    await rig.expire_leases()
    (again,) = (await queue.settle_and_fetch([], 1)).turns
    assert again.interruption.request is not None
    await queue.settle_and_fetch([end(again, outcome=Outcome.INTERRUPTED)], 0)
    await rig.push(task())
    (same_id,) = (await queue.settle_and_fetch([], 1)).turns
    assert same_id.interruption.request is None


async def test_an_interrupt_of_another_users_task_changes_nothing(rig: InMemoryRig | RedisRig) -> None:
    queue = rig.bridge("a")
    turn = await take(rig, queue)
    other = InterruptRequest(type="interrupt", user_id="bo", task_id="t1")
    assert (await queue.interrupt(other)).outcome is InterruptOutcome.WAITING
    assert await queue.append([events_of(turn, event("started"))]) == [None]


async def test_an_interrupt_of_a_task_that_is_over_returns_its_reply(rig: InMemoryRig | RedisRig) -> None:
    queue = rig.bridge("a")
    turn = await take(rig, queue)
    await queue.settle_and_fetch([end(turn, mark=b'"idempotency_key":"1-2"')], 0)
    late = await queue.interrupt(INTERRUPT)
    assert late.outcome is InterruptOutcome.OVER
    assert late.kept_reply is not None
    assert json.loads(late.kept_reply)["idempotency_key"] == "1-2"


async def test_what_was_heard_of_a_task_that_is_over_is_noted_once_whoever_is_killed_before(
    rig: InMemoryRig | RedisRig,
) -> None:
    killed, queue = rig.bridge("a"), rig.bridge("b")
    turn = await take(rig, killed)
    await killed.settle_and_fetch([end(turn)], 0)
    assert (await killed.interrupt(INTERRUPT)).outcome is InterruptOutcome.OVER
    again = await queue.interrupt(INTERRUPT)
    assert (again.outcome, again.kept_reply is not None) == (InterruptOutcome.OVER, True)
    for bridge in (queue, killed):
        await bridge.correct(USER, "t1", b'{"task_id":"1"}')
    assert await queue.missed(USER) == [b'{"task_id":"1"}']
    assert (await queue.status()).counters["missed_pending"] == 1
    assert (await queue.interrupt(INTERRUPT)).outcome is InterruptOutcome.REPEATED


async def test_nothing_is_noted_of_a_user_who_was_erased_meanwhile(rig: InMemoryRig | RedisRig) -> None:
    queue = rig.bridge("a")
    await queue.correct(USER, "t1", b'{"task_id":"1"}')
    assert await queue.missed(USER) == []


async def test_an_interrupt_that_tells_nothing_is_done_as_well(rig: InMemoryRig | RedisRig) -> None:
    queue = rig.bridge("a")
    turn = await take(rig, queue)
    await queue.settle_and_fetch([end(turn)], 0)
    await queue.interrupt(INTERRUPT)
    await queue.correct(USER, "t1", b"")
    assert await queue.missed(USER) == []
    assert (await queue.interrupt(INTERRUPT)).outcome is InterruptOutcome.REPEATED


async def test_an_event_may_be_published_without_being_kept(rig: InMemoryRig | RedisRig) -> None:
    queue = rig.bridge("a")
    await rig.listen(rig.settings.task_stream + "t1")
    turn = await take(rig, queue)
    await queue.settle_and_fetch([end(turn, repeated_event=b'{"type":"end"}')], 0)
    assert await rig.heard(1) == [b'{"type":"end"}']
    assert await read(queue) == []


async def test_a_message_does_not_interrupt_its_own_turn(rig: InMemoryRig | RedisRig) -> None:
    """The turn that it was to break off has ended before the interrupt arrives, and its own has begun to speak."""
    queue = rig.bridge("a")
    turn = await take(rig, queue)
    await queue.append([events_of(turn, event("started"))])
    await rig.push(task("t2"))
    own = (await queue.settle_and_fetch([end(turn)], 1)).turns[0]
    await queue.append([TaskEvents(own.receipt, USER, "t2", [event("started")])])
    late = InterruptRequest(type="interrupt", user_id=USER, hand_out=turn.receipt)
    assert (await queue.interrupt(late)).outcome is InterruptOutcome.NOTHING


async def test_a_task_that_is_tried_again_can_be_interrupted_again(rig: InMemoryRig | RedisRig) -> None:
    queue = rig.bridge("a")
    turn = await take(rig, queue)
    await queue.settle_and_fetch([end(turn, outcome=Outcome.ERROR)], 0)
    assert (await queue.interrupt(INTERRUPT)).outcome is InterruptOutcome.OVER
    await queue.correct(USER, "t1", b"")
    again = await take(rig, queue)
    assert again.interruption.request is None
    result = await queue.interrupt(INTERRUPT)
    assert (result.outcome, result.receipt) == (InterruptOutcome.INTERRUPTED, again.receipt)
    assert await queue.append([events_of(again, event("started"))]) == [StreamRefusal.INTERRUPTED]
    assert (await queue.interrupt(INTERRUPT)).outcome is InterruptOutcome.REPEATED


async def test_a_turn_beside_a_later_one_of_its_user_can_be_interrupted(rig: InMemoryRig | RedisRig) -> None:
    """Redis has lost its hand-out, and handed the later turn out before the first was restored."""
    queue, other = rig.bridge("a"), rig.bridge("b")
    await rig.save()
    turn = await take(rig, queue)
    await rig.lose_writes()
    await rig.push(task("t2"))
    assert len((await other.settle_and_fetch([], 1)).turns) == 1
    assert await queue.restore([turn]) == set()
    await queue.interrupt(INTERRUPT)
    assert await queue.append([events_of(turn, event("started"))]) == [StreamRefusal.INTERRUPTED]
    fetched = await queue.settle_and_fetch([end(turn, when_interrupted=lambda _: end(turn))], 0)
    assert turn.receipt in fetched.interrupted


async def test_a_message_without_a_task_is_taken_once(rig: InMemoryRig | RedisRig) -> None:
    """Two bridges see it: the second one must not break off the user's next turn."""
    queue, other = rig.bridge("a"), rig.bridge("b")
    turn = await take(rig, queue)
    of_user = InterruptRequest(type="interrupt", user_id=USER)
    message = b'{"type":"interrupt"}'
    await rig.ask(message)
    assert (await queue.interrupt(of_user, message)).receipt == turn.receipt
    await queue.settle_and_fetch([end(turn, outcome=Outcome.INTERRUPTED)], 0)
    await rig.push(task("t2"))
    (following,) = (await queue.settle_and_fetch([], 1)).turns
    assert (await other.interrupt(of_user, message)).outcome is InterruptOutcome.TAKEN
    assert await queue.append([TaskEvents(following.receipt, USER, "t2", [event("started")])]) == [None]


async def test_refused_events_tell_what_interrupted_the_turn(rig: InMemoryRig | RedisRig) -> None:
    queue = rig.bridge("a")
    stream = events_of(await take(rig, queue), event("started"))
    await queue.interrupt(INTERRUPT)
    assert await queue.append([stream]) == [StreamRefusal.INTERRUPTED]
    assert stream.interrupt is not None
    assert stream.interrupt.heard == Heard(seq=1)


def test_an_interrupt_that_cannot_be_read_breaks_off_all_the_same() -> None:
    assert stored_request(b"nonsense").heard is None
