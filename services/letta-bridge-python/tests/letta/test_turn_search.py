"""What a history and the runs of an agent say about a turn."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from letta_bridge.letta.port import FoundTurn, SoughtTurn, TurnState
from letta_bridge.letta.turn_search import TOOL_KWARG_LABEL, Run, TurnSearch, seconds

OTID = "11111111-2222-4333-8444-555555555555"
OTHER = "99999999-2222-4333-8444-555555555555"
NOW = 1_800_000_000.0
TAKEN = NOW - 100.0
SOUGHT = SoughtTurn(OTID, TAKEN)


def iso(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat()


def listed(
    kind: str, content: str = "", *, otid: str = "other", run: str | None = "run-1", date: float = NOW
) -> dict[str, object]:
    return {"message_type": kind, "content": content, "otid": otid, "run_id": run, "date": iso(date)}


def user(content: str = "q", *, otid: str = OTID, run: str | None = "run-1", date: float = NOW) -> dict[str, object]:
    return listed("user_message", content, otid=otid, run=run, date=date)


def said(content: str, *, run: str | None = "run-1") -> dict[str, object]:
    return listed("assistant_message", content, run=run)


def run_of(otid: str | None, status: str = "running", *, name: str = "run-1", began: float = NOW) -> Run:
    return Run(name, status, otid, began)


def find(messages: list[dict[str, object]], *runs: Run, sought: SoughtTurn = SOUGHT) -> FoundTurn:
    search = TurnSearch([sought], runs, NOW)
    search.read(messages)
    return search.result().turns[0]


def test_unsent_turn_is_absent() -> None:
    assert find([user(otid="else"), said("a")]).state is TurnState.ABSENT
    assert find([]).state is TurnState.ABSENT


def test_a_turn_with_an_active_run_of_its_own_is_running() -> None:
    found = find([], run_of(OTID, name="run-9"))
    assert (found.state, found.run_ids) == (TurnState.RUNNING, ("run-9",))


def test_another_turns_run_keeps_no_turn_running() -> None:
    search = TurnSearch([SOUGHT], [run_of(OTHER, name="run-9")], NOW)
    search.read([])
    result = search.result()
    assert result.turns[0].state is TurnState.ABSENT
    assert result.other_runs == ("run-9",)


def test_a_cancelled_run_without_a_message_leaves_the_turn_in_doubt() -> None:
    assert find([], run_of(OTID, "cancelled")).state is TurnState.CANCELLED
    assert find([], run_of(OTHER, "cancelled")).state is TurnState.ABSENT


def test_cancelled_run_with_a_stored_message_is_stored() -> None:
    assert find([user(), said("late")], run_of(OTID, "cancelled")).state is TurnState.STORED


def test_a_new_run_beside_a_cancelled_one_is_waited_for() -> None:
    found = find([], run_of(OTID, "cancelled", name="run-1"), run_of(OTID, name="run-2"))
    assert (found.state, found.run_ids) == (TurnState.RUNNING, ("run-2",))


def test_unlabelled_run_may_belong_to_a_turn_of_the_previous_release() -> None:
    legacy = SoughtTurn(OTID, TAKEN, content="q", labelled=False)
    assert find([], run_of(None), sought=legacy).state is TurnState.RUNNING
    assert find([], run_of(None, "cancelled"), sought=legacy).state is TurnState.CANCELLED
    assert find([], run_of(None, began=TAKEN - 1), sought=legacy).state is TurnState.ABSENT
    assert find([], run_of(OTHER), sought=legacy).state is TurnState.ABSENT
    assert find([], run_of(None)).state is TurnState.ABSENT


def test_runs_too_old_to_be_at_work_are_not_waited_for() -> None:
    search = TurnSearch([SOUGHT], [run_of(None, name="dead", began=NOW - 3600), run_of(None, name="busy")], NOW)
    search.read([])
    assert search.result().other_runs == ("busy",)


def test_a_stored_turn_has_its_own_answer_only() -> None:
    history = [
        user(otid="earlier", run="run-0"),
        said("of before", run="run-0"),
        user(),
        listed("system_message", "login"),
        said("mine"),
        user(otid="later", run="run-2"),
        said("of later", run="run-2"),
    ]
    found = find(history)
    assert (found.state, found.run_id) == (TurnState.STORED, "run-1")
    assert found.answer is not None
    assert (found.answer.text, found.answer.stop_reason) == ("mine", "found")


def test_of_two_messages_with_one_otid_the_newest_counts() -> None:
    history = [user("old", run="run-0"), said("old answer", run="run-0"), user("new", run="run-9")]
    assert find(history).answer is None
    found = find([*history, said("new answer", run="run-9")])
    assert found.answer is not None
    assert found.answer.text == "new answer"


@pytest.mark.parametrize(
    ("message", "state"),
    [
        (user("hello"), TurnState.STORED),
        (user("hello", date=TAKEN), TurnState.STORED),
        (user("something else"), TurnState.ABSENT),
        (user("hello", date=TAKEN - 1), TurnState.ABSENT),
    ],
)
def test_an_id_that_others_may_have_had_is_trusted_only_with_the_same_words_since(
    message: dict[str, object], state: TurnState
) -> None:
    sought = SoughtTurn(OTID, TAKEN, content="hel\0lo", labelled=False)
    assert find([message, said("a")], sought=sought).state is state


def test_half_an_emoji_is_found_whether_letta_kept_it_or_not() -> None:
    sought = SoughtTurn(OTID, TAKEN, content="hello \ud83d", labelled=False)
    assert [find([user(stored), said("a")], sought=sought).state for stored in ("hello ", "hello \ud83d")] == [
        TurnState.STORED,
        TurnState.STORED,
    ]


def test_an_older_message_is_found_behind_a_newer_one_with_other_words() -> None:
    sought = SoughtTurn(OTID, TAKEN, content="hello", labelled=False)
    history = [user("hello", run="run-1"), said("a"), user("later, same id", run="run-2"), said("b", run="run-2")]
    found = find(history, sought=sought)
    assert found.answer is not None
    assert found.answer.text == "a"


def test_copies_tell_that_the_agent_knows() -> None:
    sought = SoughtTurn(OTID, TAKEN, copies=frozenset({OTHER}))
    found = find([user(otid=OTHER)], sought=sought)
    assert (found.state, found.caught_up) == (TurnState.ABSENT, True)
    assert not find([user()], sought=sought).caught_up


def test_overlapping_turns_are_distinguished_by_their_run() -> None:
    answer = find([user(), user(otid="b", run="run-2"), said("b's", run="run-2"), said("mine")]).answer
    assert answer is not None
    assert answer.text == "mine"


def test_without_run_ids_a_turn_ends_at_the_next_user_message() -> None:
    answer = find([user(run=None), said("mine", run=None), user(otid="b", run=None), said("b's", run=None)]).answer
    assert answer is not None
    assert answer.text == "mine"


def test_a_turn_killed_in_the_middle_is_stored_without_an_answer() -> None:
    history = [user(), listed("tool_call_message"), listed("tool_return_message")]
    found = find(history)
    assert (found.state, found.answer) == (TurnState.STORED, None)
    assert find(history, run_of(OTID)).state is TurnState.RUNNING
    assert find(history, run_of(OTHER, name="run-2")).state is TurnState.STORED


def test_text_of_a_first_step_is_not_the_answer_yet() -> None:
    history = [user(), said("let me remember that"), listed("tool_call_message")]
    assert find(history, run_of(OTID)).state is TurnState.RUNNING


def test_an_answered_turn_does_not_wait_for_another_run() -> None:
    assert find([user(), said("mine")], run_of(OTHER, name="run-2")).state is TurnState.STORED


def test_the_agents_own_messages_do_not_count_as_the_turn() -> None:
    history = [listed("user_message", '{"type": "login"}', otid="else"), listed("system_message", OTID)]
    assert find(history).state is TurnState.ABSENT


def test_a_search_ends_where_every_message_of_a_page_is_older() -> None:
    search = TurnSearch([SOUGHT], [], NOW)
    assert not search.read([user(otid="a", date=TAKEN - 50), user(otid="b", date=NOW)])
    # A turn that was stored late brings an old date: one old message among newer ones proves nothing.
    assert not search.read([user(otid="c", date=TAKEN), user(otid="d", date=TAKEN - 50)])
    assert search.read([user(otid="e", date=TAKEN - 80), user(otid="f", date=TAKEN - 50)])


def test_a_search_does_not_end_at_messages_without_a_date() -> None:
    search = TurnSearch([SOUGHT], [], NOW)
    assert not search.read([{"message_type": "user_message", "otid": "x", "content": "q", "date": None}])
    assert not search.read([{"message_type": "user_message", "otid": "y", "content": "q", "date": "yesterday"}])


def test_a_search_for_several_continues_for_those_not_found() -> None:
    search = TurnSearch([SOUGHT, SoughtTurn(OTHER, TAKEN - 500)], [], NOW)
    assert not search.read([user(), said("mine")])
    assert not search.read([user(otid="x", date=TAKEN - 50)])
    assert search.read([user("q2", otid=OTHER, run="run-0", date=TAKEN - 400), said("theirs", run="run-0")])
    texts = [turn.answer.text for turn in search.result().turns if turn.answer]
    assert texts == ["mine", "theirs"]


@pytest.mark.parametrize(
    ("config", "label"),
    [
        ({TOOL_KWARG_LABEL: OTID}, OTID),
        ({TOOL_KWARG_LABEL: "message"}, None),
        ({TOOL_KWARG_LABEL: None}, None),
        ({}, None),
        (None, None),
        ("odd", None),
    ],
)
def test_a_run_is_labelled_by_an_otid_only(config: object, label: str | None) -> None:
    run = Run.listed(
        {"id": "run-1", "status": "created", "created_at": "2026-11-29T20:31:07.4Z", "request_config": config}
    )
    assert (run.run_id, run.label, run.active) == ("run-1", label, True)
    assert run.began is not None


@pytest.mark.parametrize(
    ("date", "moment"),
    [
        ("1970-01-01T00:01:00+00:00", 60.0),
        ("1970-01-01T00:01:00Z", 60.0),
        ("1970-01-01T01:01:00+01:00", 60.0),
        ("1970-01-01T00:01:00", 60.0),
        ("soon", None),
        (None, None),
        (60, None),
    ],
)
def test_lettas_dates_are_read_as_seconds(date: object, moment: float | None) -> None:
    assert seconds(date) == moment
