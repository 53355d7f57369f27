"""The records of turns that an agent missed: read, named, and told apart by persona."""

from __future__ import annotations

import hashlib
import json
import uuid
from typing import Any

import pytest

from letta_bridge.letta import turn_otid
from letta_bridge.request_queue.missed_turns import DeliveryStatus, MissedTurn, cut, fingerprints, read
from shared_utils.contracts.messages import dump

AGENT = f"agent-{uuid.UUID(int=7)}"
OF_PREVIOUS_RELEASE = b'{"task_id":"t1","content":"hi","response_text":"hello","timestamp":5.0,"fate":"unknown"}'


def missed(number: int, **fields: Any) -> MissedTurn:
    return MissedTurn(
        task_id=f"{number}-1",
        content=f"said {number}",
        response_text=f"answered {number}",
        timestamp=number,
        persona="default",
        taken_at=number,
        **fields,
    )


def test_records_are_read_in_order_with_their_fingerprints() -> None:
    turns = [missed(1), missed(2, fate=DeliveryStatus.UNKNOWN, agent_id=AGENT, interrupted=True, carried=("1-1",))]
    records = [dump(turn) for turn in turns]
    kept = read(records)
    assert [each.turn for each in kept] == turns
    assert [each.fingerprint for each in kept] == [hashlib.sha1(record).hexdigest() for record in records]  # noqa: S324
    assert fingerprints(kept) == {each.fingerprint for each in kept}
    assert read([]) == []


@pytest.mark.parametrize("record", [b"not json", b'{"task_id":"t9"}', b"\xff", b"[]", b""])
def test_an_unreadable_record_is_skipped(record: bytes) -> None:
    assert [each.turn for each in read([record, dump(missed(1))])] == [missed(1)]


def test_a_record_of_a_newer_release_is_read() -> None:
    record = dump(missed(1))[:-1] + b',"added_later":1}'
    assert [each.turn for each in read([record])] == [missed(1)]


def test_a_record_of_the_previous_release_is_read() -> None:
    (kept,) = read([OF_PREVIOUS_RELEASE])
    assert (kept.turn.persona, kept.turn.taken_at, kept.turn.carried) == (None, None, None)
    assert kept.turn.otids(AGENT).own == turn_otid(AGENT, "t1")


def test_the_previous_release_finds_a_turn_under_the_task_id_of_our_record() -> None:
    # It computes the otid from the record's task_id and needs no other field than these.
    record = json.loads(dump(missed(1, fate=DeliveryStatus.UNKNOWN, agent_id=AGENT)))
    assert turn_otid(AGENT, record["task_id"]) == missed(1).otids(AGENT).own
    assert record.keys() >= {"task_id", "content", "response_text", "timestamp", "fate", "agent_id", "interrupted"}


def test_a_canned_sentence_that_the_previous_release_kept_as_an_answer_is_none() -> None:
    (kept,) = read([OF_PREVIOUS_RELEASE], canned=("hello",))
    assert (kept.turn.response_text, kept.turn.canned, kept.turn.is_worth_remembering) == (None, True, True)
    assert kept.fingerprint == hashlib.sha1(OF_PREVIOUS_RELEASE).hexdigest()  # noqa: S324


@pytest.mark.parametrize(
    ("fields", "personas"),
    [
        ({"persona": "doctor"}, ["doctor"]),
        ({"persona": "default"}, ["default"]),
        ({"persona": None}, ["default"]),
        ({"persona": None, "agent_id": AGENT}, ["default", "doctor"]),  # its agent tells
    ],
)
def test_missed_turn_belongs_to_its_persona(fields: dict[str, Any], personas: list[str]) -> None:
    turn = missed(1).model_copy(update=fields)
    assert [persona for persona in ("default", "doctor") if turn.may_be_of(persona)] == personas


def test_the_messages_about_a_turn_have_otids_of_their_own() -> None:
    otids = missed(1).otids(AGENT)
    assert otids == missed(1).otids(AGENT)
    assert len({otids.own, *otids.copies}) == 4
    assert otids.own == str(uuid.uuid5(uuid.UUID(int=7), "1-1"))
    assert otids.copy == str(uuid.uuid5(uuid.UUID(otids.own), "copy"))


@pytest.mark.parametrize(
    ("fields", "worth"),
    [
        ({}, True),
        ({"response_text": None}, False),
        ({"response_text": ""}, False),
        ({"response_text": None, "canned": True}, True),
    ],
)
def test_missed_turn_with_an_answer_is_worth_remembering(fields: dict[str, Any], worth: bool) -> None:
    assert missed(1).model_copy(update=fields).is_worth_remembering is worth


def test_a_text_is_cut_to_its_bound() -> None:
    assert (cut("abc", 3), cut("abcd", 3)) == ("abc", "ab…")
