"""What is kept of a turn."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from letta_bridge.journal import conversation_id, journalled, read_entry
from letta_bridge.journal.record import UnreadableEntry
from letta_bridge.request_queue import Outcome, Settlement, Turn
from letta_bridge.request_queue.journal_backlog import JournalEntry
from letta_bridge.request_queue.records import Fault
from letta_bridge.settings import JournalSettings
from shared_utils.contracts.messages import Reply, Task, Usage, dump

TURN = Turn("7-9", "ada", 2, 7, 1_700_000_000_123, b"")
TASK = Task(task_id="t1", user_id="ada", content="你好")
REPLY = Reply(
    task_id="t1",
    user_id="ada",
    response_text="hello",
    memory_updated=True,
    source="letta",
    timestamp=1.0,
    agent_id="agent-1",
    usage=Usage(total_tokens=5),
    attempts=2,
)
END = Settlement("7-9", Outcome.LETTA, user_id="ada", task_id="t1", reply=dump(REPLY))
SETTINGS = JournalSettings()


def entry(end: Settlement = END, number: Any = "1700000001000-3", **fields: Any) -> JournalEntry:
    noted: Any = journalled(TURN, TASK, "default", replace(end, **fields), SETTINGS, is_remembered=True)
    return JournalEntry(number, noted.journal, noted.reply)


def test_turn_becomes_two_messages_of_one_conversation() -> None:
    rows = read_entry(entry())
    question, answer = rows.messages
    assert rows.conversation.id == question.conversation_id == answer.conversation_id
    assert (rows.conversation.user_id, rows.conversation.metadata) == ("ada", {"persona": "default"})
    assert (question.role, question.content, question.metadata) == ("user", "你好", {"task_id": "t1", "type": "text"})
    assert (answer.role, answer.content) == ("assistant", "hello")
    assert answer.metadata == {
        "task_id": "t1",
        "source": "letta",
        "agent_id": "agent-1",
        "usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 5},
        "attempts": 2,
        "memory_updated": True,
    }
    assert question.created_at.isoformat() == "2023-11-14T22:13:20.123000+00:00"
    assert answer.created_at.isoformat() == "2023-11-14T22:13:21+00:00"


def test_the_same_turn_is_the_same_rows() -> None:
    again = read_entry(entry(number="1700000002000-0"))
    assert [message.id for message in again.messages] == [message.id for message in read_entry(entry()).messages]
    other = read_entry(JournalEntry("1-0", entry().turn.replace(b"7-17", b"8-17"), entry().reply))
    assert not {message.id for message in other.messages} & {message.id for message in again.messages}


def test_ordinals_rise_with_the_place_in_the_stream() -> None:
    places = ["1700000001000-0", "1700000001000-1", "1700000001001-0", "8000000000000-1000"]
    ordinals = [message.ordinal for place in places for message in read_entry(entry(number=place)).messages]
    assert ordinals == sorted(set(ordinals))
    assert ordinals[-1] < 2**63


def test_no_two_users_share_a_conversation() -> None:
    names = [("a", "b"), ("a", 'b"'), ('a", "b', ""), ("ab", ""), ("", "ab"), ("a\u2028", "b")]
    assert len({conversation_id(*name) for name in names}) == len(names)
    assert conversation_id("ada", "default") == conversation_id("ada", "default")


def test_why_memory_python_answered_is_kept() -> None:
    reply = REPLY.model_copy(update={"source": "memory-python", "agent_id": None, "fallback_reason": "breaker_open"})
    _, answer = read_entry(entry(outcome=Outcome.MEMORY, reply=dump(reply), missed=(b"{}",))).messages
    assert (answer.metadata["source"], answer.metadata["fallback_reason"]) == ("memory-python", "breaker_open")


def test_journal_rows_take_the_user_from_the_turn_not_the_reply() -> None:
    reply = dump(REPLY.model_copy(update={"user_id": "eve", "task_id": "t9"}))
    rows = read_entry(entry(reply=reply))
    assert (rows.conversation.user_id, rows.messages[1].metadata["task_id"]) == ("ada", "t1")


@pytest.mark.parametrize("outcome", [Outcome.ERROR, Outcome.REPEATED, Outcome.DEAD])
def test_journal_ignores_turns_without_an_answer(outcome: Outcome) -> None:
    end = replace(END, outcome=outcome)
    assert journalled(TURN, TASK, "default", end, SETTINGS, is_remembered=True).journal is None


def test_journal_of_a_canned_answer_has_only_the_users_message() -> None:
    reply = REPLY.model_copy(update={"source": "memory-python", "fallback_reason": "breaker_open", "canned": True})
    (question,) = read_entry(entry(outcome=Outcome.MEMORY, reply=dump(reply))).messages
    assert (question.role, question.content) == ("user", "你好")
    assert question.id == read_entry(entry()).messages[0].id
    assert question.metadata.items() >= {"task_id": "t1", "canned": True, "fallback_reason": "breaker_open"}.items()
    assert question.created_at.isoformat() == "2023-11-14T22:13:21+00:00"


def test_journal_ignores_temporary_turns_unless_configured() -> None:
    settings, everything = JournalSettings(), JournalSettings(temporary=True)
    temporary = replace(END, outcome=Outcome.MEMORY)
    assert journalled(TURN, TASK, "default", temporary, settings, is_remembered=False).journal is None
    assert journalled(TURN, TASK, "default", temporary, everything, is_remembered=False).journal is not None
    assert journalled(TURN, TASK, "default", temporary, settings, is_remembered=True).journal is not None
    assert journalled(TURN, TASK, "default", END, settings, is_remembered=True).journal is not None


@pytest.mark.parametrize(
    ("turn", "reply", "fault"),
    [
        (b"{}", dump(REPLY), Fault.UNREADABLE),
        (b"", b"", Fault.UNREADABLE),
        (entry().turn, b'{"error":true}', Fault.UNREADABLE),
        (b'{"v":2}', dump(REPLY), Fault.NEWER),
        (entry().turn.replace(b'"v":1', b'"v":2'), dump(REPLY), Fault.NEWER),
    ],
)
def test_unreadable_journal_record_distinguishes_later_releases_from_damage(
    turn: bytes, reply: bytes, fault: Fault
) -> None:
    with pytest.raises(UnreadableEntry) as caught:
        read_entry(JournalEntry("1-0", turn, reply))
    assert caught.value.fault is fault


def test_a_record_without_a_version_is_read_and_keeps_its_ids() -> None:
    """As bridges wrote it before records had versions; written again, it is the same row."""
    turn = (
        b'{"user_id":"ada","task_id":"t1","number":"7-1700000000123","persona":"default","type":"text",'
        b'"content":"\xe4\xbd\xa0\xe5\xa5\xbd","taken_ms":1700000000123}'
    )
    rows = read_entry(JournalEntry("1700000001000-3", turn, dump(REPLY)))
    assert rows == read_entry(entry())
    assert [message.id for message in rows.messages] == [
        "35f50fd1-8ba4-54e8-8f0a-80bce9b0ca42",
        "b96c2557-0ebe-5382-a17f-aae4e691ffa3",
    ]
