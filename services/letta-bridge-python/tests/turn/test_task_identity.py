"""A task is found again by what it is, and never mistaken for another one with the same id."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from redis.exceptions import AuthenticationError, ResponseError

from letta_bridge.agents.session_manager import SessionManager
from letta_bridge.errors import FallbackUnavailable, OutcomeUnknown
from letta_bridge.letta import TurnMessage, turn_otid
from letta_bridge.request_queue.lease_clock import clock
from letta_bridge.request_queue.port import HeldChoice, Turn
from letta_bridge.turn import settlements
from letta_bridge.turn.delivery import DeliveryContext
from letta_bridge.turn.lease import TurnLease
from letta_bridge.turn.uploads import user_folder
from shared_utils.contracts.limits import Limits
from shared_utils.contracts.messages import parse_task

if TYPE_CHECKING:
    from letta_bridge_tests.conftest import Rig

pytestmark = pytest.mark.virtual_time

LOST = OutcomeUnknown(cause="connection_lost")
HOPELESS_TRIES = {"reply_deadline_seconds": 0.25, "timeout_seconds": 0.1, "retry_attempts": 0}


async def expire(rig: Rig) -> None:
    """`reply_ttl` is over."""
    rig.shelf.kept.clear()


async def test_an_id_used_again_later_is_a_new_task(rig: Rig) -> None:
    rig.push("1", content="What is my name?")
    await rig.work_off()
    await expire(rig)
    rig.letta.fail_next(LOST)
    rig.push("1", content="My name is now Bob.")
    await rig.work_off()
    assert rig.kept(task_id="1")["response_text"] == "echo: My name is now Bob."
    assert await rig.said_to_agents() == {"ada": ["What is my name?", "My name is now Bob."]}


async def test_an_id_used_again_later_with_the_same_words_is_a_new_task(rig: Rig) -> None:
    for _ in range(2):
        rig.letta.fail_next(LOST)
        rig.push("1", content="hello")
        await rig.work_off()
        await expire(rig)
    assert await rig.said_to_agents() == {"ada": ["hello", "hello"]}


async def test_a_redelivered_task_with_a_used_id_is_sent(rig: Rig) -> None:
    rig.push("1", content="My name is Ada.")
    await rig.work_off()
    await expire(rig)
    rig.push("1", content="I am allergic to nuts.")
    dying = rig.queue("dying")
    assert (await dying.settle_and_fetch([], 1)).turns  # and killed before it sent anything
    rig.time += rig.settings.queue.lease_seconds + 1
    await rig.work_off()
    assert rig.kept(task_id="1")["response_text"] == "echo: I am allergic to nuts."


@pytest.mark.parametrize("second", [{"content": "other"}, {"content": "first", "meta": {"persona": "doctor"}}])
async def test_an_id_used_at_once_for_something_else_is_an_error(rig: Rig, second: dict[str, Any]) -> None:
    rig.push("1", content="first")
    await rig.work_off()
    rig.push("1", **second)
    await rig.work_off()
    first, refused = rig.replies()
    assert refused.items() >= {"error": True, "code": "task_id_reused", "retryable": False, "task_id": "1"}.items()
    assert "new id" in refused["message"]
    assert await rig.said_to_agents() == {"ada": ["first"]}
    assert rig.kept(task_id="1")["response_text"] == first["response_text"] == "echo: first"
    rig.push("1", content="first")
    await rig.work_off()
    assert rig.replies()[-1] == first
    assert rig.outcomes() == {"letta": 1, "error": 1, "repeated": 1}


async def test_id_of_an_unreadable_task_is_refused_for_another_task(rig: Rig) -> None:
    rig.shelf.push(b'{"task_id":"1","user_id":"ada","content":true}')
    await rig.work_off()
    rig.push("1", content="readable")
    await rig.work_off()
    assert [reply["code"] for reply in rig.replies()] == ["malformed", "task_id_reused"]


@pytest.mark.parametrize(
    "other", [b'{"task_id":"1","user_id":"ada","content":true}', b'{"task_id":"1","user_id":"ada"}']
)
async def test_a_dead_letter_does_not_take_the_place_of_an_earlier_tasks_reply(rig: Rig, other: bytes) -> None:
    rig.push("1", content="first")
    await rig.work_off()
    rig.shelf.push(other)
    await rig.work_off()
    assert rig.kept(task_id="1")["response_text"] == "echo: first"
    rig.push("1", content="first")
    await rig.work_off()
    assert rig.replies()[-1]["response_text"] == "echo: first"


async def test_two_users_may_use_one_id(rig: Rig) -> None:
    rig.push("1", user="ada", content="I am Ada.")
    rig.push("1", user="bob", content="I am Bob.")
    await rig.work_off()
    assert rig.kept("ada", "1")["response_text"] == "echo: I am Ada."
    assert rig.kept("bob", "1")["response_text"] == "echo: I am Bob."


async def test_strangers_without_a_name_do_not_get_each_others_answers(rig: Rig) -> None:
    for content in ("I am Ada.", "I am Bob."):
        rig.shelf.push(json.dumps({"task_id": "1", "content": content}).encode())
    await rig.work_off()
    assert [reply.get("code", reply.get("response_text")) for reply in rig.replies()] == [
        "echo: I am Ada.",
        "task_id_reused",
    ]


async def test_published_reply_does_not_contain_the_idempotency_key(rig: Rig) -> None:
    rig.push("1", content="first")
    rig.push("1", content="first")
    await rig.work_off()
    first, repeated = rig.replies()
    assert first == repeated
    assert not first.keys() & {"idempotency_key", "content_digest", "taken_at"}
    assert rig.kept(task_id="1").keys() >= {"idempotency_key", "content_digest", "taken_at"}


async def test_memorys_own_reply_is_kept_with_the_key_too(rig: Rig) -> None:
    rig.letta.down = True
    rig.push("1", content="first")
    rig.push("1", content="second")
    await rig.work_off()
    kept = rig.kept(task_id="1")
    assert kept["response_text"] == "short: first"
    assert [kept["idempotency_key"]] == list(rig.fallback.handed)
    assert rig.replies()[-1]["code"] == "task_id_reused"


async def failed_and_stored_late(rig: Rig, task_id: str = "t1", content: str = "one") -> None:
    """A task that got a retryable error, and whose message Letta stored after that."""
    rig.fallback.down = True
    with rig.letta.held() as hold:
        rig.push(task_id, content=content)
        await rig.work_off()
        assert rig.kept(task_id=task_id)["retryable"] is True
        hold.release()
        await rig.letta.idle()
    rig.fallback.down = False


async def test_a_task_pushed_again_is_found_under_its_first_name(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(letta=HOPELESS_TRIES)
    rig.push("t0", content="zero")
    await rig.work_off()
    await failed_and_stored_late(rig)
    first = rig.kept(task_id="t1")["idempotency_key"]
    rig.push("t1", content="one")
    await rig.work_off()
    assert rig.kept(task_id="t1").items() >= {"response_text": "echo: one", "idempotency_key": first}.items()
    assert await rig.said_to_agents() == {"ada": ["zero", "one"]}


async def test_a_task_pushed_again_and_again_keeps_its_first_name(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(letta=HOPELESS_TRIES)
    rig.push("t0", content="zero")
    await rig.work_off()
    await failed_and_stored_late(rig)
    rig.fallback.down = rig.letta.down = True
    for _ in range(2):
        rig.push("t1", content="one")
        await rig.work_off()
        assert rig.kept(task_id="t1")["retryable"] is True
    rig.fallback.down = False
    rig.letta_comes_back()
    rig.push("t1", content="one")
    await rig.work_off()
    assert rig.kept(task_id="t1")["response_text"] == "echo: one"
    assert await rig.said_to_agents() == {"ada": ["zero", "one"]}
    assert rig.shelf.missed == {}


async def test_pushed_again_with_other_words_it_is_no_second_try(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(letta=HOPELESS_TRIES)
    rig.push("t0", content="zero")
    await rig.work_off()
    await failed_and_stored_late(rig)
    rig.push("t1", content="something else")
    await rig.work_off()
    assert rig.replies()[-1]["code"] == "task_id_reused"
    assert rig.kept(task_id="t1")["retryable"] is True, "the first one can still be tried again"


async def sent_by_the_previous_release(rig: Any, content: Any, task_id: Any = "t1") -> None:
    """The agent has this message under the otid the previous release gave it."""
    rig.push("t0", content="zero")
    await rig.work_off()
    agent = rig.store.sessions["ada", "default"].agent_id
    await rig.letta.send(agent, [TurnMessage("user", content, turn_otid(agent, task_id))], timeout=5)


async def handed_out_before(rig: Rig, task_id: str, content: str) -> None:
    rig.push(task_id, content=content)
    await rig.queue("a bridge of the previous release").settle_and_fetch([], 1)
    rig.time += rig.settings.queue.lease_seconds + 1


async def test_turn_sent_by_the_previous_release_is_found_after_a_takeover(rig: Rig) -> None:
    await sent_by_the_previous_release(rig, "one")
    await handed_out_before(rig, "t1", "one")
    await rig.work_off()
    assert rig.kept(task_id="t1")["response_text"] == "echo: one"
    assert await rig.said_to_agents() == {"ada": ["zero", "one"]}


async def test_message_with_the_same_task_id_and_other_content_does_not_match(rig: Rig) -> None:
    await sent_by_the_previous_release(rig, "an old message with the same id")
    await handed_out_before(rig, "t1", "one")
    await rig.work_off()
    assert rig.kept(task_id="t1")["response_text"] == "echo: one"
    assert (await rig.said_to_agents())["ada"][-1] == "one"


async def test_message_older_than_the_task_does_not_match(rig: Rig) -> None:
    await sent_by_the_previous_release(rig, "one")
    rig.time = 4e9  # long after
    await handed_out_before(rig, "t1", "one")
    await rig.work_off()
    assert (await rig.said_to_agents())["ada"] == ["zero", "one", "one"]


async def test_a_kept_error_of_the_previous_release_is_tried_again_and_found(rig: Rig) -> None:
    await sent_by_the_previous_release(rig, "one")
    error = {"task_id": "t1", "error": True, "retryable": True, "code": "reply_deadline", "timestamp": rig.time}
    rig.shelf.kept["ada", "t1"] = json.dumps(error).encode()
    rig.push("t1", content="one")
    await rig.work_off()
    assert rig.kept(task_id="t1")["response_text"] == "echo: one"
    assert await rig.said_to_agents() == {"ada": ["zero", "one"]}


async def test_a_kept_reply_of_the_previous_release_is_repeated_whatever_the_task_says(rig: Rig) -> None:
    kept = rig.shelf.kept["ada", "t1"] = b'{"task_id":"t1","response_text":"old","source":"letta"}'
    for content in ("anything", "something else"):
        rig.push("t1", content=content)
        await rig.work_off()
    assert rig.replies() == [{"task_id": "t1", "response_text": "old", "source": "letta"}] * 2
    assert rig.shelf.kept["ada", "t1"] == kept


async def dead_lettered(rig: Rig, payload: bytes) -> Any:
    """Sent to Letta by a bridge that was killed before it could settle, and handed out in vain ever after."""
    rig.shelf.push(payload)
    (turn,) = (await rig.queue("dying").settle_and_fetch([], 1)).turns
    await rig.processor().process(turn, TurnLease(30, clock()))
    rig.time += rig.settings.queue.lease_seconds + 1
    await rig.work_off()
    ((line, _),) = rig.shelf.dead
    return json.loads(line)


async def test_reused_id_does_not_affect_the_task_in_flight(rig: Rig) -> None:
    rig.shelf.push(b'{"task_id":"1","user_id":"ada","content":"one"}')
    await rig.queue("dying").settle_and_fetch([], 1)
    other = rig.shelf.kept["ada", "1"] = b'{"task_id":"1","error":true,"idempotency_key":"9-9","content_digest":"x"}'
    rig.time += rig.settings.queue.lease_seconds + 1
    await rig.work_off()
    assert rig.replies()[-1]["response_text"] == "echo: one"
    assert rig.shelf.kept["ada", "1"] == other


async def test_a_task_that_memory_has_answered_is_not_dead_lettered(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(queue={"max_deliveries": 1})
    rig.shelf.push(b'{"task_id":"t1","user_id":"ada","content":"one"}')
    (turn,) = (await rig.queue("dying").settle_and_fetch([], 1)).turns
    rig.fallback.given[turn.number] = await rig.fallback.answer(
        parse_task(turn.payload, Limits()), turn.number, "test", seconds=60
    )
    rig.time += rig.settings.queue.lease_seconds + 1
    await rig.work_off()
    assert rig.shelf.dead == []
    assert rig.kept(task_id="t1")["response_text"] == "short: one"


async def answered_and_never_settled(rig: Rig, **task: Any) -> None:
    """A task that memory-python answered, and that was handed out once too often since."""
    rig.push("t1", **task)
    (turn,) = (await rig.queue("dying").settle_and_fetch([], 1)).turns
    rig.fallback.given[turn.number] = await rig.fallback.answer(
        parse_task(turn.payload, Limits()), turn.number, "test", seconds=60
    )
    rig.time += rig.settings.queue.lease_seconds + 1


async def test_the_agent_catches_up_of_an_answer_that_is_found_before_a_task_is_dead_lettered(
    make_rig: Callable[..., Rig],
) -> None:
    rig = make_rig(queue={"max_deliveries": 1}, database={"db_url": "postgresql://127.0.0.1/none"})
    await answered_and_never_settled(rig, content="I am allergic to nuts")
    await rig.work_off()
    assert len(rig.shelf.journal) == 1
    rig.push("t2", content="two")
    await rig.work_off()
    agent: Any = rig.store.sessions["ada", "default"].agent_id
    contents = [entry["content"] for entry in await rig.letta.history(agent)]
    assert contents[1:3] == ["I am allergic to nuts", "short: I am allergic to nuts"]
    assert rig.shelf.missed == {}


@pytest.mark.parametrize("why", ["opted_out", "temporary", "choice_unknown"])
async def test_an_answer_that_is_found_before_a_task_is_dead_lettered_is_reported_with_consent_alone(
    make_rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    rig = make_rig(queue={"max_deliveries": 1}, database={"db_url": "postgresql://127.0.0.1/none"})
    meta = {"memory_type": "temporary"} if why == "temporary" else {}
    await answered_and_never_settled(rig, content="my secret", meta=meta)
    with monkeypatch.context() as patched:
        if why == "opted_out":
            await rig.consent.choose("ada", permanent_memory=False)
        if why == "choice_unknown":

            async def refused(*_args: HeldChoice | str | None, **_options: int) -> None:
                raise ResponseError("NOPERM")

            patched.setattr(rig.consent, "verdict", refused)
        await rig.work_off()
    assert rig.kept(task_id="t1")["source"] == "memory-python"
    assert "secret" not in str(rig.shelf.missed)
    assert rig.shelf.journal == []
    await rig.consent.choose("ada", permanent_memory=True)
    rig.push("t2", content="two")
    await rig.work_off()
    assert await rig.said_to_agents() == {"ada": ["two"]}
    assert rig.shelf.missed == {}


async def test_catch_up_of_a_task_with_a_lost_upload_has_memory_pythons_answer(rig: Any) -> None:
    upload, turn = await handed_out_with_an_upload(rig)
    rig.fallback.given[turn.number] = await rig.fallback.answer(
        parse_task(turn.payload, Limits()), turn.number, "test", seconds=60
    )
    upload.unlink()
    rig.time += rig.settings.queue.lease_seconds + 1
    await rig.work_off()
    rig.push("t2", content="two")
    await rig.work_off()
    agent = rig.store.sessions["ada", "default"].agent_id
    history = [(entry["message_type"], entry["content"]) for entry in await rig.letta.history(agent)]
    assert [content for kind, content in history if kind == "user_message"] == ["two"]
    assert ("assistant_message", "short: ") in history


async def test_an_answer_that_is_found_before_a_task_is_dead_lettered_takes_no_id_from_another_task(
    make_rig: Callable[..., Rig],
) -> None:
    rig = make_rig(queue={"max_deliveries": 1})
    rig.shelf.push(b'{"task_id":"t1","user_id":"ada","content":"one"}')
    (turn,) = (await rig.queue("dying").settle_and_fetch([], 1)).turns
    rig.fallback.given[turn.number] = await rig.fallback.answer(
        parse_task(turn.payload, Limits()), turn.number, "test", seconds=60
    )
    other = rig.shelf.kept["ada", "t1"] = b'{"task_id":"t1","error":true,"idempotency_key":"9-9","content_digest":"x"}'
    rig.time += rig.settings.queue.lease_seconds + 1
    await rig.work_off()
    assert rig.shelf.dead == []
    assert rig.shelf.kept["ada", "t1"] == other


@pytest.mark.parametrize("error", [FallbackUnavailable(), AuthenticationError("the password was changed")], ids=repr)
async def test_a_task_is_dead_lettered_although_memory_cannot_be_asked_about_it(
    make_rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch, error: FallbackUnavailable | AuthenticationError
) -> None:
    async def withdraw(_task: Any, _number: str) -> None:
        raise error

    rig = make_rig(queue={"max_deliveries": 1})
    rig.fallback.down = True
    monkeypatch.setattr(rig.fallback, "withdraw", withdraw)
    letter = await dead_lettered(rig, b'{"task_id":"t1","user_id":"ada","content":"one"}')
    assert letter["code"] == "too_many_deliveries"


async def test_dead_lettered_task_is_withdrawn_from_memory_python(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(queue={"max_deliveries": 1})
    await dead_lettered(rig, b'{"task_id":"t1","user_id":"ada","content":"one"}')
    assert len(rig.fallback.withdrawn) == 1


async def test_a_dead_letter_says_under_which_name_its_task_was_sent(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(queue={"max_deliveries": 1})
    letter = await dead_lettered(rig, b'{"task_id":"t1","user_id":"ada","content":"one"}')
    assert letter.items() >= {"code": "too_many_deliveries", "taken_at": 1000.0}.items()
    assert letter["idempotency_key"] == letter["number"]
    assert rig.kept(task_id="t1")["content_digest"] == letter["content_digest"]


async def test_a_dead_letter_of_a_task_pushed_again_keeps_its_first_name(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(letta=HOPELESS_TRIES, queue={"max_deliveries": 1})
    rig.push("t0", content="zero")
    await rig.work_off()
    await failed_and_stored_late(rig)
    first = rig.kept(task_id="t1")["idempotency_key"]
    letter = await dead_lettered(rig, b'{"task_id":"t1","user_id":"ada","content":"one"}')
    assert letter["idempotency_key"] == rig.kept(task_id="t1")["idempotency_key"] == first


async def test_a_turn_that_a_defect_broke_off_is_waited_for_by_the_next_one(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.push("t0", content="zero")
    await rig.work_off()
    with monkeypatch.context() as patched:
        patched.setattr(settlements, "by_letta", None)
        rig.push("t1", content="one")
        await rig.work_off()
    assert json.loads(rig.shelf.dead[0][0])["code"] == "internal"
    assert len(rig.shelf.missed["ada"]) == 1
    rig.push("t2", content="two")
    await rig.work_off()
    assert await rig.said_to_agents() == {"ada": ["zero", "one", "two"]}
    assert rig.shelf.missed == {}


async def test_dead_letter_of_a_task_without_a_user_names_anonymous(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(queue={"max_deliveries": 1})
    letter = await dead_lettered(rig, b'{"task_id":"t1","content":"one"}')
    assert (letter["user_id"], letter["task_id"]) == ("anonymous", "t1")


async def test_a_turn_that_was_dead_lettered_while_letta_is_at_it_is_waited_for(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(queue={"max_deliveries": 1})
    rig.push("t0", content="zero")
    await rig.work_off()
    rig.push("t1", content="slow")
    with rig.letta.held() as hold:
        (turn,) = (await rig.queue("dying").settle_and_fetch([], 1)).turns
        sending = asyncio.create_task(rig.processor().process(turn, TurnLease(30, clock())))
        await hold.arrived()
        rig.time += rig.settings.queue.lease_seconds + 1
        rig.push("t2", content="next")
        working = asyncio.create_task(rig.work_off())
        for _ in range(200):
            await asyncio.sleep(0)
        assert len(rig.letta.sent) == 2, "the next turn waits"
        hold.release()
        await sending
        await working
    assert rig.letta.overlaps == []
    assert await rig.said_to_agents() == {"ada": ["zero", "slow", "next"]}
    assert rig.shelf.missed == {}


COACH: dict[str, Any] = {"agents": {"personas": {"default": {}, "coach": {}}}}


def configured_otherwise(rig: Rig, make_rig: Callable[..., Any], **changes: Any) -> Any:
    """A bridge of the same queue, Letta and sessions, with other settings."""
    other = make_rig(**changes)
    other.shelf, other.letta, other.store, other.fallback = rig.shelf, rig.letta, rig.store, rig.fallback
    other.servers = rig.servers
    other.sessions = SessionManager(rig.store, other.settings.agents)
    other.delivery_context = DeliveryContext(rig.servers, other.sessions, other.settings.letta, other.settings.fallback)
    return other


@pytest.mark.parametrize(("before", "after"), [(COACH, {}), ({}, COACH)], ids=["removed", "added"])
async def test_a_turn_is_found_in_the_agent_of_the_persona_that_its_first_bridge_knew(
    make_rig: Callable[..., Rig], before: dict[str, Any], after: dict[str, Any]
) -> None:
    rig = make_rig(**before)
    rig.push("t1", content="I weigh 90 kg", meta={"persona": "coach"})
    (turn,) = (await rig.queue("dying").settle_and_fetch([], 1)).turns
    await rig.processor().process(turn, TurnLease(30, clock()))  # sent, and killed before it settles
    rig.time += rig.settings.queue.lease_seconds + 1
    other = configured_otherwise(rig, make_rig, **after)
    other.time = rig.time
    await other.work_off()
    assert other.kept(task_id="t1")["response_text"] == "echo: I weigh 90 kg"
    said = [content for contents in (await other.said_to_agents_by_session()).values() for content in contents]
    assert said == ["I weigh 90 kg"]


async def test_a_task_pushed_again_after_its_persona_was_added_is_found(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(letta=HOPELESS_TRIES)
    rig.fallback.down = True
    with rig.letta.held() as hold:
        rig.push("t1", content="one", meta={"persona": "coach"})
        await rig.work_off()
        hold.release()
        await rig.letta.idle()
    other = configured_otherwise(rig, make_rig, letta=HOPELESS_TRIES, **COACH)
    other.push("t1", content="one", meta={"persona": "coach"})
    await other.work_off()
    assert other.kept(task_id="t1")["response_text"] == "echo: one"
    assert await rig.said_to_agents_by_session() == {("ada", "default"): ["one"], ("ada", "coach"): []}


async def handed_out_with_an_upload(rig: Rig) -> tuple[Path, Turn]:
    """The upload, and the turn that names it, in the hands of a bridge that is going to be killed."""
    upload = rig.settings.upload_dir / user_folder("ada") / "note.txt"
    upload.parent.mkdir(parents=True)
    upload.write_text("我对花生过敏。")
    rig.push("t1", content="", input_file="note.txt")
    (turn,) = (await rig.queue("dying").settle_and_fetch([], 1)).turns
    return upload, turn


@pytest.mark.parametrize("is_sent", [True, False])
async def test_a_turn_whose_upload_is_gone_gets_the_answer_that_letta_gave_before(rig: Rig, is_sent: bool) -> None:
    upload, turn = await handed_out_with_an_upload(rig)
    if is_sent:
        await rig.processor().process(turn, TurnLease(30, clock()))
    upload.unlink()
    rig.time += rig.settings.queue.lease_seconds + 1
    await rig.work_off()
    reply = rig.replies()[-1]
    if is_sent:
        assert reply["response_text"] == "echo: 我对花生过敏。"
        assert rig.shelf.dead == []
    else:
        assert reply["code"] == "upload_refused"
        assert len(rig.shelf.dead) == 1
        assert rig.store.sessions == {}, "no agent is made only to look into it"


async def test_a_turn_whose_upload_is_gone_is_dead_lettered_where_letta_cannot_be_asked(rig: Rig) -> None:
    rig.push("t1", content="", input_file="note.txt")
    await rig.queue("dying").settle_and_fetch([], 1)
    rig.time += rig.settings.queue.lease_seconds + 1
    rig.letta.down = True
    await rig.work_off()
    assert rig.replies()[-1]["code"] == "upload_refused"


async def test_an_answer_of_memory_python_stands_although_letta_has_one_and_the_upload_is_gone(rig: Rig) -> None:
    upload, turn = await handed_out_with_an_upload(rig)
    await rig.processor().process(turn, TurnLease(30, clock()))  # stored in Letta
    task = parse_task(turn.payload, Limits())
    rig.fallback.given[turn.number] = await rig.fallback.answer(task, turn.number, "test", seconds=60)  # and published
    upload.unlink()
    rig.time += rig.settings.queue.lease_seconds + 1
    await rig.work_off()
    assert rig.kept(task_id="t1")["source"] == "memory-python"
    assert not [reply for reply in rig.replies() if reply.get("source") == "letta"]


async def test_a_turn_is_looked_for_in_the_agent_that_took_the_place_of_a_deleted_one(rig: Any) -> None:
    rig.push("t0", content="zero")
    await rig.work_off()
    session = rig.store.sessions["ada", "default"]
    await rig.letta.delete_agent(session.agent_id)
    rig.push("t1", content="order ONE pizza")
    (turn,) = (await rig.queue("dying").settle_and_fetch([], 1)).turns
    other = configured_otherwise(rig, lambda **_: rig.__class__(rig.settings.data_dir))
    await other.processor().process(turn, TurnLease(30, clock()))  # makes another agent, sends, and is killed
    rig.store.sessions["ada", "default"] = session  # in a store of its own, this bridge's session names the old one
    rig.time += rig.settings.queue.lease_seconds + 1
    await rig.work_off()
    sent = [message.content for _, messages in rig.letta.sent for message in messages]
    assert sent.count("order ONE pizza") == 1


async def test_a_turn_at_work_in_another_personas_agent_is_noted_for_that_persona(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(letta=HOPELESS_TRIES)
    rig.fallback.down = True
    with rig.letta.held() as hold:
        rig.push("t1", content="one", meta={"persona": "coach"})
        await rig.work_off()
        other = configured_otherwise(rig, make_rig, letta=HOPELESS_TRIES, **COACH)
        other.push("t1", content="one", meta={"persona": "coach"})
        await other.work_off()
        missed = [json.loads(record) for record in rig.shelf.missed["ada"]]
        assert {record["persona"] for record in missed} == {"default"}
        hold.release()
        await rig.letta.idle()


@pytest.mark.parametrize("is_buried", [False, True], ids=["handed_over", "buried"])
async def test_a_turn_that_another_personas_agent_may_have_is_waited_for_by_both(
    make_rig: Callable[..., Rig], is_buried: bool
) -> None:
    rig = make_rig(letta=HOPELESS_TRIES, **COACH)
    rig.push("t0", content="zero", meta={"persona": "coach"})
    await rig.work_off()
    rig.fallback.down = is_buried
    with rig.letta.held() as hold:
        rig.push("t1", content="one", meta={"persona": "coach"})
        (turn,) = (await rig.queue("dying").settle_and_fetch([], 1)).turns
        await rig.processor().process(turn, TurnLease(30, clock()))  # at work in Letta; killed before it settles
        rig.time += rig.settings.queue.lease_seconds + 1
        other = configured_otherwise(rig, make_rig, letta=HOPELESS_TRIES, queue={"max_deliveries": 2 - is_buried})
        other.time = rig.time
        await other.work_off()
        missed = [json.loads(record) for record in rig.shelf.missed["ada"]]
        noted = {record["persona"]: record["content"] for record in missed}
        assert noted == {"default": "" if is_buried else "one", "coach": ""}
        rig.fallback.down = False
        rig.push("t2", content="two", meta={"persona": "coach"})
        await rig.work_off()
        assert rig.fallback.answered[-1] == ("t2", "earlier_turn_running")
        hold.release()
        await rig.letta.idle()
    rig.push("t3", content="three", meta={"persona": "coach"})
    await rig.work_off()
    assert rig.letta.overlaps == []
    assert (await rig.said_to_agents_by_session())["ada", "coach"] == ["zero", "one", "two", "three"]
    assert [json.loads(record)["persona"] for record in rig.shelf.missed["ada"]] == ["default"]
