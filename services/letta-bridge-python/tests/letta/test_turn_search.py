from __future__ import annotations

from letta_bridge.letta.port import TurnState
from letta_bridge.letta.turn_search import fate

OTID = "0000-otid"


def listed(kind: str, content: str = "", *, otid: str = "other", run: str | None = "run-1") -> dict[str, object]:
    return {"message_type": kind, "content": content, "otid": otid, "run_id": run}


def user(content: str = "q", *, otid: str = OTID, run: str | None = "run-1") -> dict[str, object]:
    return listed("user_message", content, otid=otid, run=run)


def said(content: str, *, run: str | None = "run-1") -> dict[str, object]:
    return listed("assistant_message", content, run=run)


def test_absent() -> None:
    assert fate([user(otid="else"), said("a")], OTID, []).state is TurnState.ABSENT
    assert fate([], OTID, []).state is TurnState.ABSENT


def test_unlisted_while_something_runs() -> None:
    found = fate([], OTID, ["run-9"])
    assert found.state is TurnState.RUNNING
    assert found.run_ids == ("run-9",)


def test_stored_with_its_own_answer_only() -> None:
    history = [
        user(otid="earlier", run="run-0"),
        said("of before", run="run-0"),
        user(),
        listed("system_message", "login"),
        said("mine"),
        user(otid="later", run="run-2"),
        said("of later", run="run-2"),
    ]
    found = fate(history, OTID, [])
    assert found.state is TurnState.STORED
    assert found.answer is not None
    assert (found.answer.text, found.answer.stop_reason) == ("mine", "found")


def test_overlapping_turns_are_told_apart_by_their_run() -> None:
    history = [user(), user(otid="b", run="run-2"), said("b's", run="run-2"), said("mine")]
    answer = fate(history, OTID, []).answer
    assert answer is not None
    assert answer.text == "mine"


def test_without_run_ids_a_turn_ends_at_the_next_user_message() -> None:
    history = [user(run=None), said("mine", run=None), user(otid="b", run=None), said("b's", run=None)]
    answer = fate(history, OTID, []).answer
    assert answer is not None
    assert answer.text == "mine"


def test_killed_in_the_middle() -> None:
    history = [user(), listed("tool_call_message"), listed("tool_return_message")]
    found = fate(history, OTID, [])
    assert found.state is TurnState.STORED
    assert found.answer is None
    assert fate(history, OTID, ["run-1"]).state is TurnState.RUNNING
    assert fate(history, OTID, ["run-of-another-turn"]).state is TurnState.RUNNING


def test_text_of_a_first_step_is_not_the_answer_yet() -> None:
    history = [user(), said("let me remember that"), listed("tool_call_message")]
    assert fate(history, OTID, ["run-1"]).state is TurnState.RUNNING


def test_an_answered_turn_does_not_wait_for_another_run() -> None:
    assert fate([user(), said("mine")], OTID, ["run-2"]).state is TurnState.STORED


def test_the_agents_own_messages_do_not_count_as_the_turn() -> None:
    history = [listed("user_message", '{"type": "login"}', otid="else"), listed("system_message", OTID)]
    assert fate(history, OTID, []).state is TurnState.ABSENT
