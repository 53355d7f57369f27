"""Background tasks end, also where a cancellation is swallowed."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from structlog.testing import capture_logs

from shared_utils import task_end
from shared_utils.task_end import background, completed, end, end_and_log


async def swallowing(times: int) -> None:
    while True:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            times -= 1
            if times < 0:
                raise


async def test_tasks_end_although_a_cancellation_is_swallowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_end, "_CANCEL_AGAIN_SECONDS", 0.01)
    tasks = [asyncio.create_task(swallowing(times)) for times in (0, 2)]
    await asyncio.sleep(0)
    async with asyncio.timeout(20):
        await end(*tasks)
    assert all(task.cancelled() for task in tasks)


async def test_error_of_a_task_stays_in_it() -> None:
    async def failed() -> None:
        raise LookupError

    task = asyncio.create_task(failed())
    await asyncio.sleep(0)
    await end(task)
    with pytest.raises(LookupError):
        await task


async def test_no_task_is_ended_at_once() -> None:
    await end()


async def test_background_work_ends_with_its_block() -> None:
    ended = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.sleep(30)
        finally:
            ended.set()

    async with asyncio.timeout(20):
        async with background(work()):
            await asyncio.sleep(0)
    assert ended.is_set()


async def test_error_of_background_work_is_raised_at_the_end_of_its_block() -> None:
    async def failed() -> None:
        raise LookupError

    with pytest.raises(LookupError):
        async with background(failed()):
            await asyncio.sleep(0)


async def test_a_cancellation_waits_for_the_end_of_work_that_is_to_be_completed() -> None:
    begun, may_end, done = asyncio.Event(), asyncio.Event(), []

    async def work() -> Any:
        begun.set()
        await may_end.wait()
        done.append(1)
        return 5

    caller = asyncio.create_task(completed(work()))
    await begun.wait()
    for _ in range(2):
        caller.cancel()
        await asyncio.sleep(0)
    assert not caller.done()
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert done == [1]
    assert await completed(work()) == 5


async def test_an_error_of_completed_work_is_raised_unless_it_was_cancelled() -> None:
    async def failing() -> None:
        await asyncio.sleep(0)
        raise LookupError

    with pytest.raises(LookupError):
        await completed(failing())
    caller = asyncio.create_task(completed(failing()))
    await asyncio.sleep(0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller


async def test_errors_of_ended_tasks_are_logged_with_their_names() -> None:
    async def failing() -> None:
        raise LookupError("why")

    async def failing_at_its_end() -> None:
        try:
            await asyncio.sleep(30)
        finally:
            raise ValueError("late")

    tasks = [
        asyncio.create_task(failing(), name="early"),
        asyncio.create_task(failing_at_its_end(), name="late"),
        asyncio.create_task(asyncio.sleep(30), name="well"),
    ]
    await asyncio.sleep(0)
    with capture_logs() as logged:
        await end_and_log(*tasks)
    assert {(line["task"], str(line["exc_info"])) for line in logged} == {("early", "why"), ("late", "late")}
    assert {line["event"] for line in logged} == {"background_task_failed"}
