from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from bridge_bench.errors import WorkerFailed
from bridge_bench.runs import Bench
from bridge_bench.worker_side.tasks import RESPONSES, reply


@pytest.fixture
def publish(bench: Bench) -> Iterator[Callable[..., Any]]:
    with redis.Redis.from_url(bench.harness.valkey.url) as client:
        yield lambda message: client.publish(RESPONSES, message)


def answer(task_id: str, text: str = "hi") -> Any:
    letta = {"messages": [{"message_type": "assistant_message", "content": text}]}
    return reply({"task_id": task_id, "user_id": "ada", "timestamp": 1.0}, json.dumps(letta).encode())


def test_each_task_counts_at_its_first_answer(bench: Bench, publish: Callable[..., Any]) -> None:
    with bench.harness.tap() as tap:
        for task_id in ("t-1", "t-2", "t-1"):
            publish(answer(task_id))
        tap.wait(3)
    times = tap.times()
    assert list(times) == ["t-1", "t-2"]
    assert times["t-1"] <= times["t-2"]


def test_an_answer_in_many_pieces_is_one(bench: Bench, publish: Callable[..., Any]) -> None:
    with bench.harness.tap() as tap:
        for number in range(200):
            publish(answer(f"t-{number}", "x" * 5_000))
        tap.wait(200)
        assert tap.count == 200
    assert len(tap.times()) == 200


def test_error_reply_does_not_count_as_an_answer(bench: Bench, publish: Callable[..., Any]) -> None:
    with bench.harness.tap() as tap:
        publish(json.dumps({"task_id": "t-1", "user_id": "ada", "error": True, "message": "no"}))
        tap.wait(1)
    assert tap.times() == {}


def test_silence_and_a_dead_worker_end_the_waiting(bench: Bench) -> None:
    with bench.harness.tap() as tap:
        with pytest.raises(WorkerFailed, match=r"none for 0\.1 s"):
            tap.wait(1, quiet=0.1)
        with pytest.raises(WorkerFailed, match="ended after 0 of 1"):
            tap.wait(1, lambda: False)
