"""One task, one outcome, whatever goes wrong; over the shipped fakes."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs

from letta_bridge.errors import EmptyAnswer, LettaRejected, LettaUnavailable, OutcomeUnknown, OutOfResources
from letta_bridge.journal.record import read_entry
from letta_bridge.letta import BreakerState, TurnAnswer, Usage
from letta_bridge.letta.port import SoughtTurn
from letta_bridge.request_queue.journal_backlog import JournalEntry
from letta_bridge.request_queue.lease_clock import clock
from letta_bridge.testing.letta import echo
from letta_bridge.turn import settlements
from letta_bridge.turn.lease import TurnLease
from letta_bridge.turn.uploads import user_folder
from shared_utils.persistence.choices.port import Choice, user_key
from shared_utils.persistence.sessions.port import Session

if TYPE_CHECKING:
    from letta_bridge_tests.conftest import Rig
pytestmark = pytest.mark.virtual_time


async def test_a_task_is_answered_by_its_users_agent(rig: Rig) -> None:
    rig.push(content="你好", meta={"memory_type": "permanent"})
    await rig.work_off()
    (reply,) = rig.replies()
    assert (
        reply.items()
        >= {
            "task_id": "t1",
            "user_id": "ada",
            "response_text": "echo: 你好",
            "memory_updated": False,
            "source": "letta",
            "status": "ok",
            "attempts": 1,
        }.items()
    )
    assert reply["agent_id"] == rig.store.sessions["ada", "default"].agent_id
    assert ("task_response:t1", b'{"text":"echo: \xe4\xbd\xa0\xe5\xa5\xbd","source":"letta"}') in rig.shelf.published
    assert rig.outcomes() == {"letta": 1}


@pytest.mark.parametrize(
    ("content", "meta", "human"),
    [
        ("I like tea", {}, "What I know about this user so far:"),
        ("我喜欢茶", {}, "关于这位用户,我目前知道的:"),
        ("我喜欢茶", {"lang": "en"}, "What I know about this user so far:"),
        ("I like tea", {"lang": ""}, "What I know about this user so far:"),
        ("お茶が好きです", {}, "What I know about this user so far:"),
        ("🍵 !!", {}, "关于这位用户,我目前知道的:"),
    ],
)
async def test_new_agent_speaks_the_language_of_the_first_message(
    rig: Any, content: str, meta: dict[str, Any], human: Any
) -> None:
    rig.push(content=content, meta=meta)
    await rig.work_off()
    agent_id = rig.store.sessions["ada", "default"].agent_id
    assert (await rig.letta.contents(agent_id)).blocks["human"] == human


async def test_a_repeated_task_gets_the_kept_reply_and_no_second_turn(rig: Rig) -> None:
    rig.push()
    rig.push()
    await rig.work_off()
    first, second = rig.replies()
    assert first == second
    assert await rig.said_to_agents() == {"ada": ["hi"]}
    assert rig.outcomes() == {"letta": 1, "repeated": 1}


@pytest.mark.parametrize("damaged", [b"\x00\xff damaged", b"[]", b'{"response_text":"cut o', b"{}"])
async def test_a_kept_reply_that_is_none_is_not_published_and_the_task_is_answered(rig: Rig, damaged: bytes) -> None:
    rig.shelf.kept["ada", "t1"] = damaged
    rig.push()
    await rig.work_off()
    [reply] = rig.replies()
    assert reply["response_text"] == "echo: hi"
    assert rig.kept()["response_text"] == "echo: hi"
    assert rig.outcomes() == {"letta": 1}


async def test_another_users_same_task_id_gets_a_turn_of_its_own(rig: Rig) -> None:
    rig.push(user="ada", content="secret")
    rig.push(user="bo", content="other")
    await rig.work_off()
    assert {reply["user_id"]: reply["response_text"] for reply in rig.replies()} == {
        "ada": "echo: secret",
        "bo": "echo: other",
    }


async def test_an_error_that_may_pass_is_tried_again_when_the_task_is_repeated(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(letta={"fallback_to_memory": False, "retry_attempts": 0})
    rig.letta.down = True
    rig.push()
    await rig.work_off()
    assert rig.kept()["retryable"] is True
    rig.letta.down = False
    rig.push()
    await rig.work_off()
    assert [reply.get("error", False) for reply in rig.replies()] == [True, False]
    assert await rig.said_to_agents() == {"ada": ["hi"]}


async def test_a_task_without_an_id_is_answered_too(rig: Rig) -> None:
    rig.shelf.push(b'{"content":"hi"}')
    await rig.work_off()
    (reply,) = rig.replies()
    assert reply["user_id"] == "anonymous"
    assert reply["task_id"].startswith("letta_requests-")


@pytest.mark.parametrize(
    "error",
    [
        LettaUnavailable(),
        LettaUnavailable(busy=True),
        OutcomeUnknown(cause="timeout"),
        OutcomeUnknown(cause="connection_lost"),
        OutcomeUnknown(cause="rate_limited"),
        OutcomeUnknown(cause="server_error"),
    ],
    ids=lambda error: getattr(error, "cause", error.code),
)
async def test_a_passing_failure_is_sent_again(rig: Rig, error: LettaUnavailable | OutcomeUnknown) -> None:
    rig.push()
    rig.letta.fail_next(error, stored="nothing")
    await rig.work_off()
    (reply,) = rig.replies()
    assert reply["source"] == "letta"
    assert await rig.said_to_agents() == {"ada": ["hi"]}


@pytest.mark.parametrize("cause", ["timeout", "connection_lost", "rate_limited", "server_error"])
async def test_an_answer_lost_on_its_way_is_found_and_not_sent_for_again(rig: Rig, cause: str) -> None:
    rig.push()
    rig.letta.fail_next(OutcomeUnknown(cause=cause), stored="answer")
    await rig.work_off()
    (reply,) = rig.replies()
    assert (reply["source"], reply["response_text"]) == ("letta", "echo: hi")
    assert await rig.said_to_agents() == {"ada": ["hi"]}


@pytest.mark.parametrize("updated", [True, False])
async def test_a_reply_says_whether_memory_was_updated(rig: Rig, updated: bool) -> None:
    rig.letta._answer = lambda _agent, _messages: TurnAnswer("noted", memory_updated=updated)
    rig.push()
    await rig.work_off()
    assert rig.kept()["memory_updated"] is updated


async def test_an_answer_found_later_has_its_tokens_and_counts_them(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(limits={"user_tokens": {"soft": 42}})
    rig.letta._answer = lambda _agent, _messages: TurnAnswer("once", "max_tokens_exceeded", Usage(40, 2, 42, 1))
    rig.push()
    rig.letta.fail_next(OutcomeUnknown(cause="timeout"), stored="answer")
    await rig.work_off()
    assert rig.kept()["usage"] == {"prompt_tokens": 40, "completion_tokens": 2, "total_tokens": 42}
    assert rig.kept()["truncated"] is True
    rig.push("t2")
    await rig.work_off()
    assert rig.kept(task_id="t2")["source"] == "memory-python"


async def test_found_answer_without_known_tokens_has_no_usage(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    async def unknown(_run_id: str) -> None:
        raise LettaUnavailable

    monkeypatch.setattr(rig.letta, "run_end", unknown)
    rig.push()
    rig.letta.fail_next(OutcomeUnknown(cause="timeout"), stored="answer")
    await rig.work_off()
    assert rig.kept()["source"] == "letta"
    assert "usage" not in rig.kept()


async def test_a_text_cut_at_the_length_limit_is_marked(rig: Rig) -> None:
    rig.letta._answer = lambda _agent, _messages: TurnAnswer("Once upon", "max_tokens_exceeded")
    rig.push()
    await rig.work_off()
    rig.push()
    await rig.work_off()
    first, again = rig.replies()
    assert first["truncated"] is again["truncated"] is True
    told = [json.loads(body) for channel, body in rig.shelf.published if channel == "task_response:t1"]
    assert told == [{"text": "Once upon", "source": "letta", "truncated": True}] * 2


@pytest.mark.parametrize(
    ("stop_reason", "cause"),
    [
        ("end_turn", "empty_answer"),
        ("max_tokens_exceeded", "length_limit"),
        ("context_window_overflow_in_system_prompt", "context_overflow"),
    ],
)
async def test_a_silent_answer_says_why(rig: Rig, stop_reason: str, cause: str) -> None:
    rig.fallback.foreign = True
    rig.letta._answer = lambda _agent, _messages: TurnAnswer("", stop_reason)
    rig.push()
    await rig.work_off()
    assert (rig.kept()["fallback_reason"], rig.kept()["fallback_cause"]) == ("empty_answer", cause)


async def test_a_turn_stored_half_way_falls_back_and_is_not_repeated(rig: Rig) -> None:
    rig.push()
    rig.letta.fail_next(OutcomeUnknown(cause="rate_limited"), stored="message")
    await rig.work_off()
    (reply,) = [rig.kept()]
    assert (reply["source"], reply["response_text"]) == ("memory-python", "short: hi")
    assert await rig.said_to_agents() == {"ada": ["hi"]}


@pytest.mark.parametrize(
    "cause", ["bad_request", "letta_credentials", "model_credentials", "insufficient_credits", "context_overflow"]
)
async def test_turn_with_a_permanent_refusal_is_not_sent_again(rig: Rig, cause: str) -> None:
    rig.push()
    rig.letta.fail_next(LettaRejected(cause=cause))
    rig.letta.fail_next(LettaRejected(cause="must not be reached"))
    await rig.work_off()
    assert rig.kept()["source"] == "memory-python"
    assert len(rig.letta.sent) <= 1


async def test_an_answer_without_text_falls_back(rig: Rig) -> None:
    rig.letta._answer = lambda _agent, _messages: ""
    rig.push()
    await rig.work_off()
    assert rig.fallback.answered == [("t1", EmptyAnswer.code)]


async def test_deleted_agent_is_replaced_by_tags_or_by_a_new_agent(rig: Any) -> None:
    rig.push("t1")
    await rig.work_off()
    agent = rig.store.sessions["ada", "default"].agent_id
    await rig.letta.delete_agent(agent)
    rig.push("t2")
    await rig.work_off()
    assert [reply["source"] for reply in rig.replies()] == ["letta", "letta"]
    assert rig.store.sessions["ada", "default"].agent_id != agent


async def test_missed_turns_reach_the_agent_once_in_order_with_the_next_turn(rig: Rig) -> None:
    rig.push("t1", content="first")
    await rig.work_off()
    rig.letta.down = True
    rig.push("t2", content="second")
    rig.push("t3", content="third")
    await rig.work_off()
    rig.letta_comes_back()
    rig.push("t4", content="fourth")
    await rig.work_off()
    rig.push("t5", content="fifth")
    await rig.work_off()
    assert await rig.said_to_agents() == {"ada": ["first", "second", "third", "fourth", "fifth"]}
    _agent, told = rig.letta.sent[-2]
    assert [(message.role, message.content) for message in told] == [
        ("user", "second"),
        ("assistant", "short: second"),
        ("user", "third"),
        ("assistant", "short: third"),
        ("user", "fourth"),
    ]
    assert rig.shelf.missed == {}


async def test_turn_stored_after_its_fallback_is_not_sent_twice(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(letta={"reply_deadline_seconds": 0.05, "timeout_seconds": 0.02})
    rig.push("t0", content="zero")
    await rig.work_off()
    with rig.letta.held() as hold:
        rig.push("t1", content="slow")
        await rig.work_off()
        assert rig.kept(task_id="t1")["source"] == "memory-python"
        hold.release()
        await rig.letta.idle()
    rig.push("t2", content="next")
    await rig.work_off()
    assert await rig.said_to_agents() == {"ada": ["zero", "slow", "next"]}
    assert rig.letta.overlaps == []


@pytest.mark.parametrize("fallback", [True, False])
@pytest.mark.parametrize("way", ["late", "silent"])
async def test_catch_up_of_a_turn_with_a_lost_answer_is_not_repeated(
    make_rig: Callable[..., Rig], way: str, fallback: bool
) -> None:
    rig = make_rig(letta={"reply_deadline_seconds": 0.05, "timeout_seconds": 0.02, "retry_attempts": 0})
    rig.push("t0", content="zero")
    await rig.work_off()
    rig.letta.down = True
    rig.push("t1", content="one")
    await rig.work_off()
    rig.letta_comes_back()
    rig.fallback.down = not fallback
    with rig.letta.held() if way == "late" else contextlib.nullcontext() as hold:
        if way == "silent":
            rig.letta._answer = lambda _agent, _messages: ""
        rig.push("t2", content="two")  # goes to Letta with what was missed, and nobody hears an answer
        await rig.work_off()
        if hold is not None:
            hold.release()
        await rig.letta.idle()
    rig.letta._answer = echo
    rig.fallback.down = False
    rig.push("t3", content="three")
    await rig.work_off()
    assert await rig.said_to_agents() == {"ada": ["zero", "one", "two", "three"]}
    assert rig.shelf.missed == {}


async def test_a_note_that_the_model_repeats_reaches_no_user(rig: Rig) -> None:
    rig.letta._answer = lambda _agent, messages: f"{messages[0].content}\nYou like tea." if len(messages) > 1 else ""
    rig.push("t1", content="one")  # stored without an answer, so the next turn brings a note and memory-python's answer
    await rig.work_off()
    rig.push("t2", content="two")
    await rig.work_off()
    assert [rig.kept(task_id=f"t{number}")["source"] for number in (1, 2)] == ["memory-python", "letta"]
    assert rig.kept(task_id="t2")["response_text"] == "You like tea."


async def test_the_next_turn_waits_for_one_still_running(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(letta={"reply_deadline_seconds": 2, "timeout_seconds": 0.02, "retry_attempts": 0})
    rig.push("t0", content="zero")
    await rig.work_off()
    with rig.letta.held() as hold:
        rig.push("t1", content="slow")
        await rig.work_off()
        rig.push("t2", content="next")
        task = asyncio.create_task(rig.work_off())
        await asyncio.sleep(0.05)
        assert len(rig.letta.sent) == 2
        hold.release()
        await task
    assert await rig.said_to_agents() == {"ada": ["zero", "slow", "next"]}
    assert rig.letta.overlaps == []


async def test_temporary_tasks_never_reach_the_agent(rig: Rig) -> None:
    rig.push("t1", meta={"memory_type": "temporary"})
    rig.push("t2")
    await rig.work_off()
    assert rig.kept(task_id="t1")["source"] == "memory-python"
    assert await rig.said_to_agents() == {"ada": ["hi"]}
    assert [len(messages) for _, messages in rig.letta.sent] == [1]


async def test_letta_switched_off_leaves_everything_to_memory(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(letta={"enabled": False})
    rig.push()
    await rig.work_off()
    assert rig.fallback.answered == [("t1", "letta_disabled")]
    assert len(rig.shelf.missed["ada"]) == 1


async def test_opted_out_user_is_answered_by_memory_python(rig: Rig) -> None:
    await rig.store.merge([Session("ada", "default", metadata={"permanent_memory": False})])
    rig.push()
    await rig.work_off()
    assert rig.fallback.answered == [("t1", "user_switch")]
    assert rig.letta.sent == []
    assert rig.shelf.missed == {}


async def test_an_opt_in_at_another_bridge_applies_with_the_next_hand_out_although_the_session_is_cached(
    rig: Rig,
) -> None:
    reserved = await rig.store.reserve("ada", "default")
    opted_out = await rig.store.save(replace(reserved, metadata={"permanent_memory": False}))
    rig.push("t1")
    await rig.work_off()
    assert rig.fallback.answered == [("t1", "user_switch")]
    # The other bridge writes both replicas; this bridge's cache of sessions does not know yet.
    await rig.store.save(replace(opted_out, metadata={"permanent_memory": True}))
    await rig.shared_choices.choose(Choice(user_key("ada"), permanent_memory=True, chosen_ms=0))
    rig.push("t2")
    await rig.work_off()
    assert len(rig.letta.sent) == 1


async def test_words_pushed_in_private_stay_private_when_redis_hands_them_out_again_after_an_opt_in(rig: Rig) -> None:
    await rig.consent.replicas.reconcile()
    await rig.consent.choose("ada", permanent_memory=False)
    rig.push("t1", content="in private")
    replica = rig.shelf.requests.copy()
    await rig.work_off()
    assert rig.fallback.answered == [("t1", "user_switch")]
    rig.time += 60
    await rig.consent.choose("ada", permanent_memory=True)
    rig.shelf.kept.clear()  # Redis loses the settlement, and the task is in the request list again
    rig.shelf.requests.extend(replica)
    await rig.consent.choose("ada", permanent_memory=False)
    await rig.consent.choose("ada", permanent_memory=True)
    rig.push("t2", content="aloud")
    await rig.work_off()
    assert rig.fallback.answered == [("t1", "user_switch")] * 2
    assert await rig.said_to_agents() == {"ada": ["aloud"]}
    assert [len(messages) for _, messages in rig.letta.sent] == [1]


async def test_words_pushed_in_private_that_waited_in_their_lane_stay_private_after_an_opt_in(rig: Rig) -> None:
    await rig.consent.replicas.reconcile()
    await rig.consent.choose("ada", permanent_memory=False)
    rig.push("t1", content="in private")
    rig.push("t2", content="in private, too")
    dead = rig.queue("killed")
    assert [turn.seq for turn in (await dead.settle_and_fetch([], 1)).turns]  # in flight at a bridge that is killed
    await rig.consent.choose("ada", permanent_memory=True)
    rig.time += 60
    rig.push("t3", content="aloud")
    await rig.work_off()
    assert rig.fallback.answered == [("t1", "user_switch"), ("t2", "user_switch")]
    assert await rig.said_to_agents() == {"ada": ["aloud"]}


async def test_an_opt_out_of_a_previous_release_after_an_opt_in_holds_while_the_session_store_is_unavailable(
    rig: Rig,
) -> None:
    await rig.shared_choices.choose(Choice(user_key("ada"), permanent_memory=True, chosen_ms=0))
    reserved = await rig.store.reserve("ada", "default")
    await rig.store.save(replace(reserved, metadata={"permanent_memory": False}))
    for task_id in ("t1", "t2"):
        rig.push(task_id)
        await rig.work_off()
        rig.store.broken = True
    assert rig.fallback.answered == [("t1", "user_switch"), ("t2", "user_switch")]
    assert rig.letta.sent == []


async def test_audio_without_text_goes_to_memory(rig: Rig) -> None:
    rig.push(type="audio", content="", input_file="voice.wav")
    await rig.work_off()
    assert rig.fallback.answered == [("t1", "audio")]


async def test_without_fallback_an_error_reply_names_the_cause(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(letta={"fallback_to_memory": False})
    rig.push()
    rig.letta.fail_next(LettaRejected("the key is wrong", cause="letta_credentials"))
    await rig.work_off()
    (reply,) = rig.replies()
    assert reply.items() >= {"error": True, "source": "letta_bridge", "code": "letta_rejected"}.items()
    assert reply["message"] == "the key is wrong"
    assert json.loads(dict(rig.shelf.published)["task_response:t1"]) == {
        "text": "the key is wrong",
        "source": "letta_bridge",
        "error": True,
        "user_id": "ada",
        "code": "letta_rejected",
        "retryable": False,
    }


async def test_without_fallback_a_turn_waits_for_the_breaker(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(letta={"fallback_to_memory": False, "retry_attempts": 9})
    rig.letta.down = True
    rig.push()
    working = asyncio.create_task(rig.work_off())
    async with asyncio.timeout(20):
        while not any(state.value == "open" for state in rig.servers.states().values()):
            await asyncio.sleep(0)
    rig.letta_comes_back()
    await asyncio.wait_for(working, 20)
    assert [reply["source"] for reply in rig.replies()] == ["letta"]


async def test_turn_interrupted_by_a_letta_crash_is_caught_up_as_a_quotation(rig: Any) -> None:
    rig.push("t0", content="zero")
    await rig.work_off()
    rig.letta.fail_next(OutcomeUnknown(cause="connection_lost"))
    find, looks = rig.letta.find_turns, []

    async def refused_then_a_run_left_behind(agent_id: str, sought: list[SoughtTurn], **how: float | None) -> Any:
        looks.append(sought)
        if len(looks) == 1:
            raise LettaUnavailable(refused=True)
        if len(looks) == 2:
            rig.letta.leave_run(agent_id, sought[0].otid)
        return await find(agent_id, sought, **how)

    rig.letta.find_turns = refused_then_a_run_left_behind
    rig.push("t1", content="one")
    await rig.work_off()
    assert rig.kept(task_id="t1")["source"] == "memory-python"
    assert rig.fallback.answered == [("t1", "turn_interrupted")]
    rig.push("t2", content="two")
    await rig.work_off()
    assert await rig.said_to_agents() == {"ada": ["zero", '{"quoted_user_message": "one"}', "two"]}
    _agent, told = rig.letta.sent[-1]
    assert [message.role for message in told] == ["system", "user", "assistant", "user"]


async def test_turn_kept_from_letta_by_an_open_breaker_is_no_message_of_the_session(rig: Rig) -> None:
    rig.push("t0", content="zero")
    await rig.work_off()
    rig.letta.down = True
    while rig.servers.available():
        rig.push("down", user="bo", content="counts for the breaker")
        await rig.work_off()
    await rig.sessions.touch_used()
    before = rig.store.sessions["ada", "default"].message_count
    rig.push("t1", content="kept from Letta")
    await rig.work_off()
    await rig.sessions.touch_used()
    assert rig.fallback.answered[-1] == ("t1", "breaker_open")
    assert rig.store.sessions["ada", "default"].message_count == before


async def test_with_memory_unavailable_too_there_is_an_error_reply(rig: Rig) -> None:
    rig.letta.down = True
    rig.fallback.down = True
    rig.push()
    await rig.work_off()
    assert rig.kept().items() >= {"error": True, "code": "breaker_open", "retryable": True}.items()
    assert rig.outcomes() == {"error": 1}


async def test_foreign_memory_answer_is_published_by_the_bridge(rig: Rig) -> None:
    rig.letta.down = True
    rig.fallback.foreign = True
    rig.push()
    await rig.work_off()
    (reply,) = rig.replies()
    assert reply.items() >= {"source": "memory-python", "memory_updated": False, "response_text": "short: hi"}.items()
    told = [json.loads(text) for channel, text in rig.shelf.published if channel == "task_response:t1"]
    assert told == [{"text": "short: hi"}]


async def test_our_memorys_answer_is_kept_but_not_published_twice(rig: Rig) -> None:
    rig.letta.down = True
    rig.push()
    await rig.work_off()
    assert rig.replies() == []
    assert rig.kept()["source"] == "memory-python"


async def test_unavailable_session_store_does_not_stop_turns(rig: Rig) -> None:
    rig.store.broken = True
    rig.push("t1")
    rig.push("t2")
    await rig.work_off()
    assert [reply["source"] for reply in rig.replies()] == ["letta", "letta"]
    assert len(await rig.letta.find_agents(["user:ada"])) == 1


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (b"not json", "malformed"),
        (b"[]", "malformed"),
        (b'{"task_id":"x","content":true}', "malformed"),
        (b'{"task_id":"x","content":[{"type":"image_url"}]}', "malformed"),
        (b'{"task_id":"x","user_id":"half \\ud83d","content":"hi"}', "malformed"),
        (b'{"task_id":"x","content":"   "}', "empty_content"),
        (b'{"task_id":"x"}', "empty_content"),
        (b'{"task_id":"x","input_file":"../../etc/passwd"}', "upload_refused"),
    ],
)
async def test_unprocessable_task_becomes_a_dead_letter(rig: Rig, payload: bytes, code: str) -> None:
    rig.shelf.push(payload)
    await rig.work_off()
    ((reason, kept),) = rig.shelf.dead
    assert json.loads(reason)["code"] == code
    assert kept == payload
    if b"task_id" in payload:
        assert rig.replies()[0]["code"] == code


HALF = b"\\ud83d"


@pytest.mark.parametrize(
    "payload",
    [
        b'{"task_id":"t1","user_id":"ada","content":"hi %s"}' % HALF,
        b'{"task_id":"t1","user_id":"ada","content":"hi","source":"%s","timestamp":"%s"}' % (HALF, HALF),
        b'{"task_id":"t1","user_id":"ada","content":"hi","type":"%s","input_file":"%s"}' % (HALF, HALF),
        b'{"task_id":"t1","user_id":"ada","content":"hi","%s":["%s"]}' % (HALF, HALF),
        b'{"task_id":"t1","user_id":"ada","content":"hi","meta":{"lang":"%s","persona":"%s"}}' % (HALF, HALF),
        b'{"task_id":"t1","user_id":"ada","content":"hi \xff"}',
        b'{"task_id":"t1","user_id":"ada","content":"hi\\u0000"}',
        b'\xef\xbb\xbf{"task_id":"t1","user_id":"ada","content":"hi"}',
        b'{"task_id":"t1","user_id":"ada","content":"hi","meta":[]}',
        b'{"task_id":"t1","user_id":"ada","content":[{"type":"text","text":"hi"}]}',
    ],
    ids=ascii,
)  # fmt: skip
@pytest.mark.parametrize("letta_is_down", [False, True])
async def test_text_that_is_not_utf8_is_answered_journalled_and_caught_up(
    make_rig: Callable[..., Rig], payload: bytes, letta_is_down: bool
) -> None:
    rig = make_rig(database={"db_url": "postgresql://127.0.0.1/none"})
    rig.letta.down = letta_is_down
    rig.fallback.foreign = True
    rig.shelf.push(payload)
    await rig.work_off()
    (reply,) = rig.replies()
    assert (reply["task_id"], reply["source"]) == ("t1", "memory-python" if letta_is_down else "letta")
    assert not rig.shelf.dead
    ((entry, said, answer),) = rig.shelf.journal
    assert read_entry(JournalEntry(entry, said, answer)).messages[0].content.startswith("hi")
    rig.letta_comes_back()
    rig.push("t2")
    await rig.work_off()
    assert [reply["source"] for reply in rig.replies()][1:] == ["letta"]


@pytest.mark.parametrize("user_id", [1234567890123456789, -(2**63), 2**53])
async def test_a_platforms_large_user_numbers_have_an_agent_each(rig: Any, user_id: Any) -> None:
    rig.push("t1", user=user_id)
    rig.push("t2", user=user_id + 1)
    rig.push("t3", user=str(user_id))
    await rig.work_off()
    assert {reply["task_id"]: reply["user_id"] for reply in rig.replies()} == {
        "t1": str(user_id),
        "t2": str(user_id + 1),
        "t3": str(user_id),
    }
    assert len(await rig.letta.find_agents([f"user:{user_id}"])) == 1


async def test_a_task_handed_out_in_vain_too_often_is_a_dead_letter(rig: Rig) -> None:
    rig.push()
    queue = rig.queue("dying")
    for _ in range(rig.settings.queue.max_deliveries):
        assert (await queue.settle_and_fetch([], 1)).turns
        rig.time += rig.settings.queue.lease_seconds + 1
    await rig.work_off()
    assert json.loads(rig.shelf.dead[0][0])["code"] == "too_many_deliveries"
    assert rig.replies()[0]["error"] is True


@pytest.mark.parametrize(
    "ids", [{"user_id": "ada", "task_id": "t1"}, {"user_id": 7, "task_id": 7}, {}, {"user_id": "ada"}, {"task_id": 7}]
)
async def test_a_retried_dead_letter_is_sent_to_letta_once(make_rig: Callable[..., Rig], ids: dict[str, Any]) -> None:
    """Its bridge was killed after the agent had answered, and it must not be handed out again."""
    rig = make_rig(queue={"max_deliveries": 1})
    rig.shelf.push(json.dumps({"content": "remember this", **ids}).encode())
    dying = rig.queue("dying")
    (turn,) = (await dying.settle_and_fetch([], 1)).turns
    await rig.processor().process(turn, TurnLease(30, clock()))
    rig.time += rig.settings.queue.lease_seconds + 1
    await rig.work_off()
    assert rig.outcomes() == {"dead": 1}
    assert rig.shelf.retry(0) == turn.lane
    await rig.work_off()
    assert rig.outcomes() == {"dead": 1, "letta": 1}
    assert list((await rig.said_to_agents()).values()) == [["remember this"]]


async def test_a_defect_in_the_bridge_costs_one_task_and_no_more(rig: Any) -> None:
    def explode(*_: Any) -> None:
        raise RuntimeError("boom")

    rig.push("t1", user="ada")
    rig.sessions.persona = explode
    await rig.work_off()
    assert json.loads(rig.shelf.dead[0][0])["code"] == "internal"


def explode(*_: Any, **__: Any) -> None:
    raise ZeroDivisionError


@pytest.mark.parametrize("where", ["Job.missed_turn", "message_processor.journalled"])
async def test_a_defect_behind_the_answer_of_memory_python_leaves_the_turn_answered(
    make_rig: Any, monkeypatch: pytest.MonkeyPatch, where: Any
) -> None:
    rig = make_rig(database={"db_url": "postgresql://h/d"})
    rig.letta.down = True
    rig.push("t1", user="ada")
    module = "letta_bridge.turn.job" if where.startswith("Job") else "letta_bridge.turn"
    monkeypatch.setattr(f"{module}.{where}", explode)
    with capture_logs() as logged:
        await rig.work_off()
    assert rig.outcomes() == {"memory": 1}
    assert rig.kept()["response_text"] == "short: hi"
    assert "turn_failed" in {line["event"] for line in logged}
    assert rig.shelf.dead == []


async def test_a_defect_while_memory_python_answers_leaves_the_turn_answered_by_it(
    rig: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = rig.fallback.answer

    async def answered_and_broken(task: Any, number: Any, *arguments: Any, **options: Any) -> None:
        rig.fallback.given[number] = await answer(task, number, *arguments, **options)
        raise ZeroDivisionError

    monkeypatch.setattr(rig.fallback, "answer", answered_and_broken)
    rig.letta.down = True
    rig.push("t1", user="ada")
    await rig.work_off()
    assert rig.outcomes() == {"memory": 1}
    assert rig.shelf.dead == []


async def test_a_defect_before_memory_python_has_answered_forbids_its_answer(
    rig: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def handed_over_and_broken(task: Any, number: Any, *_: Any, **__: Any) -> None:
        rig.fallback.handed[number] = task
        raise ZeroDivisionError

    monkeypatch.setattr(rig.fallback, "answer", handed_over_and_broken)
    rig.letta.down = True
    rig.push("t1", user="ada")
    await rig.work_off()
    assert rig.outcomes() == {"dead": 1}
    assert len(rig.fallback.withdrawn) == 1


async def test_a_defect_in_every_look_at_an_answered_turn_is_a_dead_letter(
    rig: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rig.fallback, "answer", explode)
    monkeypatch.setattr(rig.fallback, "withdraw", explode)
    rig.letta.down = True
    rig.push("t1", user="ada")
    rig.push("t2", user="bob")
    await rig.work_off()
    assert rig.outcomes() == {"dead": 2}


@pytest.mark.parametrize("where", ["limiter.Limiter.spent", "journalled"])
async def test_a_defect_behind_the_answer_of_an_agent_leaves_the_turn_answered(
    make_rig: Any, monkeypatch: pytest.MonkeyPatch, where: Any
) -> None:
    rig = make_rig(database={"db_url": "postgresql://h/d"})
    rig.letta._answer = lambda _agent, _messages: TurnAnswer("hello", usage=Usage(40, 2, 42, 1))
    rig.push("t1", user="ada")
    place = "limits" if where.startswith("limiter") else "turn.message_processor"
    monkeypatch.setattr(f"letta_bridge.{place}.{where}", explode)
    with capture_logs() as logged:
        await rig.work_off()
    assert rig.outcomes() == {"letta": 1}
    assert "turn_failed" in {line["event"] for line in logged}


async def lack_resources(rig: Rig, *, turns: int = 1) -> None:
    """A bridge that has no resources left for the next turns."""
    handed_out = (await rig.queue("exhausted").settle_and_fetch([], turns)).turns
    assert len(handed_out) == turns
    for turn in handed_out:
        with pytest.raises(OutOfResources):
            await rig.processor().process(turn, TurnLease(30, clock()))
    rig.time += rig.settings.queue.lease_seconds + 1


@pytest.mark.parametrize(
    "error",
    [MemoryError(), OSError(errno.EMFILE, "Too many open files"), RuntimeError("can't start new thread")],
    ids=["memory", "descriptors", "threads"],
)
async def test_a_host_without_resources_leaves_the_turn_to_its_lease(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, error: Any
) -> None:
    def fail(*_: Any) -> None:
        raise error

    rig.push("t1", user="ada", content="你好")
    with monkeypatch.context() as patched:
        patched.setattr(rig.sessions, "persona", fail)
        await lack_resources(rig)
    await rig.work_off()
    assert rig.outcomes() == {"letta": 1}
    assert await rig.said_to_agents() == {"ada": ["你好"]}


async def test_a_host_without_resources_that_has_sent_the_turn_sends_it_once(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise MemoryError

    rig.push("t1", user="ada", content="你好")
    with monkeypatch.context() as patched:
        patched.setattr(settlements, "by_letta", fail)
        await lack_resources(rig)
    await rig.work_off()
    assert rig.outcomes() == {"letta": 1}
    assert await rig.said_to_agents() == {"ada": ["你好"]}


@pytest.mark.parametrize("fallback", [True, False], ids=["fallback", "no fallback"])
async def test_a_host_that_cannot_open_a_connection_to_letta_blames_neither_letta_nor_the_task(
    make_rig: Callable[..., Rig], fallback: bool
) -> None:
    rig = make_rig(letta={"fallback_to_memory": fallback, "retry_attempts": 0})
    for number in range(10):
        rig.push(f"t{number}", user=f"u{number}", content="你好")
        error = LettaUnavailable()
        error.__cause__ = OSError(errno.EMFILE, "Too many open files")
        rig.letta.fail_next(error)
    await lack_resources(rig, turns=10)
    assert rig.fallback.answered == []
    assert rig.servers.pick("u0").breaker.state is BreakerState.CLOSED
    await rig.work_off()
    assert rig.outcomes() == {"letta": 10}


async def test_second_hand_out_distinguishes_a_lost_upload_from_a_missing_descriptor(
    make_rig: Callable[..., Rig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = make_rig(letta={"retry_attempts": 0})
    uploads = tmp_path / "uploads" / user_folder("ada")
    uploads.mkdir(parents=True)
    (uploads / "note.txt").write_text("留言", encoding="utf-8")

    def fail(*_: Any, **__: Any) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    rig.push("t0", user="ada", content="你好")
    await rig.work_off()
    rig.push("t1", user="ada", content="", input_file="note.txt")
    with monkeypatch.context() as patched:
        patched.setattr("letta_bridge.turn.uploads._content", fail)
        await lack_resources(rig)
        await lack_resources(rig)
    await rig.work_off()
    assert rig.outcomes() == {"letta": 2}
    assert await rig.said_to_agents() == {"ada": ["你好", "留言"]}


async def test_an_upload_that_no_descriptor_is_left_for_is_read_later(
    rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uploads = tmp_path / "uploads" / user_folder("ada")
    uploads.mkdir(parents=True)
    (uploads / "note.txt").write_text("留言", encoding="utf-8")

    def fail(*_: Any, **__: Any) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    rig.push("t1", user="ada", content="", input_file="note.txt")
    with monkeypatch.context() as patched:
        patched.setattr("letta_bridge.turn.uploads._content", fail)
        await lack_resources(rig)
    await rig.work_off()
    assert await rig.said_to_agents() == {"ada": ["留言"]}


async def test_an_upload_is_read_inside_its_users_folder_only(rig: Rig, tmp_path: Path) -> None:
    uploads = tmp_path / "uploads" / user_folder("ada")
    uploads.mkdir(parents=True)
    (uploads / "note.txt").write_text("留言", encoding="utf-8")
    (tmp_path / "secret.txt").write_text("secret", encoding="utf-8")
    (uploads / "link.txt").symlink_to(tmp_path / "secret.txt")
    (uploads / "big.txt").write_bytes(b"x" * (rig.settings.uploads.max_bytes + 1))
    (uploads / "image.png").write_bytes(b"\x89PNG\xff")
    rig.push("good", content="", input_file="note.txt")
    for name in ("link.txt", "big.txt", "image.png", "", "..", "missing", str(tmp_path / "secret.txt"), "a\0b"):
        rig.push(f"bad-{name}", content="", input_file=name)
    await rig.work_off()
    assert await rig.said_to_agents() == {"ada": ["留言"]}
    assert rig.outcomes() == {"letta": 1, "dead": 8}


async def test_content_comes_before_the_file(rig: Rig) -> None:
    rig.push(content="text", input_file="../secret.txt")
    await rig.work_off()
    assert await rig.said_to_agents() == {"ada": ["text"]}


async def test_a_redelivered_turn_that_was_answered_is_found(rig: Rig) -> None:
    rig.push("t0", content="zero")
    await rig.work_off()
    agent = rig.store.sessions["ada", "default"].agent_id
    rig.push("t1", content="one")
    dying = rig.queue("dying")
    (turn,) = (await dying.settle_and_fetch([], 1)).turns
    await rig.processor().process(turn, TurnLease(30, clock()))
    rig.time += rig.settings.queue.lease_seconds + 1
    await rig.work_off()
    assert await rig.said_to_agents() == {"ada": ["zero", "one"]}
    assert rig.kept(task_id="t1")["attempts"] == 2
    assert rig.kept(task_id="t1")["agent_id"] == agent


async def test_a_redelivered_turn_that_memory_has_already_is_not_sent_to_letta(rig: Rig) -> None:
    rig.letta.down = True
    rig.push("t1")
    dying = rig.queue("dying")
    (turn,) = (await dying.settle_and_fetch([], 1)).turns
    await rig.processor().process(turn, TurnLease(30, clock()))
    rig.letta_comes_back()
    await rig.work_off()
    assert rig.kept()["source"] == "memory-python"
    assert rig.letta.sent == []
    rig.push("t2", content="next")
    await rig.work_off()
    assert await rig.said_to_agents() == {"ada": ["hi", "next"]}


async def test_reasons_and_usage_are_reported(rig: Rig) -> None:
    rig.letta._answer = lambda _agent, _messages: TurnAnswer("hello", usage=Usage(3, 1, 4, 1))
    rig.push()
    await rig.work_off()
    assert rig.kept()["usage"] == {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4}


async def test_an_expired_key_of_the_model_shows_in_the_figures(rig: Rig) -> None:
    rig.fallback.canned = True
    for number in range(3):
        rig.letta.fail_next(LettaRejected(cause="model_credentials"))
        rig.push(f"t{number}")
    rig.push("t9", meta={"memory_type": "temporary"})
    await rig.work_off()
    recent = await rig.queue().recent()
    assert (recent.by_agent, recent.fell_back, recent.by_memory, recent.canned) == (0, 3, 4, 4)
    assert (recent.failed_share, recent.main_cause, recent.in_trouble) == (1.0, "model_credentials", True)


async def test_turns_that_no_agent_was_to_answer_are_no_failures(rig: Rig) -> None:
    rig.push("t1")
    rig.push("t2", meta={"memory_type": "temporary"})
    rig.push("t3", user="bo", content=" ")
    await rig.work_off()
    recent = await rig.queue().recent()
    assert (recent.for_agents, recent.by_agent, recent.by_memory, recent.failed_share) == (1, 1, 1, 0.0)


async def test_turns_with_an_error_are_tallied_with_their_cause(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(letta={"fallback_to_memory": False, "retry_attempts": 0})
    rig.letta.fail_next(LettaRejected(cause="context_overflow"))
    rig.push("t1")
    await rig.work_off()
    recent = await rig.queue().recent()
    assert (recent.unanswered, recent.main_cause) == (1, "context_overflow")
