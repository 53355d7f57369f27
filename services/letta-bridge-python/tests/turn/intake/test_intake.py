"""The loop that takes turns and gives back outcomes: room, order, leases, a Redis that goes away, and the end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError
from structlog.testing import capture_logs

from letta_bridge.errors import LeaseLost, OutOfResources
from letta_bridge.health_checks import HealthChecks
from letta_bridge.request_queue import Outcome, Settlement
from letta_bridge.request_queue.calls import TICKET_DIGITS
from letta_bridge.request_queue.port import Turn
from letta_bridge.settings import QueueSettings
from letta_bridge.telemetry.metrics.bridge_metrics import BridgeMetrics
from letta_bridge.testing.queue_state import InMemoryQueueState
from letta_bridge.testing.request_queue import InMemoryQueue
from letta_bridge.turn.intake import arrivals, redis_outage

if TYPE_CHECKING:
    from letta_bridge_tests.turn.intake.conftest import UnreliableQueue


async def test_never_holds_more_than_there_is_room_for(make_worker: Any) -> None:
    async with make_worker(max_concurrent_requests=2) as worker:
        worker.push("a", "b", "c", "d")
        await worker.started.get()
        await worker.started.get()
        await asyncio.sleep(0.01)
        assert worker.started.empty()
        assert worker.intake.in_flight == 2
        worker.gate.set()
        await worker.settled(4)
    assert worker.replies() == ["a", "b", "c", "d"]


async def test_intake_takes_no_turns_while_no_server_can_answer(
    make_worker: Any, set_idle_seconds: Callable[..., Any]
) -> None:
    set_idle_seconds(0.01)
    open_for_business = False
    async with make_worker(accepting=lambda: open_for_business) as worker:
        worker.push("a")
        await worker.queue.asked.wait()
        assert worker.started.empty()
        open_for_business = True
        await asyncio.wait_for(worker.started.get(), 20)


async def test_a_host_without_resources_leaves_its_turns_to_another_bridge(
    make_worker: Any, set_idle_seconds: Callable[..., Any]
) -> None:
    set_idle_seconds(0.01)
    async with make_worker(name="exhausted") as exhausted:
        exhausted.begin = False
        exhausted.fail_with = OutOfResources("no file descriptor")
        exhausted.gate.set()
        with capture_logs() as logged:
            exhausted.push("a", "b")
            await exhausted.started.get()
            async with make_worker(exhausted.shelf, "healthy") as healthy:
                healthy.gate.set()
                await healthy.settled(2)
    turns = [healthy.started.get_nowait() for _ in range(2)]
    assert [turn.attempts for turn in turns] == [1, 1]
    assert {line["event"] for line in logged} >= {"out_of_resources"}
    assert exhausted.shelf.counters["redelivered"] == 0


async def test_a_host_without_resources_is_not_ready_until_it_takes_turns(
    make_worker: Any, set_clock: Any, set_idle_seconds: Any
) -> None:
    now = [0.0]
    set_clock(lambda: now[0])
    set_idle_seconds(0.01)
    metrics = BridgeMetrics()
    async with make_worker(recorder=metrics) as worker:
        health = HealthChecks(worker.intake, [], nothing)
        assert [check.ok for check in health.own_checks()] == [True, True]
        worker.begin = False
        worker.fail_with = OutOfResources("no file descriptor")
        worker.gate.set()
        worker.push("a")
        await worker.started.get()
        async with asyncio.timeout(20):
            while worker.intake.in_flight:
                await asyncio.sleep(0)
        (check,) = [check for check in health.own_checks() if not check.ok]
        assert (check.name, check.required) == ("resources", True)
        assert "no file descriptor), so this bridge takes none for 10 s" in check.detail
        assert metrics.registry.get_sample_value("letta_bridge_out_of_resources_total") == 1
        worker.fail_with = None
        now[0] = 10.0
        assert [check.ok for check in health.own_checks()] == [True, True]
        await worker.settled(1)


async def nothing() -> Any:
    return {}


async def test_a_host_without_resources_takes_turns_again_after_a_pause(
    make_worker: Any, set_idle_seconds: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("letta_bridge.turn.intake.intake._EXHAUSTED_SECONDS", 0.05)
    set_idle_seconds(0.01)
    async with make_worker() as worker:
        worker.begin = False
        worker.fail_with = OutOfResources("no file descriptor")
        worker.gate.set()
        worker.push("a")
        await worker.started.get()
        worker.fail_with = None
        await worker.settled(1)
    assert worker.replies() == ["a"]


async def test_a_turn_that_may_have_been_sent_is_left_to_its_lease_without_resources(
    make_worker: Any, set_idle_seconds: Callable[..., Any]
) -> None:
    set_idle_seconds(0.01)
    async with make_worker(name="exhausted") as exhausted:
        exhausted.fail_with = OutOfResources("no memory")
        exhausted.gate.set()
        exhausted.push("a")
        await exhausted.started.get()
        async with asyncio.timeout(20):
            while exhausted.intake.in_flight:
                await asyncio.sleep(0)
        exhausted.time += 31
        async with make_worker(exhausted.shelf, "healthy") as healthy:
            healthy.gate.set()
            await healthy.settled(1)
    assert healthy.started.get_nowait().attempts == 2


async def test_a_reply_finished_while_redis_is_unavailable_is_held_and_settled_later(make_worker: Any) -> None:
    async with make_worker() as worker:
        worker.push("a")
        await worker.started.get()
        worker.queue.away = True
        worker.gate.set()
        worker.queue.asked.clear()
        await worker.queue.asked.wait()
        assert worker.intake.in_flight == 1
        worker.queue.away = False
        await worker.settled(1)
    assert worker.replies() == ["a"]


async def test_an_answer_of_redis_that_got_lost_doubles_nothing_and_strands_nothing(make_worker: Any) -> None:
    async with make_worker() as worker:
        worker.gate.set()
        worker.queue.lose_next_answer = True
        worker.push("a")
        await worker.settled(1)
        worker.queue.lose_next_answer = True
        worker.push("b", "c")
        await worker.settled(3)
    assert sorted(worker.replies()) == ["a", "b", "c"]
    assert worker.shelf.counters["redelivered"] == 0


async def test_idle_bridge_starts_arriving_turns(make_worker: Any) -> None:
    async with make_worker() as worker:
        await worker.idle()
        worker.push("a")
        turn = await asyncio.wait_for(worker.started.get(), 20)
        assert turn.receipt[TICKET_DIGITS] == worker.queue.waits.mark
        worker.gate.set()
        await worker.settled(1)


async def test_an_outcome_of_an_idle_bridge_is_one_round_trip(
    make_worker: Any, set_idle_seconds: Callable[..., Any]
) -> None:
    set_idle_seconds(3_600.0)
    async with make_worker() as worker:
        worker.gate.set()
        await worker.idle()
        worker.queue.settled_at_once.clear()
        worker.push("a")
        await worker.settled(1)
        await asyncio.sleep(0.01)
        assert worker.queue.settled_at_once == [1]


async def test_the_next_of_a_user_is_not_left_to_the_wait_for_arrivals(
    make_worker: Any, set_idle_seconds: Callable[..., Any]
) -> None:
    set_idle_seconds(3_600.0)
    async with make_worker() as worker:
        worker.gate.set()
        await worker.idle()
        worker.push(*"abcdefgh", user="ada")
        worker.push(*"123", user="bo")
        await worker.settled(11)
    replies = worker.replies()
    assert [name for name in replies if name.isalpha()] == list("abcdefgh")
    assert [name for name in replies if name.isdigit()] == list("123")


async def test_outcomes_that_never_cease_do_not_hold_up_the_next_of_a_user(make_worker: Any) -> None:
    """Each pass has something to settle, and the wait for arrivals goes on: one of them takes what is left."""
    worker = make_worker()
    worker.push("a", "b", user="ada")
    worker.push("c")
    intake = worker.intake
    ends = [_end(turn) for turn in (await worker.queue.settle_and_fetch([], 2)).turns]
    intake._arrivals.waiting = True
    for end in ends:
        intake._outcomes.add(end)
        await intake._pass()
    turn = await asyncio.wait_for(worker.started.get(), 20)
    assert json.loads(turn.payload)["task_id"] == "b"
    assert intake._running.cancel(turn.receipt)


async def test_an_arrival_whose_answer_got_lost_returns_uncounted(
    make_worker: Any, monkeypatch: pytest.MonkeyPatch, set_idle_seconds: Callable[..., Any]
) -> None:
    monkeypatch.setattr(arrivals, "_PAUSE_SECONDS", 0.0)
    set_idle_seconds(0.05)
    async with make_worker() as worker:
        worker.gate.set()
        await worker.idle()
        worker.queue.lose_next_arrival = True
        worker.push("a")
        turn = await asyncio.wait_for(worker.started.get(), 20)
        assert turn.attempts == 1
        await worker.settled(1)
        assert worker.queue.orphans_sought == [True]
    assert worker.shelf.counters["redelivered"] == 0


async def test_arrival_during_the_shutdown_is_released(make_worker: Any) -> None:
    async with make_worker() as worker:
        await worker.idle()
        worker.queue.after_hand_out = worker.intake.stop
        worker.push("a")
        await asyncio.wait_for(worker.running, 20)
        assert worker.started.empty()
        assert worker.shelf.lanes["a"][0].attempts == 0


async def test_arrival_is_released_while_no_server_can_answer(
    make_worker: Any, set_idle_seconds: Callable[..., Any]
) -> None:
    set_idle_seconds(0.05)
    open_for_business = True
    async with make_worker(accepting=lambda: open_for_business) as worker:
        await worker.idle()
        open_for_business = False
        worker.push("a")
        await asyncio.sleep(0.01)
        assert worker.started.empty()
        open_for_business = True
        turn = await asyncio.wait_for(worker.started.get(), 20)
        assert turn.attempts == 1


@pytest.mark.parametrize("room", [1, 2, 3, 100])
async def test_waiting_and_passing_share_the_room(
    make_worker: Any, room: int, set_idle_seconds: Callable[..., Any]
) -> None:
    set_idle_seconds(3_600.0)  # neither may leave to the other's time-out what is there
    async with make_worker(max_concurrent_requests=room) as worker:
        await worker.idle()
        names = [f"u{number}" for number in range(2 * room)]
        worker.push(*names)
        for _ in range(room):
            await asyncio.wait_for(worker.started.get(), 20)
        await asyncio.sleep(0.01)
        assert worker.started.empty()
        assert len(worker.shelf.turns) == worker.intake.in_flight == room
        worker.gate.set()
        await worker.settled(2 * room)


async def test_turn_with_an_expired_lease_is_no_orphan(make_worker: Any, set_clock: Callable[..., Any]) -> None:
    """Its message may be with the agent: given back uncounted, it would be sent again unseen."""
    now = 100.0
    set_clock(lambda: now)
    async with make_worker() as worker:
        worker.push("a")
        turn = await worker.started.get()
        now += worker.settings.lease_seconds * 0.9
        worker.fail_with = LeaseLost()
        worker.gate.set()
        async with asyncio.timeout(20):
            while worker.intake.in_flight:
                await asyncio.sleep(0)
        worker.queue.away = True
        worker.intake._wake.set()
        async with asyncio.timeout(20):
            while worker.intake.redis_error is None:
                await asyncio.sleep(0)
        worker.queue.away = False
        async with asyncio.timeout(20):
            while worker.intake.redis_error is not None:
                await asyncio.sleep(0.01)
        assert worker.queue.orphans_sought
        assert worker.shelf.turns[turn.receipt].entry.attempts == 1


async def test_a_refused_exchange_is_logged_once_while_other_commands_work(
    make_worker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = []
    monkeypatch.setattr(redis_outage, "_FIRST_PAUSE_SECONDS", 0.001)
    log = SimpleNamespace(
        warning=lambda event, **fields: told.append((event, fields["code"])), info=lambda event, **_: told.append(event)
    )
    monkeypatch.setattr(redis_outage, "_log", log)
    async with make_worker() as worker:
        worker.queue.refuses = True
        worker.intake._wake.set()
        async with asyncio.timeout(20):
            while worker.queue.refused < 6:
                await asyncio.sleep(0.001)
        assert "the key q is no list" in worker.intake.redis_error
        assert told == [("redis_unavailable", "wrongtype")]
        worker.queue.refuses = False
        worker.push("a")
        worker.gate.set()
        await worker.settled(1)
        assert worker.intake.redis_error is None
        assert told == [("redis_unavailable", "wrongtype"), "redis_available"]


def test_pauses_grow_to_a_limit_that_is_longer_for_refusals() -> None:
    outage = redis_outage.RedisOutage()
    for error, longest in ((RedisConnectionError("away"), 1.0), (ResponseError("WRONGTYPE x"), 5.0)):
        outage.failed(error, held=0)
        pauses = [outage.pause() for _ in range(12)]
        assert pauses == sorted(pauses)
        assert pauses[-1] == longest
        outage.over(held=0)
        assert outage.last_error is None


async def test_pass_settles_at_most_half_of_the_capacity(make_worker: Any) -> None:
    async with make_worker(max_concurrent_requests=8) as worker:
        worker.push(*(f"u{number}" for number in range(16)))
        for _ in range(8):
            await worker.started.get()
        worker.gate.set()
        await worker.settled(16)
    assert max(worker.queue.settled_at_once) == 4
    assert sum(worker.queue.settled_at_once) == 16
    assert sorted(worker.replies()) == sorted(f"u{number}" for number in range(16))


async def test_shutdown_finishes_started_turns(make_worker: Any) -> None:
    async with make_worker() as worker:
        worker.push("a")
        await worker.started.get()
        worker.intake.stop()
        worker.gate.set()
        await worker.stopped()
    assert worker.replies() == ["a"]


async def test_shutdown_releases_turns_that_were_not_started(make_worker: Any) -> None:
    worker = make_worker()
    worker.begin = False
    async with worker:
        worker.push("a")
        await worker.started.get()
        await worker.stopped()
        assert [len(lane) for lane in worker.shelf.lanes.values()] == [1]
        assert worker.shelf.lanes["a"][0].attempts == 0


async def test_shutdown_leaves_turns_beyond_the_grace_to_their_leases(make_worker: Any) -> None:
    async with make_worker(shutdown_grace_seconds=0) as worker:
        worker.push("a")
        await worker.started.get()
        await worker.stopped()
        assert len(worker.shelf.turns) == 1
        (turn,) = worker.shelf.turns.values()
        assert turn.entry.attempts == 1


async def test_a_stop_right_after_a_hand_out_waits_for_nothing(make_worker: Any) -> None:
    async with make_worker(shutdown_grace_seconds=3_600) as worker:
        worker.queue.after_hand_out = worker.intake.stop
        worker.push("a")
        await asyncio.wait_for(worker.running, 20)
        assert worker.started.empty()
        assert worker.shelf.lanes["a"][0].attempts == 0


async def test_a_lost_lease_stops_the_turn(make_worker: Any) -> None:
    async with make_worker() as worker:
        worker.push("a")
        turn = await worker.started.get()
        worker.time += 1_000
        other = InMemoryQueue(worker.shelf, worker.settings, "b")
        (taken_over,) = (await other.settle_and_fetch([], 1)).turns
        await worker.intake._leases.renew([turn.receipt])
        worker.gate.set()
        async with asyncio.timeout(20):
            while worker.intake.in_flight:
                await asyncio.sleep(0)
        assert worker.replies() == []
        assert taken_over.attempts == 2


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_every_task_taken_is_settled_waiting_or_in_flight(make_queue: Any, data: Any) -> None:
    """Bridges that work, die and lose answers in any order: each task ends once, each user's in order."""

    async def scenario() -> None:
        now = 1_000.0
        shelf = InMemoryQueueState(clock=lambda: now)
        config = QueueSettings()
        bridges = [make_queue(shelf, config, name) for name in "ab"]
        held: dict[str, list[Any]] = {name: [] for name in "ab"}
        pushed = 0
        for _ in range(data.draw(st.integers(5, 40))):
            step = data.draw(st.sampled_from(["push", "take", "settle", "die", "lose", "release"]))
            queue = data.draw(st.sampled_from(bridges))
            mine = held[queue._bridge]
            if step == "push":
                user = data.draw(st.sampled_from(["ada", "小明", "cy"]))
                shelf.push(json.dumps({"user_id": user, "task_id": str(pushed)}).encode())
                pushed += 1
            elif step == "die":
                # The other bridge becomes a zombie: it still holds turns whose leases are over.
                mine.clear()
                now += config.lease_seconds + 1
            elif step == "release":
                await queue.release([mine.pop().receipt for _ in mine[:1]])
            else:
                await _settle_and_fetch(queue, mine, step, data.draw(st.integers(0, 3)))
            status = await queue.status()
            settled = sum(count for name, count in status.counters.items() if name.startswith("settled:"))
            assert status.counters.get("taken", 0) == settled + status.waiting + status.in_flight
            assert len(shelf.busy) == len(shelf.turns)
        now += config.lease_seconds + 1
        while shelf.requests or shelf.lanes or shelf.turns:
            turns = (await bridges[0].settle_and_fetch([], 5)).turns
            await bridges[0].settle_and_fetch([_end(turn) for turn in turns], 0)
        by_user: dict[str, Any] = {}
        for reply in shelf.replies:
            task = json.loads(reply)
            by_user.setdefault(task["user_id"], []).append(int(task["task_id"]))
        assert sum(map(len, by_user.values())) == pushed
        assert all(order == sorted(order) for order in by_user.values())

    asyncio.run(scenario())


async def _settle_and_fetch(queue: UnreliableQueue, mine: list[Any], step: str, limit: int) -> None:
    queue.lose_next_answer = step == "lose"
    ends = [] if step == "take" else [_end(turn) for turn in mine]
    try:
        fetched = await queue.settle_and_fetch(ends, limit)
    except RedisConnectionError:
        await queue.release_orphans({turn.receipt for turn in mine})
        return
    finally:
        queue.lose_next_answer = False
    if ends:
        mine.clear()
    mine.extend(fetched.turns)


def _end(turn: Turn) -> Settlement:
    return Settlement(turn.receipt, Outcome.LETTA, reply=turn.payload)


async def test_large_turns_are_all_begun_although_no_answer_holds_them_all(
    make_worker: Any, monkeypatch: pytest.MonkeyPatch, set_idle_seconds: Callable[..., Any]
) -> None:
    monkeypatch.setattr("letta_bridge.request_queue.port.MAX_FETCHED_BYTES", 1)
    set_idle_seconds(3600)
    worker = make_worker()
    worker.push(*map(str, range(9)))
    async with worker:
        begun = [await asyncio.wait_for(worker.started.get(), 20) for _ in range(9)]
        assert [json.loads(turn.payload)["task_id"] for turn in begun] == list(map(str, range(9)))
