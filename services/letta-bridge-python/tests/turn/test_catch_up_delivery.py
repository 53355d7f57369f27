"""What a user's agents have been told, over fallbacks, retries, kills and personas: each turn once, and no hole."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from letta_bridge.errors import LettaRejected, OutcomeUnknown
from letta_bridge.letta import AgentSpec, TurnAnswer, TurnMessage
from letta_bridge.request_queue.lease_clock import clock
from letta_bridge.request_queue.missed_turns import MissedTurn
from letta_bridge.testing.letta import echo
from letta_bridge.turn.lease import TurnLease
from shared_utils.contracts.messages import dump

if TYPE_CHECKING:
    from letta_bridge_tests.conftest import Rig

pytestmark = pytest.mark.virtual_time

QUICK = {"reply_deadline_seconds": 0.25, "timeout_seconds": 0.1, "retry_attempts": 0}
TWO_PERSONAS: dict[str, Any] = {"personas": {"default": {}, "doctor": {}}}
REFUSED = LettaRejected("the key is wrong", cause="letta_credentials")


async def heard(rig: Any, persona: str = "default", user: str = "ada") -> list[tuple[str, str]]:
    """Everything in the persona's agent after its system prompt, as (role, content)."""
    agent = rig.store.sessions[user, persona].agent_id
    history = await rig.letta.history(agent)
    return [(entry["message_type"].removesuffix("_message"), entry["content"]) for entry in history[1:]]


async def said(rig: Rig, persona: str = "default") -> list[str]:
    return [content for role, content in await heard(rig, persona) if role == "user"]


async def answered_by_memory(rig: Rig, task_id: str, content: str, **fields: Any) -> None:
    """A turn that Letta refuses, without ever having had it."""
    rig.letta.fail_next(REFUSED)
    rig.push(task_id, content=content, **fields)
    await rig.work_off()
    assert rig.kept(task_id=task_id)["source"] == "memory-python"


async def test_repeated_task_does_not_clear_later_missed_turns(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(letta=QUICK)
    rig.push("t0", content="zero")
    await rig.work_off()
    rig.fallback.down = True
    with rig.letta.held() as hold:
        rig.push("t1", content="one")
        await rig.work_off()
        assert rig.kept(task_id="t1")["retryable"] is True
        hold.release()
        await rig.letta.idle()
    rig.fallback.down = False
    await answered_by_memory(rig, "t2", "two: I am allergic to nuts")
    rig.push("t1", content="one")
    await rig.work_off()
    assert rig.kept(task_id="t1")["response_text"] == "echo: one"
    assert len(rig.shelf.missed["ada"]) == 1
    rig.push("t3", content="three")
    await rig.work_off()
    assert await said(rig) == ["zero", "one", "two: I am allergic to nuts", "three"]
    assert rig.shelf.missed == {}


async def test_stored_dead_letter_clears_only_the_missed_turns_that_it_carried(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(queue={"max_deliveries": 1})
    rig.push("t0", content="zero")
    await rig.work_off()
    await answered_by_memory(rig, "a", "missed before")
    rig.push("t1", content="one")
    (turn,) = (await rig.queue("dying").settle_and_fetch([], 1)).turns
    await rig.processor(rig.queue("dying")).process(turn, TurnLease(30, clock()))  # killed before it settled
    rig.time += rig.settings.queue.lease_seconds + 1
    await rig.work_off()
    assert json.loads(rig.shelf.dead[0][0])["code"] == "too_many_deliveries"
    await answered_by_memory(rig, "b", "missed later")
    letter = json.loads(rig.shelf.dead[0][0])
    retried = {**rig.kept(task_id="t1"), "retryable": True}
    rig.shelf.kept["ada", "t1"] = json.dumps(retried).encode()
    rig.push("t1", content="one")
    await rig.work_off()
    assert rig.kept(task_id="t1")["response_text"] == "echo: one"
    assert rig.kept(task_id="t1")["idempotency_key"] == letter["idempotency_key"]
    assert [json.loads(record)["content"] for record in rig.shelf.missed["ada"]] == ["missed later"]
    rig.push("t2", content="two")
    await rig.work_off()
    assert await said(rig) == ["zero", "missed before", "one", "missed later", "two"]


async def test_catch_up_sent_by_a_killed_bridge_is_not_repeated_by_the_next_turn(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(queue={"max_deliveries": 1})
    rig.push("t0", content="zero")
    await rig.work_off()
    await answered_by_memory(rig, "a", "missed")
    rig.push("t1", content="one")
    (turn,) = (await rig.queue("dying").settle_and_fetch([], 1)).turns
    await rig.processor(rig.queue("dying")).process(turn, TurnLease(30, clock()))
    rig.time += rig.settings.queue.lease_seconds + 1
    rig.push("t2", content="two")
    await rig.work_off()
    assert await said(rig) == ["zero", "missed", "one", "two"]
    assert rig.shelf.missed == {}


@pytest.mark.parametrize("stored", [True, False])
async def test_missed_turns_carried_by_a_turn_in_doubt_are_in_doubt(make_rig: Callable[..., Rig], stored: bool) -> None:
    rig = make_rig(letta={**QUICK, "previous_turn_timeout_seconds": 0.001})
    rig.push("t0", content="zero")
    await rig.work_off()
    await answered_by_memory(rig, "a", "missed before")
    with rig.letta.held() as hold:
        rig.push("t1", content="lost")
        await rig.work_off()
    if stored:
        hold.release()
        await rig.letta.idle()
    await answered_by_memory(rig, "b", "missed later")
    rig.letta._hold = None
    rig.push("t2", content="two")
    await rig.work_off()
    hold.release()
    await rig.letta.idle()
    messages = await said(rig)
    assert [messages.count(text) for text in ("missed before", "lost", "missed later", "two")] == [1, 1, 1, 1]
    assert rig.shelf.missed == {}


async def test_catch_up_is_not_repeated_after_an_empty_answer(make_rig: Callable[..., Rig]) -> None:
    """The agent stored everything and said nothing: memory-python's answer to it is still to be told."""
    rig = make_rig()
    rig.push("t0", content="zero")
    await rig.work_off()
    await answered_by_memory(rig, "a", "missed")
    rig.letta._answer = lambda _agent, _messages: TurnAnswer("")
    rig.push("t1", content="one")
    await rig.work_off()
    rig.letta._answer = echo
    assert len(rig.shelf.missed["ada"]) == 1
    rig.push("t2", content="two")
    await rig.work_off()
    assert await said(rig) == ["zero", "missed", "one", "two"]
    assert ("assistant", "short: one") in await heard(rig)


async def test_catch_up_settled_by_two_bridges_is_sent_once(rig: Rig) -> None:
    rig.push("t0", content="zero")
    await rig.work_off()
    await answered_by_memory(rig, "a", "missed")
    rig.push("t1", content="one")
    slow = rig.queue("slow")
    (turn,) = (await slow.settle_and_fetch([], 1)).turns
    late = await rig.processor(slow).process(turn, TurnLease(30, clock()))
    rig.time += rig.settings.queue.lease_seconds + 1
    await rig.work_off()
    assert (await slow.settle_and_fetch([late], 0)).settled == [False]
    rig.push("t2", content="two")
    await rig.work_off()
    assert await said(rig) == ["zero", "missed", "one", "two"]


async def test_catch_up_is_not_repeated_after_redis_lost_its_settlement(rig: Rig) -> None:
    rig.push("t0", content="zero")
    await rig.work_off()
    await answered_by_memory(rig, "a", "missed")
    before = list(rig.shelf.missed["ada"])
    rig.push("t1", content="one")
    await rig.work_off()
    rig.shelf.missed["ada"] = before  # a failover lost the last second of writes
    rig.push("t2", content="two")
    await rig.work_off()
    assert await said(rig) == ["zero", "missed", "one", "two"]
    assert rig.shelf.missed == {}


async def test_missed_turns_beyond_the_bound_are_counted(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(queue={"max_missed_per_user": 2})
    rig.push("t0", content="zero")
    await rig.work_off()
    for number in range(4):
        await answered_by_memory(rig, f"m{number}", f"missed {number}")
    assert rig.shelf.counters["missed_dropped"] == 2
    rig.push("t1", content="one")
    await rig.work_off()
    assert await said(rig) == ["zero", "missed 2", "missed 3", "one"]


# --- personas


async def test_missed_turns_reach_only_the_agent_of_their_persona(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(agents=TWO_PERSONAS)
    rig.push("a1", content="hello default")
    rig.push("b1", content="hello doctor", meta={"persona": "doctor"})
    await rig.work_off()
    await answered_by_memory(rig, "b2", "a secret for the doctor", meta={"persona": "doctor"})
    rig.push("a2", content="next to default")
    await rig.work_off()
    assert len(rig.shelf.missed["ada"]) == 1
    rig.push("b3", content="next to doctor", meta={"persona": "doctor"})
    await rig.work_off()
    assert await said(rig) == ["hello default", "next to default"]
    assert await said(rig, "doctor") == ["hello doctor", "a secret for the doctor", "next to doctor"]
    assert rig.shelf.missed == {}


async def test_a_turn_still_running_is_waited_for_by_its_own_persona(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(
        agents=TWO_PERSONAS, letta={"reply_deadline_seconds": 2, "timeout_seconds": 0.02, "retry_attempts": 0}
    )
    rig.push("a1", content="hello default")
    rig.push("b1", content="hello doctor", meta={"persona": "doctor"})
    await rig.work_off()
    with rig.letta.held() as hold:
        rig.push("b2", content="slow doctor", meta={"persona": "doctor"})
        await rig.work_off()
        rig.letta._hold = None
        rig.push("a2", content="to default")
        async with asyncio.timeout(20):
            await rig.work_off()  # does not wait for the other persona's turn
        rig.push("b3", content="to doctor again", meta={"persona": "doctor"})
        working = asyncio.create_task(rig.work_off())
        for _ in range(200):
            await asyncio.sleep(0)
        assert len(rig.letta.sent) == 4
        hold.release()
        await working
    assert rig.letta.overlaps == []
    assert await said(rig, "doctor") == ["hello doctor", "slow doctor", "to doctor again"]


async def test_a_removed_persona_keeps_its_turns_to_itself(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(agents=TWO_PERSONAS)
    rig.push("a1", content="hello default")
    rig.push("b1", content="hello doctor", meta={"persona": "doctor"})
    await rig.work_off()
    await answered_by_memory(rig, "b2", "a secret for the doctor", meta={"persona": "doctor"})
    rig.settings.agents.personas.pop("doctor")
    rig.push("a2", content="to a persona that is gone", meta={"persona": "doctor"})
    await rig.work_off()
    assert await said(rig) == ["hello default", "to a persona that is gone"]
    assert len(rig.shelf.missed["ada"]) == 1


def record_of_previous_release(content: str, **fields: Any) -> Any:
    turn = {"task_id": "old", "content": content, "response_text": f"short: {content}", "timestamp": 1.0, **fields}
    return json.dumps(turn, ensure_ascii=False).encode()


async def test_an_old_record_without_an_agent_is_the_default_personas(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(agents=TWO_PERSONAS)
    rig.shelf.missed["ada"] = [record_of_previous_release("said before the upgrade")]
    rig.push("b1", content="hello doctor", meta={"persona": "doctor"})
    rig.push("a1", content="hello default")
    await rig.work_off()
    assert await said(rig, "doctor") == ["hello doctor"]
    assert await said(rig) == ["said before the upgrade", "hello default"]
    assert rig.shelf.missed == {}


async def test_an_old_record_with_an_agent_is_its_personas(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(agents=TWO_PERSONAS)
    rig.push("a1", content="hello default")
    rig.push("b1", content="hello doctor", meta={"persona": "doctor"})
    await rig.work_off()
    doctor = rig.store.sessions["ada", "doctor"].agent_id
    rig.shelf.missed["ada"] = [record_of_previous_release("secret", agent_id=doctor)]
    rig.push("a2", content="next to default")
    await rig.work_off()
    assert len(rig.shelf.missed["ada"]) == 1
    rig.push("b2", content="next to doctor", meta={"persona": "doctor"})
    await rig.work_off()
    assert await said(rig) == ["hello default", "next to default"]
    assert await said(rig, "doctor") == ["hello doctor", "secret", "next to doctor"]


async def test_an_old_record_of_an_agent_that_is_gone_is_the_default_personas(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(agents=TWO_PERSONAS)
    gone = (await rig.letta.create_agent(AgentSpec("n", ("bridge",), "m", None, "letta_v1_agent", (), ()))).agent_id
    await rig.letta.delete_agent(gone)
    rig.shelf.missed["ada"] = [record_of_previous_release("to a former agent", agent_id=gone)]
    rig.push("b1", content="hello doctor", meta={"persona": "doctor"})
    await rig.work_off()
    rig.push("a1", content="hello default")
    await rig.work_off()
    assert await said(rig, "doctor") == ["hello doctor"]
    assert await said(rig) == ["to a former agent", "hello default"]


async def test_catch_up_of_the_previous_release_in_a_lost_turn_is_not_repeated(make_rig: Callable[..., Rig]) -> None:
    """It told of a missed turn under that turn's own otid, in the run of the turn it sent."""
    rig = make_rig()
    rig.push("t0", content="zero")
    await rig.work_off()
    agent: Any = rig.store.sessions["ada", "default"].agent_id
    first = MissedTurn(task_id="m1", content="missed", response_text="short: missed", timestamp=1.0, agent_id=agent)
    later = MissedTurn(
        task_id="m2", content="lost", response_text="short: lost", timestamp=2.0, agent_id=agent, fate="unknown"
    )
    old: list[dict[str, Any]] = [
        {"role": "user", "content": "missed", "otid": first.otids(agent).own},
        {"role": "assistant", "content": "short: missed", "otid": "x"},
        {"role": "user", "content": "lost", "otid": later.otids(agent).own},
    ]
    await rig.letta.send(agent, [TurnMessage(**message) for message in old], timeout=5)
    rig.shelf.missed["ada"] = [dump(first), dump(later)]
    rig.push("t1", content="one")
    await rig.work_off()
    assert await said(rig) == ["zero", "missed", "lost", "one"]
    assert [content for _, content in await heard(rig)].count("short: missed") == 1
    assert rig.shelf.missed == {}


# --- canned sentences


async def test_a_canned_sentence_is_no_answer(rig: Rig) -> None:
    rig.push("t0", content="zero")
    await rig.work_off()
    rig.fallback.canned = True
    await answered_by_memory(rig, "t1", "I like tea")
    assert rig.kept(task_id="t1")["canned"] is True
    rig.push("t2", content="two")
    await rig.work_off()
    assert await heard(rig) == [
        ("user", "zero"),
        ("assistant", "echo: zero"),
        ("user", "I like tea"),
        ("user", "two"),
        ("assistant", "echo: two"),
    ]
    assert rig.shelf.missed == {}


@pytest.mark.parametrize("foreign", [True, False])
async def test_an_unmarked_canned_sentence_is_known_by_its_words(make_rig: Callable[..., Rig], foreign: bool) -> None:
    rig = make_rig(fallback={"canned_sentences": ["short: I like tea"]})
    rig.fallback.foreign = foreign
    rig.push("t0", content="zero")
    await rig.work_off()
    await answered_by_memory(rig, "t1", "I like tea")
    rig.push("t2", content="two")
    await rig.work_off()
    assert "short: I like tea" not in [content for _, content in await heard(rig)]
    assert "I like tea" in await said(rig)
    assert rig.kept(task_id="t1")["canned"] is True


async def test_a_canned_answer_to_a_stored_turn_leaves_nothing_to_tell(rig: Rig) -> None:
    rig.push("t0", content="zero")
    await rig.work_off()
    rig.fallback.canned = True
    rig.letta.fail_next(OutcomeUnknown(cause="server_error"), stored="message")
    rig.push("t1", content="one")
    await rig.work_off()
    assert rig.fallback.answered == [("t1", "empty_answer")]
    assert rig.kept(task_id="t1")["canned"] is True
    assert rig.shelf.missed == {}


async def test_fallback_reply_has_a_reason_and_a_cause(rig: Rig) -> None:
    rig.fallback.foreign = True
    rig.push("t0", content="zero")
    await rig.work_off()
    await answered_by_memory(rig, "t1", "one")
    reply = rig.kept(task_id="t1")
    assert (reply["fallback_reason"], reply["fallback_cause"]) == ("letta_rejected", "letta_credentials")
