"""Calls end in time even if a cancellation gets lost on the way."""

from __future__ import annotations

import asyncio

import pytest

from letta_bridge_client.ending import end, within


async def deaf(losses: int) -> str:
    """Loses some cancellations, as ``asyncio.wait_for`` of Python 3.11 may."""
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            losses -= 1
            if losses < 0:
                raise


async def test_a_task_that_loses_cancellations_is_ended() -> None:
    task = asyncio.create_task(deaf(2))
    await asyncio.sleep(0)
    await end(task)
    assert task.cancelled()


async def test_a_call_that_loses_its_cancellation_ends_in_time() -> None:
    async with asyncio.timeout(30):
        with pytest.raises(TimeoutError):
            await within(0.01, asyncio.create_task(deaf(1)))


async def test_a_cancelled_call_ends_with_its_caller() -> None:
    inner: list[asyncio.Task[str]] = []

    async def call() -> str:
        inner.append(asyncio.current_task())  # type: ignore[arg-type]  # there is one
        return await deaf(1)

    caller = asyncio.create_task(within(60, asyncio.create_task(call())))
    await asyncio.sleep(0.01)
    caller.cancel()
    await asyncio.wait([caller])
    assert caller.cancelled()
    assert inner[0].done()


async def test_results_and_errors_are_passed_on() -> None:
    async def fails() -> None:
        raise LookupError("no")

    assert await within(5, asyncio.create_task(asyncio.sleep(0, "result"))) == "result"
    with pytest.raises(LookupError, match="no"):
        await within(5, asyncio.create_task(fails()))
