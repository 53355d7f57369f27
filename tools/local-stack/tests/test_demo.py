"""The demonstration's verdict, with a producer's own eyes and a stand-in for everything behind the queue."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest
import redis

from letta_bridge_client.task import reply_key
from local_stack.demo import Demo
from local_stack.stack import Stack

pytestmark = pytest.mark.integration

_ANSWERS = {
    "What is my name?": "Your name is Ada.",
    "我叫什么名字?": "你叫小明。",
    "What do I like?": "You like oolong tea.",
    "我喜欢什么?": "你喜欢围棋。",
    "What is my cat called?": "Your cat is called Mochi.",
    "我的狗叫什么?": "你的狗叫豆豆。",
}


class Part:
    """A process that is killed and started on paper; it notes both."""

    url = "http://127.0.0.1:1"

    def __init__(self) -> None:
        self.up = True
        self.deaths = 0

    @property
    def pid(self) -> int:
        return 1

    def kill(self) -> None:
        self.up = False
        self.deaths += 1

    def start(self) -> None:
        self.up = True

    def wait_ready(self) -> None:
        assert self.up


@contextmanager
def answering(redis_url: str, answer: Callable[[str], dict[str, Any]]) -> Iterator[None]:
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        over = threading.Event()

        def serve() -> None:
            while not over.is_set():
                if taken := client.brpop(["letta_requests"], timeout=0.1):
                    task = json.loads(taken[1])
                    task_id, user_id = task["task_id"], task["user_id"]
                    reply = {"task_id": task_id, "user_id": user_id, **answer(task["content"])}
                    client.set(reply_key("letta_requests", user_id, task_id), json.dumps(reply))
                    client.publish(f"task_response:{task_id}", json.dumps({"text": "", "source": reply["source"]}))

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


@pytest.fixture
def stack(redis_url: str) -> SimpleNamespace:
    return SimpleNamespace(
        redis_url=redis_url, bridge=Part(), letta=Part(), memories=lambda: 1000, leaves_letta_alone=lambda: False
    )


@pytest.fixture
def answer(stack: SimpleNamespace) -> Callable[[str], dict[str, Any]]:
    def answer(text: str) -> dict[str, Any]:
        source = "letta" if stack.letta.up else "memory-python"
        return {"response_text": _ANSWERS.get(text, f"Noted: {text}"), "source": source}

    return answer


def test_holds_when_every_user_behaves(stack: SimpleNamespace, answer: Callable[[str], dict[str, Any]]) -> None:
    lines: list[str] = []
    with answering(stack.redis_url, answer):
        assert Demo(cast("Stack", stack), lines.append).run()
    assert (stack.bridge.deaths, stack.letta.deaths) == (1, 1)
    assert lines[-1] == "All 19 expectations held."
    assert any("小明" in line for line in lines)


@pytest.mark.parametrize(
    ("fault", "complaint"),
    [
        ({"response_text": "I do not know that yet."}, "expected 'Ada'"),
        ({"source": "memory-python"}, "answered by memory-python, expected letta"),
        ({"response_text": ""}, "an empty reply"),
        ({"error": True, "message": "boom"}, "an error reply"),
    ],
)
def test_demo_names_broken_promises(
    stack: SimpleNamespace, answer: Callable[[str], dict[str, Any]], fault: dict[str, Any], complaint: str
) -> None:
    def faulty(text: str) -> dict[str, Any]:
        return answer(text) | (fault if text == "What is my name?" else {})

    lines: list[str] = []
    demo = Demo(cast("Stack", stack), lines.append)
    with answering(stack.redis_url, faulty):
        assert not demo.run()
    assert len(demo.failures) == 2  # asked twice
    assert complaint in demo.failures[0]
    assert any("2 of 19 expectations did not hold" in line for line in lines)


def test_a_fact_short_term_memory_holds_still_proves_nothing(
    stack: SimpleNamespace, answer: Callable[[str], dict[str, Any]]
) -> None:
    lines: list[str] = []
    demo = Demo(cast("Stack", stack), lines.append)
    with redis.Redis.from_url(stack.redis_url) as client:
        client.lpush("memory:user_sessions:demo-Ada", json.dumps({"content": "My cat is called Mochi."}))
    with answering(stack.redis_url, answer):
        assert not demo.run()
    assert demo.failures == ["Mochi is in short-term memory still"]
