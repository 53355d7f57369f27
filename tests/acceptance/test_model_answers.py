"""What users get of a real model's bad habits, and what operators see of an expired key, on real processes."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from local_stack.fixtures import BridgeFactory, MemoryFactory
from local_stack.letta import Letta
from local_stack.models import ScriptedModel
from local_stack.programs import program

pytestmark = [pytest.mark.acceptance, pytest.mark.letta]

CALL = '{"name": "memory_insert", "arguments": {"label": "human", "new_string": "tea"}}'
_NOWHERE = "http://127.0.0.1:9"


@pytest.fixture
def person(users: Callable[..., Any]) -> Any:
    return users(1)[0]


@pytest.fixture
def talk(observe: Any, person: Any) -> Callable[..., Any]:
    def say(task_id: str, content: str, timeout: float = 90.0, **meta: Any) -> Any:
        observe.push(person, task_id, content, meta=meta)
        deadline = time.monotonic() + timeout
        while (reply := observe.reply(person, task_id)) is None:
            assert time.monotonic() < deadline, f"no reply to {task_id} after {timeout} s"
            time.sleep(0.02)
        return reply

    return say


def command(bridge: Any, *arguments: Any) -> Any:
    """What a command says in the environment of a bridge, as JSON."""
    done = subprocess.run(
        [program("letta-bridge"), *arguments, "--json"],
        env=bridge.environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    return json.loads(done.stdout)


def test_letta_passes_on_no_thoughts_and_no_tool_calls(
    talk: Callable[..., Any],
    redis_url: str,
    letta: Letta,
    scripted_model: ScriptedModel,
    bridge_factory: BridgeFactory,
    memory_factory: MemoryFactory,
) -> None:
    # The scripted model says back what it is told.
    bridge_factory(redis_url, letta)
    memory_factory(redis_url)
    thought = talk("t1", "<think>the user greets me</think>\n\nhello")
    assert (thought["source"], thought["response_text"]) == ("letta", "echo: \n\nhello")
    assert (thought["memory_updated"], thought["usage"]["total_tokens"] > 0) == (False, True)
    call = talk("t2", f"noted\n{CALL}")
    assert (call["source"], call["response_text"]) == ("letta", "echo: noted")
    assert talk("t3", "a </think>")["fallback_cause"] == "empty_answer"


def test_a_reply_says_whether_letta_changed_its_memory_and_whether_it_was_cut(
    talk: Callable[..., Any], redis_url: str, letta: Letta, bridge_factory: BridgeFactory
) -> None:
    bridge_factory(redis_url, letta)
    told = talk("t1", "我喜欢乌龙茶")
    assert (told["source"], told["memory_updated"]) == ("letta", True)
    cut = talk("t2", "[[cut]] Once upon a time there was a king")
    assert (cut["source"], cut["truncated"], cut["memory_updated"]) == ("letta", True, False)
    assert "echo: Once upon a time there was a king".startswith(cut["response_text"])
    whole = talk("t3", "hello")
    assert "truncated" not in whole


def test_an_answer_found_later_has_its_tokens(
    talk: Callable[..., Any], redis_url: str, letta: Letta, bridge_factory: BridgeFactory
) -> None:
    bridge_factory(redis_url, letta, REPLY_DEADLINE_SECONDS="60", LETTA_TIMEOUT_SECONDS="2")
    reply = talk("t1", "[[latency:5000]] slow")
    assert (reply["source"], reply["response_text"]) == ("letta", "echo: slow")
    assert reply["usage"]["total_tokens"] > reply["usage"]["completion_tokens"] > 0


def test_memory_python_passes_on_no_thoughts_and_no_tool_calls(
    talk: Callable[..., Any],
    redis_url: str,
    scripted_model: ScriptedModel,
    bridge_factory: BridgeFactory,
    memory_factory: MemoryFactory,
) -> None:
    bridge_factory(redis_url, _NOWHERE)
    memory_factory(redis_url, scripted_model.access)
    assert talk("t1", "<think>the user greets me</think>hello")["response_text"] == "echo: hello"
    assert talk("t2", f"noted\n{CALL}")["response_text"] == "echo: noted"
    cut = talk("t3", "[[cut]] Once upon a time there was a king")
    assert (cut["source"], cut["truncated"]) == ("memory-python", True)
    assert talk("t4", "a </think>")["canned"] is True


def test_an_expired_key_is_reported_by_reply_status_health_and_doctor(
    talk: Callable[..., Any],
    redis_url: str,
    letta: Letta,
    scripted_model: ScriptedModel,
    bridge_factory: BridgeFactory,
    memory_factory: MemoryFactory,
) -> None:
    memory = memory_factory(redis_url, scripted_model.access)
    bridge = bridge_factory(redis_url, letta, MEMORY_PYTHON_URL=memory.url)
    assert talk("t0", "hello")["source"] == "letta"
    health = httpx.get(f"{bridge.url}/health").json()
    assert health["checks"]["answers"] == "ok"
    dial = httpx.put(f"{scripted_model.base_url}/control/faults", json={"action": "fail", "status": 401})
    assert dial.is_success
    try:
        for number in range(1, 5):
            reply = talk(f"t{number}", "hello?")
            assert (reply["fallback_reason"], reply["fallback_cause"], reply["canned"]) == (
                "letta_rejected",
                "model_credentials",
                True,
            )
        health = httpx.get(f"{bridge.url}/health").json()
        readyz = httpx.get(f"{bridge.url}/readyz")
        recent = command(bridge, "status")["recent"]
        findings = {finding["subject"]: finding for finding in command(bridge, "doctor")["findings"]}
    finally:
        httpx.delete(f"{scripted_model.base_url}/control/faults")
    assert (health["status"], readyz.status_code) == ("degraded", 200)
    assert "4 of 5 turns" in health["checks"]["answers"]
    assert (
        "mostly because the provider refuses the key of Letta's model (model_credentials)"
        in health["checks"]["answers"]
    )
    assert "give Letta a valid key" in health["checks"]["answers"]
    assert (recent["by_agent"], recent["fell_back"], recent["canned"]) == (1, 4, 4)
    assert recent["causes"] == {"model_credentials": 4}
    assert (findings["answers"]["level"], "OPENAI_API_KEY" in findings["answers"]["advice"]) == ("FAIL", True)
    assert findings["memory-python.ready"]["level"] == "WARN"
    assert "the provider refuses the key" in findings["memory-python.ready"]["says"]
