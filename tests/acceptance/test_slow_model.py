"""A model that outlasts every limit, on a real server: nothing is in an agent twice, missing, or out of context."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from letta_bridge.letta.letta_client import LettaClient
from local_stack.fixtures import BridgeFactory, MemoryFactory
from local_stack.letta import Letta
from local_stack.models import ScriptedModel

pytestmark = [pytest.mark.acceptance, pytest.mark.letta]

LIMITS = {
    "REPLY_DEADLINE_SECONDS": "6",
    "LETTA_TIMEOUT_SECONDS": "3",
    "LETTA_BRIDGE_LETTA_PREVIOUS_TURN_TIMEOUT_SECONDS": "1",
    "FALLBACK_TIMEOUT_SECONDS": "10",
}
"""Of the bridge, all of them shorter than a call of the model. Of the deadline Letta has two thirds."""


@pytest.fixture
def person(users: Callable[..., Any]) -> Any:
    return users(1)[0]


@pytest.fixture
def server(letta: Letta) -> Iterator[Any]:
    with httpx.Client(base_url=letta.url, headers={"Authorization": f"Bearer {letta.api_key}"}, timeout=30) as client:
        yield client


@pytest.fixture
def agent(letta: Letta) -> Callable[..., Any]:
    """Looks into the agent of a user."""

    async def find(user: str) -> Any:
        client = LettaClient(letta.url, api_key=letta.api_key)
        try:
            (found,) = await client.find_agents(["bridge", f"user:{user}"])
            return found.agent_id, await client.history(found.agent_id)
        finally:
            await client.close()

    return lambda user: asyncio.run(find(user))


def in_context(server: Any, agent_id: str, history: Any) -> Any:
    """What the user says in the agent's context, in order."""
    response = server.get(f"/v1/agents/{agent_id}")
    response.raise_for_status()
    known = set(response.json()["message_ids"])
    return said([entry for entry in history if entry["id"] in known])


def wait_until(condition: Any, timeout: float = 120.0) -> Any:
    deadline = time.monotonic() + timeout
    while not (result := condition()):
        assert time.monotonic() < deadline, "it does not come true"
        time.sleep(0.1)
    return result


def runs(server: Any, agent_id: str) -> Any:
    response = server.get("/v1/runs/", params={"agent_id": agent_id, "limit": 100})
    response.raise_for_status()
    return response.json()


def at_rest(server: Any, agent_id: str) -> bool:
    """Whether no run goes on; a cancelled one goes on until it has stored its turn, and is completed then."""
    return not any(run["status"] in {"created", "running", "cancelled"} for run in runs(server, agent_id))


def said(history: Any) -> list[Any]:
    """What the user says in the agent's history, in order. Quotations and Letta's own events are JSON."""
    texts = [str(entry["content"]) for entry in history if entry["message_type"] == "user_message"]
    return [text for text in texts if not text.startswith("{")]


def quoted(history: Any) -> list[Any]:
    quotations = [json.loads(entry["content"]) for entry in history if str(entry["content"]).startswith('{"quoted')]
    return [quotation["quoted_user_message"] for quotation in quotations]


def test_quick_messages_to_a_slow_model_are_each_in_the_agent_once_and_in_its_context(
    *,
    observe: Any,
    person: Any,
    server: Any,
    agent: Callable[..., Any],
    redis_url: str,
    letta: Letta,
    bridge_factory: BridgeFactory,
    memory_factory: MemoryFactory,
) -> None:
    bridge_factory(redis_url, letta, **LIMITS)
    memory_factory(redis_url)
    observe.push(person, "t0", "hello")
    observe.wait_for(1)
    slow = [f"[[latency:20000]] message {number}" for number in range(3)]
    for number, content in enumerate(slow):
        observe.push(person, f"t{number + 1}", content)
    reasons = [reply.get("fallback_reason") for reply in observe.wait_for(4)]
    assert reasons == [None, "reply_deadline", "earlier_turn_running", "earlier_turn_running"]
    agent_id, _ = agent(person)
    assert [run["status"] for run in runs(server, agent_id)] == ["created", "completed"], "nothing runs beside it"
    wait_until(lambda: at_rest(server, agent_id))
    observe.push(person, "t9", "last")
    observe.wait_for(5)
    _, history = agent(person)
    assert said(history) == in_context(server, agent_id, history) == ["hello", *slow, "last"]
    assert quoted(history) == []
    assert observe.client.keys("*:missed:*") == []


def test_messages_to_a_model_taken_for_dead_are_each_in_the_agent_once(
    *,
    observe: Any,
    person: Any,
    server: Any,
    agent: Callable[..., Any],
    redis_url: str,
    letta: Letta,
    bridge_factory: BridgeFactory,
    memory_factory: MemoryFactory,
) -> None:
    """Runs of so slow a model look like those that a killed server left behind, and are cancelled."""
    bridge_factory(redis_url, letta, **LIMITS, LETTA_BRIDGE_LETTA_RUN_LIFETIME_SECONDS="1")
    memory_factory(redis_url)
    observe.push(person, "t0", "hello")
    observe.wait_for(1)
    slow = [f"[[latency:20000]] message {number}" for number in range(3)]
    for number, content in enumerate(slow):
        observe.push(person, f"t{number + 1}", content)
    observe.wait_for(4)
    agent_id, _ = agent(person)
    labelled = [run["request_config"]["assistant_message_tool_kwarg"] for run in runs(server, agent_id)]
    assert len(labelled) == len(set(labelled)), "no turn is sent twice"
    wait_until(lambda: at_rest(server, agent_id))
    observe.push(person, "t9", "last")
    observe.wait_for(5)
    _, history = agent(person)
    assert sorted(said(history)) == sorted(["hello", *slow, "last"])
    assert set(quoted(history)) <= set(slow)
    assert observe.client.keys("*:missed:*") == []


def test_a_turn_that_an_operator_cancelled_is_not_sent_again(
    *,
    observe: Any,
    person: Any,
    server: Any,
    agent: Callable[..., Any],
    redis_url: str,
    letta: Letta,
    bridge_factory: BridgeFactory,
    memory_factory: MemoryFactory,
) -> None:
    bridge_factory(redis_url, letta, **LIMITS | {"REPLY_DEADLINE_SECONDS": "60"})
    memory_factory(redis_url)
    observe.push(person, "t0", "hello")
    observe.wait_for(1)
    agent_id, _ = agent(person)
    slow = "[[latency:15000]] slow"
    observe.push(person, "t1", slow)
    active = wait_until(lambda: [run["id"] for run in runs(server, agent_id) if run["status"] == "created"])
    server.post(f"/v1/agents/{agent_id}/messages/cancel", json={"run_ids": active}).raise_for_status()
    reply = observe.wait_for(2)[-1]
    assert (reply["source"], reply["fallback_reason"]) == ("memory-python", "turn_interrupted")
    observe.push(person, "t2", "next")
    observe.wait_for(3)
    wait_until(lambda: at_rest(server, agent_id))
    _, history = agent(person)
    assert sorted(said(history)) == sorted(["hello", slow, "next"])
    assert quoted(history) == [slow]
    notes = [entry["content"] for entry in history if entry["message_type"] == "system_message"][1:]
    assert len(notes) == 1
    assert "slow" not in notes[0]


def test_a_task_id_used_again_is_a_new_task_on_the_real_server_too(
    *,
    observe: Any,
    person: Any,
    agent: Callable[..., Any],
    redis_url: str,
    letta: Letta,
    bridge_factory: BridgeFactory,
    scripted_model: ScriptedModel,
) -> None:
    bridge_factory(redis_url, letta, REPLY_TTL_SECONDS="1")
    observe.push(person, "1", "first use")
    observe.wait_for(1)
    wait_until(lambda: observe.reply(person, "1") is None)
    httpx.put(f"{scripted_model.base_url}/control/faults", json={"action": "fail", "next": 3}).raise_for_status()
    try:
        observe.push(person, "1", "second use")
        reply = observe.wait_for(2)[-1]
    finally:
        httpx.delete(f"{scripted_model.base_url}/control/faults")
    assert reply["response_text"] == "echo: second use"
    _, history = agent(person)
    assert said(history) == ["first use", "second use"]
