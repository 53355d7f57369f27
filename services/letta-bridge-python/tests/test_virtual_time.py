"""Time that passes by what the event loop does: waits cost none, and no slowness of the machine ends one early."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

pytestmark = pytest.mark.virtual_time


async def test_a_wait_ends_at_once_where_nothing_else_happens() -> None:
    began = time.monotonic()
    await asyncio.sleep(3600)
    assert time.monotonic() - began < 600
    assert asyncio.get_running_loop().time() >= 3600


async def test_waits_end_in_the_order_of_their_times() -> None:
    ended = []

    async def wait(seconds: Any) -> None:
        await asyncio.sleep(seconds)
        ended.append(seconds)

    await asyncio.gather(wait(3), wait(1), wait(2))
    assert ended == [1, 2, 3]


async def test_a_deadline_is_not_reached_by_work_that_the_machine_is_slow_at() -> None:
    async with asyncio.timeout(0.01):
        time.sleep(0.05)  # noqa: ASYNC251  # what it stands for
        await asyncio.sleep(0)


async def test_a_deadline_is_reached_by_work_without_end() -> None:
    async def work() -> None:
        while True:
            await asyncio.sleep(0)

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(work(), 0.1)


async def test_a_thread_is_waited_for_before_time_passes() -> None:
    async with asyncio.timeout(0.01):
        await asyncio.to_thread(time.sleep, 0.05)
