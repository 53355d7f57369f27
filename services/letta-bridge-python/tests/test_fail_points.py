"""A fail point strikes once, at its step, at the time it was told; without one there is none."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any

import pytest

from letta_bridge import fail_points


@pytest.fixture
def struck(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    signals = []
    monkeypatch.setattr(os, "kill", lambda pid, number: signals.append((pid, number)))
    return signals


def test_nothing_is_armed_in_normal_runs() -> None:
    assert fail_points.reach is fail_points.armed(None) is fail_points.armed("")


def test_several_turns_reach_a_step_at_once(struck: list[Any]) -> None:
    reach = fail_points.armed("settled:STOP:3")
    reach("settled", 2)
    assert struck == []
    reach("settled", 2)
    assert struck == [(os.getpid(), signal.SIGSTOP)]


@pytest.mark.parametrize("text", ["answered", "nowhere:KILL:1", "answered:KILL:soon", "answered:NOTHING:1"])
def test_unreadable_fail_point_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"CHAOS_FAIL_POINT"):
        fail_points.armed(text)


def test_it_strikes_at_the_count_and_never_again(struck: list[Any]) -> None:
    reach = fail_points.armed("answered:STOP:2")
    assert reach is not None
    for step in ("answered", "settled", "answered", "answered"):
        reach(step)
    assert struck == [(os.getpid(), signal.SIGSTOP)]


async def test_sent_strikes_when_the_request_is_on_its_way(struck: list[Any]) -> None:
    reach = fail_points.armed("sent:KILL:1")
    assert reach is not None
    reach("sent")
    assert struck == []
    async with asyncio.timeout(10):
        while not struck:
            await asyncio.sleep(0.01)
