"""What one user's turns do to Letta is that user's trouble, and a server that is down is everybody's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from letta_bridge.letta import BreakerState
from letta_bridge.testing.letta import Hold

if TYPE_CHECKING:
    from letta_bridge_tests.conftest import Rig

pytestmark = pytest.mark.virtual_time

QUICK = {"reply_deadline_seconds": 0.1, "timeout_seconds": 0.03, "previous_turn_timeout_seconds": 0.01}


async def slow_turns(rig: Rig, user: str, count: int) -> None:
    """Each takes longer than the bridge waits, and is stored before the next one."""
    for number in range(count):
        with rig.letta.held() as hold:
            rig.push(f"{user}{number}", user=user, content=f"write me a novel {number}")
            await rig.work_off()
            hold.release()
            await rig.letta.idle()


async def test_slow_turns_of_one_user_do_not_switch_letta_off_for_others(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(letta=QUICK)
    for user in ("bob", "mallory"):
        rig.push(f"hi {user}", user=user)
    await rig.work_off()
    await slow_turns(rig, "mallory", 6)
    rig.push("b1", user="bob", content="what is my name?")
    await rig.work_off()
    assert rig.kept("bob", "b1")["source"] == "letta"
    assert set(rig.servers.states().values()) == {BreakerState.CLOSED}


async def test_after_some_slow_turns_a_user_is_answered_at_once_by_memory(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(letta=QUICK)
    rig.push("hi", user="mallory")
    await rig.work_off()
    await slow_turns(rig, "mallory", 6)
    assert [reason for _, reason in rig.fallback.answered[-3:]] == ["user_paused"] * 3
    rig.time += 1_000
    rig.push("next", user="mallory", content="next")
    await rig.work_off()
    assert rig.kept("mallory", "next")["source"] == "letta"
    said = [text for text in (await rig.said_to_agents())["mallory"] if not text.startswith("{")]
    assert len(said) == len(set(said))
    assert rig.shelf.missed == {}


async def test_turns_beside_a_slow_one_do_not_count_as_failures(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(letta=QUICK)
    rig.push("hi", user="mallory")
    await rig.work_off()
    with rig.letta.held() as hold:
        for number in range(6):
            rig.push(f"m{number}", user="mallory", content=f"write me a novel {number}")
        await rig.work_off()
        hold.release()
        await rig.letta.idle()
    assert {reason for _, reason in rig.fallback.answered[1:]} == {"earlier_turn_running"}
    rig.push("next", user="mallory", content="next")
    await rig.work_off()
    assert rig.kept("mallory", "next")["source"] == "letta"
    assert rig.letta.overlaps == []


async def test_without_a_fallback_a_paused_user_waits(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(letta={**QUICK, "fallback_to_memory": False, "retry_attempts": 0})
    rig.push("hi", user="mallory")
    await rig.work_off()
    await slow_turns(rig, "mallory", 3)
    rig.delivery_context = replace(
        rig.delivery_context, letta=rig.settings.letta.model_copy(update={"reply_deadline_seconds": 20.0})
    )
    rig.push("next", user="mallory", content="next")
    working = asyncio.create_task(rig.work_off())
    for _ in range(100):
        await asyncio.sleep(0)
    assert not working.done()
    rig.time += 1_000
    await asyncio.wait_for(working, 20)
    assert rig.kept("mallory", "next")["source"] == "letta"


async def test_refusing_server_opens_its_breaker_for_a_single_user(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig()
    rig.letta.down = True
    rig.push("t1")
    await rig.work_off()
    assert set(rig.servers.states().values()) == {BreakerState.OPEN}


async def test_hanging_server_opens_its_breaker_for_a_single_user(make_rig: Callable[..., Rig]) -> None:
    # A turn counts as a failure only if it was sent before its reply was due: half a second even on a busy machine.
    rig: Any = make_rig(letta=QUICK | {"reply_deadline_seconds": 0.5})
    rig.push("hi")
    await rig.work_off()
    hold = Hold()
    rig.letta._hold = hold
    find = rig.letta.find_turns

    async def hanging(*_: Any, **__: Any) -> None:
        await asyncio.Event().wait()

    rig.letta.find_turns = hanging
    for number in range(3):
        rig.shelf.missed.clear()  # or the next turn would hang before it sends
        rig.push(f"t{number}", content=f"{number}")
        await rig.work_off()
    assert set(rig.servers.states().values()) == {BreakerState.OPEN}
    rig.letta.find_turns = find
    hold.release()
    await rig.letta.idle()
