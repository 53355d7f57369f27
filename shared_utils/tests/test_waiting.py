"""Waiting for an event with a time limit."""

from __future__ import annotations

import asyncio

from shared_utils.waiting import wait_or_timeout


async def test_wait_ends_with_the_event() -> None:
    event = asyncio.Event()
    waiting = asyncio.create_task(wait_or_timeout(event, 3_600.0))
    await asyncio.sleep(0)
    assert not waiting.done()
    event.set()
    await asyncio.wait_for(waiting, 20)


async def test_wait_ends_with_the_time_limit_without_an_error() -> None:
    await asyncio.wait_for(wait_or_timeout(asyncio.Event(), 0.01), 20)


async def test_wait_can_be_cancelled() -> None:
    waiting = asyncio.create_task(wait_or_timeout(asyncio.Event(), 3_600.0))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting], timeout=20)
    assert waiting.cancelled()
