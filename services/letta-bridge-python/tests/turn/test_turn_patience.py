"""How long a user's next turn waits for one that Letta never ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from letta_bridge.errors import OutcomeUnknown
from letta_bridge.letta import Breaker, BreakerPolicy, LettaServers
from letta_bridge.request_queue.lease_clock import clock
from letta_bridge.turn.delivery import DeliveryContext
from letta_bridge.turn.lease import TurnLease

if TYPE_CHECKING:
    from letta_bridge_tests.conftest import Rig
pytestmark = pytest.mark.virtual_time


@pytest.mark.virtual_time(on=False)  # a run's age is told by the clock
async def test_a_run_left_behind_is_cancelled_within_the_reply_budget_however_patient_the_bridge_is(
    make_rig: Callable[..., Rig],
) -> None:
    rig = make_rig(
        letta={"reply_deadline_seconds": 0.9, "previous_turn_timeout_seconds": 30.0, "run_lifetime_seconds": 0.7}
    )
    rig.push("t0", content="hello")
    await rig.work_off()
    rig.letta.fail_next(OutcomeUnknown("gone", cause="connection_lost"), leave_run=True)
    rig.push("t1", content="lost")
    await rig.work_off()
    rig.push("t2", content="next")
    await rig.work_off()
    assert [reply["source"] for reply in rig.replies()] == ["letta", "letta"]
    assert (rig.kept(task_id="t1")["source"], rig.kept(task_id="t2")["source"]) == ("memory-python", "letta")


@pytest.mark.parametrize(
    ("stored", "sources"), [("nothing", ("memory-python", "letta")), ("answer", ("letta", "letta"))]
)
async def test_a_turn_that_letta_ended_while_its_database_was_unavailable_keeps_no_later_one_from_letta(
    make_rig: Callable[..., Rig], stored: Any, sources: tuple[str, str]
) -> None:
    """Letta could not write the run's end, so the run stands as active for ever."""
    rig = make_rig(letta={"reply_deadline_seconds": 60.0, "previous_turn_timeout_seconds": 30.0})
    rig.push("t0", content="hello")
    await rig.work_off()
    rig.letta.fail_next(OutcomeUnknown("away", cause="server_error"), stored=stored, leave_run=True)
    for task_id in ("t1", "t2"):
        rig.push(task_id, content=f"said in {task_id}")
        async with asyncio.timeout(30):
            await rig.work_off()
    assert (rig.kept(task_id="t1")["source"], rig.kept(task_id="t2")["source"]) == sources
    assert rig.letta.overlaps == []
    assert rig.shelf.missed.get("ada", []) == []


async def test_a_task_that_is_pushed_again_finds_the_answer_that_letta_could_not_give(
    make_rig: Callable[..., Rig],
) -> None:
    rig = make_rig(letta={"reply_deadline_seconds": 60.0, "fallback_to_memory": False, "retry_attempts": 0})
    rig.push("t0", content="hello")
    await rig.work_off()
    rig.letta.fail_next(OutcomeUnknown("away", cause="server_error"), stored="answer", leave_run=True)
    rig.push("t1", content="said once")
    await rig.work_off()
    assert rig.kept(task_id="t1")["retryable"] is True
    rig.push("t1", content="said once")
    async with asyncio.timeout(30):
        await rig.work_off()
    assert rig.kept(task_id="t1")["response_text"] == "echo: said once"


async def test_a_task_that_a_killed_bridge_may_have_sent_again_is_waited_for(make_rig: Callable[..., Rig]) -> None:
    """What an earlier task of the same key left says nothing about the last hand-out of this one."""
    rig = make_rig(
        letta={
            "reply_deadline_seconds": 0.4,
            "previous_turn_timeout_seconds": 0.2,
            "fallback_to_memory": False,
            "retry_attempts": 0,
        }
    )
    rig.push("t0", content="hello")
    await rig.work_off()
    rig.letta.fail_next(OutcomeUnknown("away", cause="server_error"))
    rig.push("t1", content="said once")
    await rig.work_off()
    rig.push("t1", content="said once")
    queue = rig.queue("dying")
    (turn,) = (await queue.settle_and_fetch([], 1)).turns
    with rig.letta.held():
        await rig.processor(queue).process(turn, TurnLease(30, clock()))
        rig.time += rig.settings.queue.lease_seconds + 1
        await rig.work_off()
        assert [run.status for _, run in rig.letta._runs.values()].count("cancelled") == 0
    await rig.letta.idle()
    rig.push("t1", content="said once")
    await rig.work_off()
    assert rig.kept(task_id="t1")["response_text"] == "echo: said once"
    assert rig.letta.overlaps == []


async def test_a_server_that_is_back_before_its_breakers_pause_is_over_was_seen_gone(
    make_rig: Callable[..., Rig],
) -> None:
    rig = make_rig(letta={"reply_deadline_seconds": 20.0, "previous_turn_timeout_seconds": 0.2, "retry_attempts": 0})
    rig.push("t0", content="hello")
    await rig.work_off()
    rig.push("t1", content="lost")
    with rig.letta.held() as hold:
        work = asyncio.create_task(rig.work_off())
        await hold.arrived()
        rig.letta.down = rig.letta.refuses = True
        await rig.letta.kill()
        await work
    rig.letta.down = False
    # Another bridge works for the user now, one that never knocked.
    rig.delivery_context = DeliveryContext(
        LettaServers({"a": rig.letta}), rig.sessions, rig.settings.letta, rig.settings.fallback
    )
    rig.push("t2", content="next")
    await rig.work_off()
    assert [rig.kept(task_id=name)["source"] for name in ("t1", "t2")] == ["memory-python", "letta"]


async def test_turn_on_a_server_with_an_open_breaker_is_not_awaited_through_another(
    make_rig: Callable[..., Rig],
) -> None:
    rig = make_rig(letta={"reply_deadline_seconds": 60.0})
    servers = LettaServers({"a": rig.letta, "b": rig.letta}, breaker=lambda: Breaker(BreakerPolicy(failures=1)))
    rig.delivery_context = DeliveryContext(servers, rig.sessions, rig.settings.letta, rig.settings.fallback)
    rig.push("t0", content="hello")
    await rig.work_off()
    rig.letta.fail_next(OutcomeUnknown("gone", cause="connection_lost"), leave_run=True)
    rig.push("t1", content="lost")
    async with asyncio.timeout(30):
        await rig.work_off()
    assert rig.fallback.answered == [("t1", "turn_interrupted")]
    rig.push("t2", content="next")
    async with asyncio.timeout(30):
        await rig.work_off()
    assert rig.kept(task_id="t2")["source"] == "letta"


@pytest.mark.parametrize("timeout", [5.0, 9.0])
async def test_a_silent_server_of_a_known_agent_is_given_up_within_the_reply_budget(
    make_rig: Callable[..., Rig], timeout: float
) -> None:
    """The first send has no timer beside its own time limit; all that follows it has."""
    rig = make_rig(letta={"reply_deadline_seconds": 6.0, "timeout_seconds": timeout, "retry_attempts": 9})
    rig.push("t0", content="hello")
    await rig.work_off()
    time = asyncio.get_running_loop().time
    began = time()
    with rig.letta.held():
        rig.push("t1", content="slow")
        await rig.work_off()
    assert rig.kept(task_id="t1")["source"] == "memory-python"
    assert 4.0 < time() - began < 6.5
