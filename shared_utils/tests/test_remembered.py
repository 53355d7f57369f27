"""An answer that many ask for at once."""

from __future__ import annotations

import asyncio

import pytest

from shared_utils.remembered import Remembered


class Source:
    """Answers 1, 2, 3, … once it is let; counts."""

    def __init__(self) -> None:
        self.asked = 0
        self.may_answer = asyncio.Event()
        self.error: Exception | None = None

    async def ask(self) -> int:
        self.asked += 1
        number = self.asked
        await self.may_answer.wait()
        if self.error is not None:
            raise self.error
        return number


async def test_callers_at_the_same_time_share_one_question_however_long_it_takes() -> None:
    source = Source()
    remembered = Remembered(source.ask, 0)
    callers = [asyncio.create_task(remembered()) for _ in range(20)]
    await asyncio.sleep(0)
    source.may_answer.set()
    assert await asyncio.gather(*callers) == [1] * 20
    assert source.asked == 1
    assert await remembered() == 2


async def test_a_fresh_answer_is_given_again() -> None:
    source = Source()
    source.may_answer.set()
    remembered = Remembered(source.ask, 3600)
    assert [await remembered(), await remembered()] == [1, 1]


async def test_an_error_is_not_remembered() -> None:
    source = Source()
    source.may_answer.set()
    source.error = OSError()
    remembered = Remembered(source.ask, 3600)
    with pytest.raises(OSError):
        await remembered()
    source.error = None
    assert await remembered() == 2


async def test_waiter_of_a_cancelled_call_calls_itself() -> None:
    source = Source()
    remembered = Remembered(source.ask, 0)
    first, second = (asyncio.create_task(remembered()) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    source.may_answer.set()
    assert await second == 2
