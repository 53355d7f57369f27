"""The client's part of the contract, compared with the bridge's."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from letta_bridge.request_queue.idempotency import content_digest
from letta_bridge.request_queue.keys import Keys
from letta_bridge_client import Reply, Usage
from letta_bridge_client.task import Task, reply_key
from shared_utils.contracts import messages
from shared_utils.contracts.limits import Limits

LIMITS = Limits(payload_bytes=1_000_000, id_length=256, depth=32)
TEXTS = st.text(st.characters(codec=None, exclude_categories=()), max_size=80)


@given(text=TEXTS, persona=st.none() | st.sampled_from(["work", "工作"]))
def test_bridge_reads_the_task_that_was_meant(text: str, persona: str | None) -> None:
    task = Task.of("ada:%", text, persona=persona)
    read = messages.parse_task(task.payload, LIMITS)
    assert (read.task_id, read.user_id, read.meta.persona) == (task.task_id, "ada:%", persona)
    assert content_digest(read) == task.digest
    assert len(read.content) == len(text)


@pytest.mark.parametrize("user", ["ada", "用户:1", "a%3Ab", "100%", "~7"])
def test_kept_reply_is_read_under_the_bridges_key(user: str) -> None:
    assert reply_key("letta_requests", user, "t:1") == Keys("letta_requests").reply(user, "t:1")


@pytest.mark.parametrize("user", ["", True, None, 1.5, "a\0", "\ud800", "a\nb", "\x9f"])
def test_a_user_without_a_plain_id_is_refused(user: object) -> None:
    with pytest.raises(ValueError, match="user"):
        Task.of(user, "hello")  # type: ignore[arg-type]  # what a caller may pass


def test_numbers_are_ids_too() -> None:
    assert Task.of(42, "hello").user_id == "42"


def test_options_become_metadata_and_unset_ones_do_not() -> None:
    task = Task.of("ada", "hello", memory="temporary", persona=None, meta={"persona": "work", "room": 7})
    assert json.loads(task.payload)["meta"] == {"persona": "work", "room": 7, "memory_type": "temporary"}
    assert content_digest(messages.parse_task(task.payload, LIMITS)) == task.digest


def test_a_reply_keeps_every_field_of_the_contract() -> None:
    sent = messages.Reply(
        task_id="1",
        user_id="ada",
        response_text="你好",
        memory_updated=True,
        source="letta",
        timestamp=5.5,
        agent_id="agent-1",
        usage=messages.Usage(prompt_tokens=1, completion_tokens=2, total_tokens=3),
        attempts=2,
        fallback_reason="circuit_open",
        fallback_cause="timeout",
        canned=True,
        truncated=True,
    )
    reply = Reply.of(json.loads(messages.dump(sent)))
    assert reply == Reply(
        task_id="1",
        user_id="ada",
        text="你好",
        source="letta",
        memory_updated=True,
        agent_id="agent-1",
        usage=Usage(1, 2, 3),
        attempts=2,
        fallback_reason="circuit_open",
        fallback_cause="timeout",
        canned=True,
        truncated=True,
        timestamp=5.5,
    )
    assert set(messages.Reply.model_fields) - {"response_text", "status"} <= set(Reply.__dataclass_fields__) - {"raw"}


def test_an_interrupted_reply_is_the_beginning_of_an_answer() -> None:
    sent = messages.Reply(
        task_id="1",
        user_id="ada",
        response_text="One. Two.",
        memory_updated=False,
        source="letta",
        timestamp=5.5,
        status="interrupted",
        heard_text="One.",
    )
    reply = Reply.of(json.loads(messages.dump(sent)))
    assert (reply.ok, reply.status, reply.text, reply.heard_text) == (True, "interrupted", "One. Two.", "One.")


def test_an_error_has_the_same_shape() -> None:
    sent = messages.ErrorReply(
        task_id="1", user_id="ada", message="Wait.", timestamp=5.5, code="user_rate_limited", retryable=True
    )
    reply = Reply.of(json.loads(messages.dump(sent)))
    assert (reply.ok, reply.status, reply.text, reply.code, reply.retryable) == (
        False,
        "error",
        "Wait.",
        "user_rate_limited",
        True,
    )


@given(content=st.dictionaries(st.sampled_from(sorted(messages.Reply.model_fields)), st.none() | st.booleans() | TEXTS))
def test_a_strange_reply_is_read_nevertheless(content: dict[str, object]) -> None:
    assert Reply.of(content).status == "ok"
