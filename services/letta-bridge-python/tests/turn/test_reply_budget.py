"""How Letta and memory-python share the time of a reply."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from letta_bridge.settings import FallbackSettings, LettaSettings
from letta_bridge.turn.reply_budget import ReplyBudget

if TYPE_CHECKING:
    from letta_bridge_tests.conftest import Rig


def budget(deadline: float = 90.0, memory: float = 20.0, *, fallback: bool = True) -> ReplyBudget:
    letta = LettaSettings(reply_deadline_seconds=deadline, fallback_to_memory=fallback)
    return ReplyBudget.of(letta, FallbackSettings(timeout_seconds=memory), began=1_000.0)


@pytest.mark.parametrize(
    ("deadline", "memory", "letta_seconds"),
    [(90.0, 20.0, 70.0), (60.0, 20.0, 40.0), (30.0, 20.0, 20.0), (3.0, 20.0, 2.0), (90.0, 5.0, 85.0)],
)
def test_the_fallbacks_time_is_part_of_the_deadline_and_never_most_of_it(
    deadline: float, memory: float, letta_seconds: float
) -> None:
    shared = budget(deadline, memory)
    assert shared.letta_seconds == letta_seconds
    assert shared.letta_until + shared.left_for_memory(shared.letta_until) == 1_000.0 + deadline


def test_without_the_fallback_letta_has_the_whole_time() -> None:
    assert budget(fallback=False).letta_seconds == 90.0


def test_memory_python_has_its_time_even_if_the_bridge_was_late() -> None:
    assert budget().left_for_memory(1_200.0) == 20.0


@pytest.mark.virtual_time
async def test_a_user_waits_no_longer_than_the_reply_deadline_for_letta_and_memory_python_together(
    make_rig: Callable[..., Rig],
) -> None:
    rig = make_rig(letta={"reply_deadline_seconds": 90.0})
    rig.push("t0", content="hello")
    await rig.work_off()
    rig.fallback.silent = True
    began = asyncio.get_running_loop().time()
    with rig.letta.held() as hold:
        rig.push("t1", content="slow")
        await rig.work_off()
        waited = asyncio.get_running_loop().time() - began
        hold.release()
    assert rig.kept(task_id="t1")["code"] == "reply_deadline"
    assert 89.0 < waited < 91.0
