"""One worker at a time does a part; trouble of one part is no other's."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from letta_bridge.vectors import worker as worker_module
from letta_bridge.vectors.port import Step
from letta_bridge.vectors.state import InMemorySyncState
from letta_bridge.vectors.worker import VectorWorker
from shared_utils.llm.embeddings import EmbeddingsUnavailable


class CountingJob:
    """Counts from 1; `errors` are raised first."""

    def __init__(self, name: str, *errors: RuntimeError | EmbeddingsUnavailable) -> None:
        self.name = name
        self.errors = list(errors)
        self.numbers: list[Any] = []
        self.reached = asyncio.Event()

    async def step(self, position: str) -> Step:
        if self.errors:
            raise self.errors.pop(0)
        number = int(position or 0) + 1
        self.numbers.append(number)
        if number >= 5:
            self.reached.set()
            return Step(position, 60.0)
        return Step(str(number))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_module, "_PAUSE_LEAST", 0.001)
    monkeypatch.setattr(worker_module, "_PAUSE_MOST", 0.01)
    monkeypatch.setattr(worker_module, "_LEASE_POLL_SECONDS", 0.001)


async def test_a_part_in_failure_continues_and_holds_up_no_other() -> None:
    away = CountingJob("away", *[EmbeddingsUnavailable("the model is away")] * 3, RuntimeError("a defect"))
    fine = CountingJob("fine")
    state = InMemorySyncState()
    worker = VectorWorker([away, fine], state, "a")
    async with asyncio.timeout(10), worker.running():
        await fine.reached.wait()
        await away.reached.wait()
        assert worker.last_error is None
    assert fine.numbers == away.numbers == [1, 2, 3, 4, 5]


async def test_last_error_is_the_failure_of_a_job() -> None:
    part = CountingJob("away", *[EmbeddingsUnavailable("the model is away")] * 100_000)
    worker = VectorWorker([part], InMemorySyncState(), "a")
    async with asyncio.timeout(10), worker.running():
        while worker.last_error is None:
            await asyncio.sleep(0)
        assert worker.last_error == "the model is away"


async def test_another_bridge_resumes_a_job_where_the_first_left_it() -> None:
    state = InMemorySyncState()
    first, second = CountingJob("one"), CountingJob("one")
    async with asyncio.timeout(10):
        assert await state.claim("one", "a", 60) == ""
        await state.save("one", "a", "3")
        async with VectorWorker([second], state, "b").running():
            await asyncio.sleep(0.02)
            assert second.numbers == []
            await state.leave("one", "a")
            await second.reached.wait()
    assert second.numbers == [4, 5]
    assert first.numbers == []
