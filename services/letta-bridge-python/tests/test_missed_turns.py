"""What an agent is told of the turns it missed."""

from __future__ import annotations

import uuid

import pytest

from letta_bridge.letta import turn_otid
from letta_bridge.missed_turns import Fate, MissedTurn, read, tell, untold
from letta_bridge.settings import FallbackSettings
from shared_utils.messages import dump

AGENT = f"agent-{uuid.UUID(int=7)}"


def missed(number, content=None, response_text=None, **fields):
    return MissedTurn(
        task_id=f"t{number}",
        content=content or f"said {number}",
        response_text=response_text or f"answered {number}",
        timestamp=number,
        **fields,
    )


def told(turns, language="en", **settings):
    return tell(turns, AGENT, language, FallbackSettings.model_validate(settings))


def roles_and_contents(messages):
    return [(message.role, message.content) for message in messages]


def test_nothing_missed_is_nothing_told():
    assert told([]) == []


def test_turns_are_told_word_for_word_in_order():
    assert roles_and_contents(told([missed(1), missed(2, "你好", "你好呀")])) == [
        ("user", "said 1"),
        ("assistant", "answered 1"),
        ("user", "你好"),
        ("assistant", "你好呀"),
    ]


def test_a_told_turn_keeps_its_otid_so_that_it_is_found_however_often_it_is_told():
    first, second = told([missed(1)]), told([missed(1)])
    assert first == second
    assert first[0].otid == turn_otid(AGENT, "t1")
    assert len({message.otid for message in told([missed(1), missed(2)])}) == 4


def test_of_a_turn_the_agent_has_only_the_answer_is_told():
    assert roles_and_contents(told([missed(1, fate=Fate.STORED)])) == [("assistant", "answered 1")]


@pytest.mark.parametrize(
    ("language", "note"),
    [
        ("zh", "(在你不在的时候,用户说:「said 1」短期记忆回答:「answered 1」)"),
        ("ZH-cn", "(在你不在的时候,用户说:「said 1」短期记忆回答:「answered 1」)"),
        ("en", '(While you were away the user said: "said 1" and the short-term memory answered: "answered 1")'),
        (None, '(While you were away the user said: "said 1" and the short-term memory answered: "answered 1")'),
    ],
)
def test_a_turn_of_unknown_fate_is_told_as_a_note(language, note):
    (message,) = told([missed(1, fate=Fate.UNKNOWN)], language)
    assert (message.role, message.content) == ("system", note)
    assert message.otid != turn_otid(AGENT, "t1")


def test_a_turn_that_is_stored_took_all_before_it_along():
    turns = [missed(1), missed(2, fate=Fate.STORED), missed(3)]
    assert untold(turns) == turns[1:]
    assert untold(turns[:1]) == turns[:1]


def test_a_turn_that_may_be_stored_may_have_taken_all_before_it_along():
    turns = [missed(1), missed(2, fate=Fate.UNKNOWN), missed(3)]
    assert [turn.fate for turn in untold(turns)] == [Fate.UNKNOWN, Fate.UNKNOWN, Fate.ABSENT]
    assert [role for role, _ in roles_and_contents(told(untold(turns)))] == ["system", "system", "user", "assistant"]


@pytest.mark.parametrize("answer", [None, ""])
def test_a_turn_that_nobody_answered_is_not_told(answer):
    unanswered = missed(1).model_copy(update={"response_text": answer})
    assert roles_and_contents(told([unanswered, missed(2)])) == [("user", "said 2"), ("assistant", "answered 2")]


@pytest.mark.parametrize(
    ("language", "notice"),
    [
        ("zh", "(在你不在的时候,短期记忆还回答了用户更早的 3 条消息,内容未附上。)"),
        (
            "en",
            "(While you were away, the short-term memory answered 3 earlier messages that are not shown here.)",
        ),
    ],
)
def test_of_too_many_turns_the_newest_are_told_and_the_others_counted(language, notice):
    messages = told([missed(number) for number in range(5)], language, told_turns=2)
    assert roles_and_contents(messages) == [
        ("system", notice),
        ("user", "said 3"),
        ("assistant", "answered 3"),
        ("user", "said 4"),
        ("assistant", "answered 4"),
    ]


def test_no_more_characters_are_told_than_allowed():
    turns = [missed(number, "u" * 100, "a" * 100) for number in range(5)]
    notice, *messages = told(turns, told_characters=600)
    assert "2 earlier messages" in notice.content
    assert sum(len(message.content) for message in messages) == 600


def test_turns_told_as_many_as_allowed_leave_no_notice():
    messages = told([missed(number) for number in range(2)], told_turns=2)
    assert {message.role for message in messages} == {"user", "assistant"}


def test_a_huge_turn_hides_the_older_ones_but_not_the_newer():
    messages = told([missed(1), missed(2, "u" * 1000), missed(3)], told_characters=600)
    assert roles_and_contents(messages)[1:] == [("user", "said 3"), ("assistant", "answered 3")]


@pytest.mark.parametrize(
    ("said", "answered", "told_lengths"),
    [(2000, 10, (490, 10)), (10, 2000, (10, 490)), (2000, 2000, (250, 250)), (300, 200, (300, 200))],
)
def test_a_single_huge_turn_is_cut_to_what_is_allowed(said, answered, told_lengths):
    messages = told([missed(1, "u" * said, "a" * answered)], told_characters=500)
    assert tuple(len(message.content) for message in messages) == told_lengths
    assert messages[0].content.endswith("…") == (said == 2000)


def test_records_are_read_in_order_and_an_unreadable_one_is_skipped():
    turns = [missed(1, "你好"), missed(2, fate=Fate.UNKNOWN, agent_id=AGENT, interrupted=True)]
    records = [dump(turns[0]), b"not json", b'{"task_id":"t9"}', b"\xff", dump(turns[1])]
    assert read(records) == turns
    assert read([]) == []


def test_a_record_of_a_newer_bridge_is_read():
    record = dump(missed(1))[:-1] + b',"added_later":1}'
    assert read([record]) == [missed(1)]
