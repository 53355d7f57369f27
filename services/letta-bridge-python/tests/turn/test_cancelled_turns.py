"""Turns that outlast every patience: what runs beside them, whose runs are cancelled, and what is thought of those."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

import pytest

from letta_bridge.letta import Breaker, BreakerPolicy, LettaServers
from letta_bridge.request_queue.lease_clock import clock
from letta_bridge.request_queue.missed_turns import DeliveryStatus, MissedTurn
from letta_bridge.testing.letta import Hold, InMemoryLetta
from letta_bridge.turn.delivery import DeliveryContext
from letta_bridge.turn.lease import TurnLease
from shared_utils.contracts.messages import dump

if TYPE_CHECKING:
    from letta_bridge_tests.conftest import Rig

pytestmark = pytest.mark.virtual_time

SLOW = {
    "reply_deadline_seconds": 0.1,
    "timeout_seconds": 0.03,
    "retry_attempts": 3,
    "previous_turn_timeout_seconds": 0.01,
}
"""Every turn outlasts its budget, and the patience of the next one."""
LEFT_BEHIND = SLOW | {"run_lifetime_seconds": 0.0001}
"""And whatever still runs then is taken for dead."""


class Model:
    """A model that answers each turn when the test says so."""

    def __init__(self, letta: InMemoryLetta) -> None:
        self._letta = letta
        self._holds: list[Any] = []

    def holds_next(self) -> Hold:
        """Turns from now on wait until they are released."""
        self._letta._hold = hold = Hold()
        self._holds.append(hold)
        return hold

    def is_quick(self) -> None:
        self._letta._hold = None

    async def release_all(self) -> None:
        for hold in self._holds:
            hold.release()
        await self._letta.idle()


@pytest.fixture
async def slow_rig(make_rig: Callable[..., Rig]) -> AsyncIterator[Any]:
    async for rig in _begun(make_rig(letta=SLOW)):
        yield rig


@pytest.fixture
async def left_behind_rig(make_rig: Callable[..., Rig]) -> AsyncIterator[Any]:
    async for rig in _begun(make_rig(letta=LEFT_BEHIND)):
        yield rig


async def _begun(rig: Any) -> AsyncIterator[Any]:
    rig.model = Model(rig.letta)
    rig.push("t0", content="zero")
    await rig.work_off()
    yield rig
    await rig.model.release_all()


def agent_of(rig: Rig) -> Any:
    return rig.store.sessions["ada", "default"].agent_id


async def said(rig: Rig) -> list[str]:
    """What the agent has of the user, word for word; quotations are JSON."""
    return [text for text in (await rig.said_to_agents())["ada"] if not text.startswith("{")]


def runs(rig: Rig, status: str) -> set[Any]:
    return {run.label for _, run in rig.letta._runs.values() if run.status == status}


async def lost(rig: Any, task_id: str, content: str) -> None:
    rig.model.holds_next()
    rig.push(task_id, content=content)
    await rig.work_off()
    assert rig.kept(task_id=task_id)["source"] == "memory-python"


async def test_three_quick_messages_to_a_slow_model_stand_in_the_agent_once(slow_rig: Rig) -> None:
    rig: Any = slow_rig
    for number in range(1, 4):
        await lost(rig, f"t{number}", f"message {number}")
    assert [reason for _, reason in rig.fallback.answered] == ["reply_deadline", *["earlier_turn_running"] * 2]
    await rig.model.release_all()
    rig.model.is_quick()
    rig.push("t4", content="message 4")
    await rig.work_off()
    assert await said(rig) == ["zero", "message 1", "message 2", "message 3", "message 4"]
    assert rig.letta.overlaps == []
    assert runs(rig, "cancelled") == set()
    assert rig.shelf.missed == {}


async def test_without_a_fallback_a_turn_beside_a_slow_one_gets_an_error_that_may_be_tried_again(
    make_rig: Callable[..., Rig],
) -> None:
    rig = make_rig(letta=SLOW | {"fallback_to_memory": False})
    rig.push("t0", content="zero")
    await rig.work_off()
    with rig.letta.held() as hold:
        for number in range(1, 3):
            rig.push(f"t{number}", content=f"message {number}")
        await rig.work_off()
        assert rig.kept(task_id="t2").items() >= {"code": "earlier_turn_running", "retryable": True}.items()
        hold.release()
        await rig.letta.idle()
    for number in range(1, 3):
        rig.push(f"t{number}", content=f"message {number}")
    await rig.work_off()
    assert await said(rig) == ["zero", "message 1", "message 2"]


async def test_turns_that_are_taken_for_dead_and_are_not_stand_in_the_agent_once(left_behind_rig: Rig) -> None:
    rig: Any = left_behind_rig
    for number in range(1, 4):
        await lost(rig, f"t{number}", f"message {number}")
    await rig.model.release_all()
    rig.model.is_quick()
    rig.time += 1_000  # the pause that three failures in a row earned this user is over
    rig.push("t4", content="message 4")
    await rig.work_off()
    messages = await said(rig)
    assert sorted(messages) == ["message 1", "message 2", "message 3", "message 4", "zero"]
    assert rig.shelf.missed == {}


async def test_giving_up_one_turn_does_not_cancel_the_next_ones_run(left_behind_rig: Rig) -> None:
    rig = left_behind_rig
    await lost(rig, "t1", "one")
    await lost(rig, "t2", "two")  # gives up the first
    first, second = (messages[-1].otid for _, messages in rig.letta.sent[-2:])
    assert runs(rig, "cancelled") == {first}
    assert runs(rig, "running") == {second}


async def test_cancelled_turn_is_caught_up_as_a_quotation_while_it_is_not_stored(
    left_behind_rig: Rig,
) -> None:
    rig: Any = left_behind_rig
    for number in range(1, 4):
        await lost(rig, f"t{number}", f"message {number}")
        told = [message.role for message in rig.letta.sent[-1][1]]
        assert told == ["system", "user", "assistant"] * (number - 1) + ["user"]
    await rig.model.release_all()
    assert sorted(await said(rig)) == ["message 1", "message 2", "message 3", "zero"]


async def test_turn_cancelled_by_another_client_is_in_doubt_at_the_next_turn(slow_rig: Rig) -> None:
    rig: Any = slow_rig
    await lost(rig, "t1", "one")
    operator = [run_id for run_id, (_, run) in rig.letta._runs.items() if run.active]
    await rig.letta.cancel(agent_of(rig), operator)
    rig.model.is_quick()
    rig.push("t2", content="two")
    await rig.work_off()
    assert [message.role for message in rig.letta.sent[-1][1]] == ["system", "user", "assistant", "user"]
    await rig.model.release_all()
    assert sorted(await said(rig)) == ["one", "two", "zero"]


async def test_a_turn_that_is_cancelled_while_it_is_waited_for_is_not_sent_again(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(letta={"timeout_seconds": 0.02})
    rig.push("t0", content="zero")
    await rig.work_off()
    with rig.letta.held() as hold:
        rig.push("t1", content="one")
        working = asyncio.create_task(rig.work_off())
        await hold.arrived()
        (run_id,) = [run_id for run_id, (_, run) in rig.letta._runs.items() if run.active]
        await rig.letta.cancel(agent_of(rig), [run_id])
        await working
    assert rig.fallback.answered == [("t1", "turn_interrupted")]
    await rig.letta.idle()
    assert await said(rig) == ["zero", "one"]


async def test_a_bridge_killed_after_it_cancelled_leaves_the_doubt_behind(left_behind_rig: Rig) -> None:
    """Nothing in Redis tells that the turn was cancelled; Letta does."""
    rig: Any = left_behind_rig
    await lost(rig, "t1", "one")
    rig.push("t2", content="two")
    before = dict(rig.shelf.missed)
    (turn,) = (await rig.queue("dying").settle_and_fetch([], 1)).turns
    await rig.processor(rig.queue("dying")).process(turn, TurnLease(30, clock()))  # cancels, sends, and is killed
    assert rig.shelf.missed == before
    rig.time += rig.settings.queue.lease_seconds + 1
    await rig.work_off()
    rig.model.is_quick()
    rig.push("t3", content="three")
    await rig.work_off()
    await rig.model.release_all()
    messages = await said(rig)
    assert [messages.count(text) for text in ("one", "two", "three")] == [1, 1, 1]


@pytest.mark.parametrize("began", [None, 0.0])
async def test_another_programs_run_is_never_cancelled(left_behind_rig: Rig, began: float) -> None:
    rig: Any = left_behind_rig
    foreign = rig.letta.leave_run(agent_of(rig), began=began)
    await lost(rig, "t1", "one")
    rig.model.is_quick()
    rig.push("t2", content="two")
    await rig.work_off()
    assert rig.kept(task_id="t2")["source"] == "letta"
    assert rig.letta.run_status(foreign) == "running"


async def test_a_run_of_the_previous_release_is_given_up_with_its_turn(left_behind_rig: Rig) -> None:
    rig = left_behind_rig
    run = rig.letta.leave_run(agent_of(rig))
    record = b'{"task_id":"old","content":"one","response_text":"x","timestamp":%d,"fate":"unknown","agent_id":"%s"}'
    rig.shelf.missed["ada"] = [record % (time.time(), agent_of(rig).encode())]
    rig.push("t2", content="two")
    await rig.work_off()
    assert rig.letta.run_status(run) == "cancelled"
    assert [message.role for message in rig.letta.sent[-1][1]] == ["system", "user", "assistant", "user"]


@pytest.mark.virtual_time(on=False)  # a run's age is told by the clock
async def test_all_earlier_turns_together_get_one_patience(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(
        letta={"reply_deadline_seconds": 60.0, "previous_turn_timeout_seconds": 10.0, "run_lifetime_seconds": 1.0}
    )
    rig.push("t0", content="zero")
    await rig.work_off()
    agent = agent_of(rig)
    for number in range(4):
        turn = MissedTurn(
            task_id=f"{number}-1",
            content=f"message {number}",
            response_text="short",
            timestamp=time.time(),
            taken_at=time.time(),
            persona="default",
            fate=DeliveryStatus.UNKNOWN,
            agent_id=agent,
        )
        rig.letta.leave_run(agent, turn.otids(agent).own)
        rig.shelf.missed.setdefault("ada", []).append(dump(turn))
    loop = asyncio.get_running_loop()
    began = loop.time()
    rig.push("t9", content="nine")
    await rig.work_off()
    assert rig.kept(task_id="t9")["source"] == "letta"
    assert loop.time() - began < 3.5, "each of the four was waited for on its own"
    assert len(runs(rig, "cancelled")) == 4


async def test_a_run_that_began_before_its_server_was_seen_gone_is_dead(slow_rig: Rig) -> None:
    rig: Any = slow_rig
    await lost(rig, "t1", "one")
    rig.letta.down = True
    rig.letta.refuses = True
    rig.push("t2", content="two")
    await rig.work_off()
    rig.letta_comes_back()
    rig.model.is_quick()
    rig.push("t3", content="three")
    await rig.work_off()
    assert rig.kept(task_id="t3")["source"] == "letta"
    assert len(runs(rig, "cancelled")) == 1


async def test_a_turn_seen_running_through_another_server_is_attributed_there_too(make_rig: Callable[..., Rig]) -> None:
    rig: Any = make_rig(letta=LEFT_BEHIND)
    servers = LettaServers({"a": rig.letta, "b": rig.letta}, breaker=lambda: Breaker(BreakerPolicy(failures=1)))
    rig.delivery_context = DeliveryContext(servers, rig.sessions, rig.settings.letta, rig.settings.fallback)
    rig.model = Model(rig.letta)
    rig.push("t0", content="zero")
    await rig.work_off()
    for number in range(1, 4):
        await lost(rig, f"t{number}", f"message {number}")
    await rig.model.release_all()
    messages = await said(rig)
    assert len(messages) == len(set(messages))
