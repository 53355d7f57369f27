"""Every way Letta can fail, on the real server: one outcome each, and no message doubled in the agent's history."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from local_stack.fixtures import BridgeFactory, MemoryFactory, ProxyFactory
from local_stack.letta import Letta
from local_stack.models import ScriptedModel

pytestmark = [pytest.mark.acceptance, pytest.mark.letta]


@pytest.fixture
def person(users: Callable[..., Any]) -> Any:
    return users(1)[0]


@pytest.fixture
def talk(observe: Any, person: Any) -> Callable[..., Any]:
    def say(task_id: str, content: str, timeout: float = 90.0) -> Any:
        observe.push(person, task_id, content)
        deadline = time.monotonic() + timeout
        while (reply := observe.reply(person, task_id)) is None:
            assert time.monotonic() < deadline, f"no reply to {task_id} after {timeout} s"
            time.sleep(0.02)
        return reply

    return say


@pytest.mark.parametrize("fault", ["fail:429", "fail:500", "drop"])
def test_transient_model_failure_is_retried(
    talk: Callable[..., Any],
    observe: Any,
    person: Any,
    redis_url: str,
    letta: Letta,
    bridge_factory: BridgeFactory,
    fault: str,
) -> None:
    # Letta itself asks the model three times a turn: three failures are one failed turn.
    bridge_factory(redis_url, letta)
    reply = talk("t1", f"[[{fault} times=3]] 你好")
    assert (reply["source"], reply["response_text"]) == ("letta", "echo: 你好")
    assert len(observe.said(person)[person]) == 1


@pytest.mark.parametrize(
    ("fault", "reason"),
    [("fail:401", "letta_rejected"), ("fail:402", "letta_rejected"), ("empty", "empty_answer")],
)
def test_permanent_failures_fall_back(
    talk: Callable[..., Any],
    observe: Any,
    person: Any,
    redis_url: str,
    letta: Letta,
    bridge_factory: BridgeFactory,
    memory_factory: MemoryFactory,
    fault: str,
    reason: str,
) -> None:
    bridge_factory(redis_url, letta)
    memory_factory(redis_url)
    talk("t0", "hello")
    reply = talk("t1", f"[[{fault}]] 你好")
    assert (reply["source"], reply["fallback_reason"]) == ("memory-python", reason)
    talk("t2", "next")
    said = observe.said(person)[person]
    assert len(said) == len(set(said)) == 3


def test_a_failure_after_a_tool_step_doubles_neither_message_nor_memory(
    talk: Callable[..., Any],
    observe: Any,
    person: Any,
    redis_url: str,
    letta: Letta,
    bridge_factory: BridgeFactory,
    memory_factory: MemoryFactory,
) -> None:
    bridge_factory(redis_url, letta)
    memory_factory(redis_url)
    reply = talk("t1", "[[fail-after-tool:429]] 我喜欢乌龙茶")
    assert (reply["source"], reply["fallback_reason"]) == ("memory-python", "empty_answer")
    assert talk("t2", "我喜欢什么?")["response_text"] == "你喜欢乌龙茶。"
    assert len(observe.said(person)[person]) == 2


def test_a_turn_longer_than_the_reply_budget(
    talk: Callable[..., Any],
    observe: Any,
    person: Any,
    redis_url: str,
    letta: Letta,
    bridge_factory: BridgeFactory,
    memory_factory: MemoryFactory,
) -> None:
    bridge_factory(redis_url, letta, REPLY_DEADLINE_SECONDS="6", LETTA_TIMEOUT_SECONDS="2")
    memory_factory(redis_url)
    assert talk("t0", "hello")["source"] == "letta"
    reply = talk("t1", "[[latency:7000]] slow")
    assert (reply["source"], reply["fallback_reason"]) == ("memory-python", "reply_deadline")
    talk("t2", "next")
    said = observe.said(person)[person]  # once: the slow turn may be stored at any moment
    assert len(said) == len(set(said))


def test_a_late_answer_within_the_budget_is_waited_for(
    talk: Callable[..., Any], observe: Any, person: Any, redis_url: str, letta: Letta, bridge_factory: BridgeFactory
) -> None:
    bridge_factory(redis_url, letta, REPLY_DEADLINE_SECONDS="60", LETTA_TIMEOUT_SECONDS="2")
    reply = talk("t1", "[[latency:5000]] slow")
    assert (reply["source"], reply["response_text"]) == ("letta", "echo: slow")
    assert len(observe.said(person)[person]) == 1


def in_flight(model: Any) -> set[Any]:
    """What the model is being asked now."""
    calls = httpx.get(f"{model.base_url}/control/calls").json()["last"]
    return {call["newest"] for call in calls if call["outcome"] == "in flight"}


def test_a_connection_cut_after_the_request_was_sent(
    talk: Callable[..., Any],
    observe: Any,
    person: Any,
    redis_url: str,
    letta: Letta,
    bridge_factory: BridgeFactory,
    tcp_proxy: ProxyFactory,
    scripted_model: ScriptedModel,
) -> None:
    proxy = tcp_proxy(letta.url)
    bridge_factory(redis_url, proxy.url, LETTA_API_KEY=letta.api_key, LETTA_MODEL=letta.model)
    talk("t0", "hello")
    observe.push(person, "t1", "[[latency:3000]] cut")
    deadline = time.monotonic() + 60
    while "[[latency:3000]] cut" not in in_flight(scripted_model):
        assert time.monotonic() < deadline, "Letta does not ask the model"
        time.sleep(0.02)
    proxy.cut()
    observe.wait_for(2)
    assert observe.reply(person, "t1")["response_text"] == "echo: cut"
    assert len(observe.said(person)[person]) == 2


def test_letta_unavailable_and_back(
    talk: Callable[..., Any],
    observe: Any,
    person: Any,
    redis_url: str,
    letta: Letta,
    bridge_factory: BridgeFactory,
    memory_factory: MemoryFactory,
    tcp_proxy: ProxyFactory,
) -> None:
    proxy = tcp_proxy(letta.url)
    bridge = bridge_factory(redis_url, proxy.url, LETTA_API_KEY=letta.api_key, LETTA_MODEL=letta.model)
    memory_factory(redis_url)
    assert talk("t1", "我叫小明")["source"] == "letta"
    proxy.refuse()
    assert talk("t2", "我喜欢乌龙茶")["source"] == "memory-python"
    assert talk("t3", "我的猫叫年糕")["source"] == "memory-python"
    proxy.resume()
    deadline = time.monotonic() + 60
    while "open" in httpx.get(f"{bridge.url}/health").json()["breakers"].values():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert talk("tea", "我喜欢什么?")["response_text"] == "你喜欢乌龙茶。"
    said = observe.said(person)[person]
    assert len(said) == len(set(said))
    assert said[:3] == ["我叫小明", "我喜欢乌龙茶", "我的猫叫年糕"]
    assert observe.client.keys("*:missed:*") == []


def test_a_black_hole_before_letta_ends_in_a_fallback(
    talk: Callable[..., Any],
    redis_url: str,
    letta: Letta,
    bridge_factory: BridgeFactory,
    memory_factory: MemoryFactory,
    tcp_proxy: ProxyFactory,
) -> None:
    proxy = tcp_proxy(letta.url)
    bridge_factory(
        redis_url,
        proxy.url,
        LETTA_API_KEY=letta.api_key,
        LETTA_MODEL=letta.model,
        REPLY_DEADLINE_SECONDS="6",
        LETTA_TIMEOUT_SECONDS="2",
    )
    memory_factory(redis_url)
    assert talk("t0", "hello")["source"] == "letta"
    proxy.blackhole()
    assert talk("t1", "lost")["source"] == "memory-python"


def test_without_letta_and_without_memory_there_is_an_error_reply(
    talk: Callable[..., Any], redis_url: str, bridge_factory: BridgeFactory
) -> None:
    bridge_factory(redis_url, "http://127.0.0.1:9", FALLBACK_TIMEOUT_SECONDS="1", LETTA_RETRY_ATTEMPTS="0")
    reply = talk("t1", "hello")
    assert reply["error"] is True
    assert reply["retryable"] is True
