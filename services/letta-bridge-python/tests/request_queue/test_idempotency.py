"""Which task a pushed task is."""

from __future__ import annotations

import json
from typing import Any

import pytest

from letta_bridge.request_queue.idempotency import Identity, KeptReply, content_digest, marked
from shared_utils.contracts.limits import Limits
from shared_utils.contracts.messages import Task, parse_task


def parsed(**fields: Any) -> Task:
    return parse_task(json.dumps({"task_id": "t1", "user_id": "ada", **fields}).encode(), Limits())


TASK = parsed(content="你好")
IDENTITY = Identity("7-1000", 1.0, content_digest(TASK))
REPLY = b'{"task_id":"t1","response_text":"said \\",\\"idempotency_key\\":1"}'


def kept(reply: bytes = REPLY, identity: Identity = IDENTITY) -> Any:
    return KeptReply.read(reply[:-1] + b"," + identity.mark() + b"}")


@pytest.mark.parametrize(
    "same",
    [
        {"content": "你好", "type": None},
        {"content": "你好", "input_file": "", "user_id": "bob", "task_id": "other"},
        {"content": "你好", "timestamp": 5, "source": "asr", "meta": {"trace_id": "x", "lang": "zh"}},
    ],
)
def test_content_digest_ignores_the_byte_representation(same: dict[str, Any]) -> None:
    assert content_digest(parsed(**same)) == content_digest(TASK)


@pytest.mark.parametrize(
    "other",
    [
        {"content": "你好 "},
        {"content": "", "input_file": "你好"},
        {"content": "你好", "type": "audio"},
        {"content": "你好", "input_file": "x"},
        {"content": "你好", "meta": {"persona": "doctor"}},
    ],
)
def test_another_content_file_type_or_persona_is_another_task(other: dict[str, Any]) -> None:
    assert content_digest(parsed(**other)) != content_digest(TASK)


def test_parts_of_a_task_do_not_run_into_each_other() -> None:
    assert content_digest(parsed(content="ab", input_file="c")) != content_digest(parsed(content="a", input_file="bc"))


def test_kept_reply_is_returned_as_published() -> None:
    assert kept().reply == REPLY
    assert kept().mark == IDENTITY.mark()


def test_kept_reply_matches_only_the_same_content() -> None:
    assert kept().is_of(TASK)
    assert not kept().is_of(parsed(content="something else"))


def test_a_reply_of_an_unreadable_task_belongs_to_no_other_task() -> None:
    assert not kept(identity=Identity("7-1000", 1.0, None)).is_of(TASK)


@pytest.mark.parametrize("reply", [REPLY, b'{"error":true}'])
def test_kept_reply_of_the_previous_release_matches_any_content(reply: Any) -> None:
    old = KeptReply.read(reply)
    assert old is not None
    assert (old.reply, old.mark) == (reply, b"")
    assert old is not None
    assert old.is_of(TASK)


@pytest.mark.parametrize("kept", [b"not json", b"[]", b"{}", b""])
def test_kept_reply_read_returns_none_for_an_invalid_reply(kept: bytes) -> None:
    assert KeptReply.read(kept) is None


@pytest.mark.parametrize(
    ("fields", "again", "sent"),
    [
        ({"error": True, "retryable": True, "code": "reply_deadline"}, True, True),
        ({"error": True, "retryable": True, "code": "user_rate_limited"}, True, False),
        ({"error": True, "retryable": False, "code": "letta_rejected"}, False, True),
        ({"response_text": "hi"}, False, True),
    ],
)
def test_an_error_that_a_second_try_may_mend_is_tried_again(fields: dict[str, Any], again: bool, sent: bool) -> None:
    reply = kept(json.dumps(fields).encode())
    assert (reply.may_be_tried_again, reply.may_have_been_sent) == (again, sent)


def test_a_task_pushed_again_inherits_the_key_and_the_time_of_the_first_one() -> None:
    again = Identity("9-5000", 5.0, IDENTITY.digest)
    assert kept().inherited(again) == IDENTITY


def test_identity_of_a_previous_release_is_dated_before_its_reply() -> None:
    again = Identity("9-5000000", 5000.0, IDENTITY.digest)
    old = KeptReply.read(b'{"error":true,"retryable":true,"timestamp":4000}')
    assert old is not None
    assert old.inherited(again) == Identity("9-5000000", 3100.0, IDENTITY.digest)
    kept = KeptReply.read(b'{"error":true,"retryable":true}')
    assert kept is not None
    assert kept.inherited(again) == again


def test_dead_letter_of_the_previous_release_has_only_a_time() -> None:
    again = Identity("9-5000000", 5000.0, IDENTITY.digest)
    reply = KeptReply.read(b'{"error":true,"retryable":true,"timestamp":4999,"taken_at":100.5}')
    assert reply is not None
    assert reply.is_of(TASK)
    assert reply is not None
    assert reply.inherited(again) == Identity("9-5000000", 100.5, IDENTITY.digest)


def test_retried_dead_letter_inherits_its_identity() -> None:
    letter = {"code": "too_many_deliveries", "time": 9000.0, **IDENTITY.fields()}
    reply = KeptReply.read(marked(b'{"error":true,"retryable":true}', letter))
    assert reply is not None
    assert reply.is_of(TASK)
    assert reply is not None
    assert reply.inherited(Identity("9-5000000", 5000.0, IDENTITY.digest)) == IDENTITY


def test_a_retried_dead_letter_that_could_not_be_read_is_a_task_of_its_own() -> None:
    letter = {"code": "malformed", "time": 9000.0, **Identity("7-1000", 1.0, None).fields()}
    again = Identity("9-9500000", 9500.0, IDENTITY.digest)
    reply = KeptReply.read(marked(b'{"error":true,"retryable":true}', letter))
    assert reply is not None
    assert reply.is_of(TASK)
    assert reply is not None
    assert reply.inherited(again).key == again.key


def test_dead_letter_without_an_identity_adds_no_members() -> None:
    assert marked(b'{"error":true}', {}) == b'{"error":true}'
