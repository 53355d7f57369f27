"""The demonstration's verdict, with a producer's own eyes and a stand-in for everything behind the queue."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any, Final, cast

import pytest
import redis

from letta_bridge_client.task import reply_key, stream_key
from local_stack.demo import Demo
from local_stack.stack import Stack

pytestmark = pytest.mark.integration

_HEARD: Final = "Your name is Ada."
_ANSWERS = {
    "What do you know about me?": f"{_HEARD} Your cat is called Mochi.",
    "What did I hear?": f"You heard only this: {_HEARD}",
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


def speak(client: Any, task: dict[str, Any]) -> None:
    """The first sentence of an answer, until an interrupt comes."""
    ids = {"task_id": task["task_id"], "user_id": task["user_id"]}
    event = json.dumps({"seq": 0, **ids, "attempt": 1, "type": "sentence", "text": _HEARD, "speech": _HEARD})
    client.xadd(stream_key("letta_requests", task["user_id"], task["task_id"]), {"event": event}, id="0-1")
    client.publish(f"task_stream:{task['task_id']}", event)
    assert json.loads(client.brpop(["letta_control"], timeout=30)[1])["heard"] == {"seq": 0, "characters": 0}


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
                    if task["meta"].get("stream"):
                        speak(client, task)
                        reply = {**reply, "response_text": _HEARD, "status": "interrupted", "heard_text": _HEARD}
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
        redis_url=redis_url,
        bridge=Part(),
        letta=Part(),
        memories=lambda: 1000,
        leaves_letta_alone=lambda: False,
        slow_model=lambda _pace_ms: nullcontext(),
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
    assert lines[-1] == "All 22 expectations held."
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
    assert any("2 of 22 expectations did not hold" in line for line in lines)


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
