"""The message contract: read tolerantly, written exactly, and no payload brings the reader down."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared_utils.contracts.limits import Limits
from shared_utils.contracts.messages import (
    AiResponse,
    ErrorReply,
    Handover,
    MemoryMetadata,
    MemoryRecord,
    MemoryUpdate,
    Reply,
    Task,
    TaskResponse,
    Usage,
    dump,
    now,
    parse_task,
    salvage_ids,
)
from shared_utils.errors import MalformedMessage

LIMITS = Limits()

FULL_TASK = {
    "task_id": "0b9d3c0e-5c2f-4e0a-9d5c-0d8f4c1b2a3f",
    "type": "text",
    "user_id": "anonymous",
    "content": "今天天气怎么样？",
    "input_file": "voice/one.txt",
    "source": "user",
    "timestamp": 1234567890,
    "meta": {
        "memory_type": "permanent",
        "trace_id": "t-1",
        "lang": "zh",
        "from_channel": "asr_results",
        "provider": "whisper",
    },
}


def parse(content: dict[str, Any]) -> Task:
    return parse_task(json.dumps(content, ensure_ascii=False).encode(), LIMITS)


def parsed(message: Any) -> Any:
    return json.loads(dump(message))


def test_task_is_serialised_as_it_was_parsed() -> None:
    assert parsed(parse(FULL_TASK)) == FULL_TASK


@pytest.mark.parametrize("field", FULL_TASK)
def test_every_field_of_a_task_may_be_missing(field: str) -> None:
    task = parse({name: value for name, value in FULL_TASK.items() if name != field})
    expected = {"task_id": "", "type": "text", "user_id": "anonymous", "content": "", "source": "user"}
    assert getattr(task, field) == (type(task.meta)() if field == "meta" else expected.get(field))


@pytest.mark.parametrize("field", FULL_TASK)
def test_every_field_of_a_task_may_be_null(field: str) -> None:
    assert parse({**FULL_TASK, field: None}) == parse({n: v for n, v in FULL_TASK.items() if n != field})


@pytest.mark.parametrize(
    ("sent", "read"),
    [
        ({"user_id": ""}, {"user_id": "anonymous"}),
        ({"user_id": 0}, {"user_id": "0"}),
        ({"user_id": -5}, {"user_id": "-5"}),
        ({"user_id": 123456789}, {"user_id": "123456789"}),
        ({"task_id": 7}, {"task_id": "7"}),
        ({"type": "", "source": ""}, {"type": "text", "source": "user"}),
        ({"timestamp": 1.5}, {"timestamp": 1.5}),
        ({"timestamp": "2025-08-01T12:00:00+08:00"}, {"timestamp": "2025-08-01T12:00:00+08:00"}),
        ({"type": "video"}, {"type": "video"}),
        ({"user_id": "小明 🌸"}, {"user_id": "小明 🌸"}),
    ],
)
def test_tasks_are_parsed_tolerantly(sent: dict[str, Any], read: dict[str, Any]) -> None:
    task = parse(sent)
    assert {name: getattr(task, name) for name in read} == read


def test_unknown_fields_are_kept() -> None:
    content = {"room": {"id": 7, "title": "聊天室"}, "model_config": 1, "meta": {"x_emotion": ["喜"]}}
    written = parsed(parse(content))
    assert written["room"] == content["room"]
    assert written["model_config"] == 1
    assert written["meta"] == content["meta"]


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"null",
        b"[]",
        b"7",
        b'"text"',
        b"not json",
        b'{"task_id":"a"} x',
        b'{"content":true}',
        b'{"content":[{"type":"image_url","image_url":{"url":"https://example.org/a.png"}}]}',
        b'{"content":[{"type":"text"}]}',
        b'{"content":[5]}',
        b'{"meta":{"memory_type":5}}',
        b'{"meta":{"memory_type":["temporary"]}}',
        b'{"user_id":"a\\ud800"}',
        b'{"user_id":"a\xff"}',
        b'{"user_id":1e16}',
        b'{"user_id":true}',
        b'{"user_id":1.5}',
        b'{"user_id":{}}',
        b'{"user_id":' + b"9" * 5000 + b"}",
        b"[" * 200_000,
        b'{"x":' * 30_000,
        b'{"meta":{"x":' + b"[" * 5000 + b"]" * 5000 + b"}}",
        b'{"task_id":"a\\u0000b"}',
        b'{"user_id":"a\\nb"}',
        '{"user_id":"a\x85b"}'.encode(),
        '{"task_id":"a"}'.encode("utf-16"),
    ],
    ids=lambda payload: repr(payload[:24]),
)
def test_task_that_violates_the_contract_is_malformed(payload: bytes) -> None:
    with pytest.raises(MalformedMessage) as caught:
        parse_task(payload, LIMITS)
    assert caught.value.code == "malformed"
    assert not caught.value.retryable
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("field", ["user_id", "task_id"])
@pytest.mark.parametrize("number", [2**53 - 1, 2**53, 2**53 + 1, 1234567890123456789, -(2**63), 10**30])
def test_an_integer_id_is_its_digits_however_large(field: str, number: int) -> None:
    assert getattr(parse({field: number}), field) == str(number)


@pytest.mark.parametrize(("sent", "read"), [(b"7.0", "7"), (b"-0.0", "0"), (b"-0", "0"), (b"1e3", "1000")])
def test_a_floating_point_id_is_taken_where_it_is_exact(sent: bytes, read: str) -> None:
    assert parse_task(b'{"user_id":%s}' % sent, LIMITS).user_id == read


@pytest.mark.parametrize("sent", [b"9007199254740992.0", b"1e300", b"1.5", b"1e999", b"NaN"])
def test_an_inexact_floating_point_id_is_refused(sent: bytes) -> None:
    with pytest.raises(MalformedMessage, match="send it as text"):
        parse_task(b'{"user_id":%s}' % sent, LIMITS)


def test_of_a_repeated_key_the_last_counts() -> None:
    assert parse_task(b'{"user_id":"a","user_id":"b"}', LIMITS).user_id == "b"


@pytest.mark.parametrize("number", [b"NaN", b"Infinity", b"1e999"])
def test_a_number_json_does_not_know_is_never_written(number: bytes) -> None:
    task = parse_task(b'{"timestamp":' + number + b',"x":' + number + b"}", LIMITS)
    json.loads(dump(task), parse_constant=pytest.fail)


def test_a_payload_may_be_as_large_as_its_limit() -> None:
    payload = b'{"content":"%s"}' % (b"x" * 100)
    assert parse_task(payload, Limits(payload_bytes=len(payload))).content == "x" * 100
    with pytest.raises(MalformedMessage, match=f"{len(payload)} bytes; the maximum is {len(payload) - 1}"):
        parse_task(payload, Limits(payload_bytes=len(payload) - 1))


@pytest.mark.parametrize("field", ["user_id", "task_id"])
def test_an_id_may_be_as_long_as_its_limit(field: str) -> None:
    limits = Limits(id_length=16)
    assert getattr(parse_task(json.dumps({field: "名" * 16}).encode(), limits), field) == "名" * 16
    with pytest.raises(MalformedMessage, match=f"{field} has 17 characters; the maximum is 16"):
        parse_task(json.dumps({field: "x" * 17}).encode(), limits)


@pytest.mark.parametrize("place", [lambda value: {"x": value}, lambda value: {"meta": {"x": value}}])
def test_a_task_may_be_nested_as_deep_as_its_limit(place: Callable[..., Any]) -> None:
    def nested(levels: int) -> bytes:
        value: Any = 1
        for level in range(levels):
            value = [value] if level % 2 else {"x": value}
        return json.dumps(place(value)).encode()

    limits = Limits(depth=4)
    parse_task(nested(3), limits)
    with pytest.raises(MalformedMessage, match="deeper than 4 levels"):
        parse_task(nested(5), limits)


def test_refusal_names_ids_but_no_user_text() -> None:
    content = [{"type": "my secret", "text": "my secret"}]
    payload = json.dumps({"task_id": "t1", "user_id": "ada", "content": content, "meta": {"lang": "my secret"}})
    with pytest.raises(MalformedMessage) as caught:
        parse_task(payload.encode(), LIMITS)
    assert (caught.value.task_id, caught.value.user_id) == ("t1", "ada")
    assert "secret" not in str(caught.value)


def test_a_user_id_that_may_name_two_users_is_refused_with_the_task_id() -> None:
    with pytest.raises(MalformedMessage, match="two users") as caught:
        parse_task(b'{"task_id":"t1","user_id":"ada\\ud83d","content":"hi"}', LIMITS)
    assert (caught.value.task_id, caught.value.user_id) == ("t1", None)


@pytest.mark.parametrize(
    ("payload", "read"),
    [
        (b'{"content":"a\\ud83d"}', {"content": "a\ufffd"}),
        (b'{"content":"a\\ude00b"}', {"content": "a\ufffdb"}),
        (b'{"content":"\\ud83d\\ude00"}', {"content": "\U0001f600"}),
        (b'{"content":"a\xffb"}', {"content": "a\ufffdb"}),
        (b'{"content":"\xe4\xbd"}', {"content": "\ufffd\ufffd"}),
        (b'{"content":"a\\u0000b"}', {"content": "a\ufffdb"}),
        (b'{"content":"a\nb\tc"}', {"content": "a\nb\tc"}),
        (b'\xef\xbb\xbf{"content":"a"}', {"content": "a"}),
        (b'{"content":"a"}\x00', {"content": "a"}),
        (b'{"content":"a"}\r\n', {"content": "a"}),
        (b'{"task_id":"a\\ud83d","content":"a"}', {"task_id": "a\ufffd"}),
        (b'{"\\ud83d":1,"content":"a"}', {"content": "a"}),
        (b'{"x":' + b"9" * 5000 + b',"content":"a"}', {"content": "a"}),
        (b'{"x":"\\ud83d","content":"a","meta":{"lang":"\\ud83d","y":["\\ud83d"]}}', {"content": "a"}),
    ],
    ids=lambda value: repr(value[:30]) if isinstance(value, bytes) else None,
)
def test_invalid_unicode_becomes_the_replacement_character(payload: bytes, read: dict[str, str]) -> None:
    task = parse_task(payload, LIMITS)
    assert {name: getattr(task, name) for name in read} == read
    parse_task(dump(task), LIMITS)


@pytest.mark.parametrize(
    ("sent", "read"),
    [
        ([], {}),
        ([1], {}),
        ("", {}),
        ("web", {}),
        (5, {}),
        (False, {}),
        ('{"lang":"en"}', {"lang": "en"}),
        ({"lang": 5}, {"lang": "5"}),
        ({"trace_id": 17, "persona": 3}, {"trace_id": "17", "persona": "3"}),
        ({"lang": ["zh", "en"]}, {"lang": '["zh", "en"]'}),
        ({"memory_type": " Temporary "}, {"memory_type": "temporary"}),
        ({"memory_type": ""}, {}),
    ],
)
def test_meta_of_any_shape_loses_no_message(sent: Any, read: dict[str, Any]) -> None:
    task = parse({"content": "hi", "meta": sent})
    assert task.content == "hi"
    assert task.meta.model_dump(exclude_none=True) == read


@pytest.mark.parametrize(
    ("field", "sent", "read"),
    [
        ("type", 5, "5"),
        ("type", False, "text"),
        ("source", {"app": "web"}, '{"app": "web"}'),
        ("source", 0, "user"),
        ("input_file", False, None),
        ("input_file", [], None),
        ("input_file", 7, "7"),
        ("timestamp", [1], "[1]"),
        ("timestamp", True, "true"),
        ("timestamp", 10**400, str(10**400)),
    ],
)
def test_a_field_that_is_only_passed_on_may_have_any_shape(field: str, sent: Any, read: str | None) -> None:
    task = parse({"content": "hi", field: sent})
    assert (task.content, getattr(task, field)) == ("hi", read)


@pytest.mark.parametrize(
    ("sent", "read"),
    [
        (42, "42"),
        (1.5, "1.5"),
        ([], ""),
        (["a", "b"], "a\nb"),
        ([{"type": "text", "text": "a"}, {"type": "input_text", "text": "b"}, {"text": "c"}], "a\nb\nc"),
        ({"type": "text", "text": "a"}, "a"),
    ],
)
def test_content_is_text_or_text_parts(sent: Any, read: str) -> None:
    assert parse({"content": sent}).content == read


@pytest.mark.parametrize(
    ("sent", "named"),
    [
        ([{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "x"}}], "'image_url'"),
        ([{"type": "my secret words"}], "an unknown type"),
        ([{"type": "text", "text": 5}], "'text'"),
        ([None], "an unknown type"),
        ({}, "'text'"),
    ],
)
def test_a_content_part_without_text_is_named(sent: Any, named: str) -> None:
    with pytest.raises(MalformedMessage, match=f"content contains a part of (type )?{named}; only text parts"):
        parse({"content": sent})


@pytest.mark.parametrize(
    ("payload", "ids"),
    [
        (b'{"task_id":"a","user_id":"b"}', ("a", "b")),
        (b'{"task_id":5,"user_id":-1}', ("5", "-1")),
        (b'{"task_id":true,"user_id":null}', (None, None)),
        (b'{"task_id":"","user_id":["b"]}', (None, None)),
        (b'{"task_id":"a\\u0000","user_id":"' + b"u" * 257 + b'"}', (None, None)),
        (b'{"task_id":"a","content":"cut o', ("a", None)),
        (b'{"task_id":1.0,"user_id":12345678901234567890}', ("1", "12345678901234567890")),
        (b'{"task_id":1.5,"user_id":[]}', (None, None)),
        (b'{"task_id":"a\\ud83d","user_id":"b\\ud83d"}', ("a\ufffd", None)),
        (b'{"task_id":"a\xff","user_id":"b\xff"', ("a\ufffd", None)),
        (b'{"content":"\xff","task_id" : "a"', ("a", None)),
        (b'{"task_id":"\x01","user_id":"b"', (None, "b")),
        (b'{"content":"\\"task_id\\":\\"forged\\"', (None, None)),
        (b'{"task_id":"a","x":' + b"[" * 100_000, ("a", None)),
        (b'{"task_id":"a","x":' + b"9" * 5000 + b"}", ("a", None)),
        (b'{"task_id":"a","content":"' + b"x" * 100_000 + b'"}', ("a", None)),
        (b'["task_id"]', (None, None)),
        (b"", (None, None)),
    ],
    ids=lambda value: repr(value[:30]) if isinstance(value, bytes) else None,
)
def test_salvage_ids_returns_readable_ids(payload: bytes, ids: tuple[Any, ...]) -> None:
    assert salvage_ids(payload) == ids


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
TASKS = st.dictionaries(st.sampled_from([*FULL_TASK, "room"]), JSON, max_size=5).map(
    lambda content: json.dumps(content).encode()
)
BROKEN = st.builds(lambda payload, at, junk: payload[:at] + junk, TASKS, st.integers(0, 80), st.binary(max_size=4))


@given(st.binary(max_size=64) | TASKS | BROKEN | JSON.map(lambda content: json.dumps(content).encode()))
def test_any_payload_is_a_task_or_malformed(payload: bytes) -> None:
    salvage_ids(payload)
    try:
        task = parse_task(payload, LIMITS)
    except MalformedMessage:
        return
    again = parse_task(dump(task), LIMITS)
    assert (again.task_id, again.user_id, again.content) == (task.task_id, task.user_id, task.content)


REPLY = Reply(
    task_id="t1", user_id="anonymous", response_text="你好", memory_updated=True, source="letta", timestamp=1234567890
)


@pytest.mark.parametrize(
    ("message", "golden"),
    [
        (
            REPLY,
            (
                '{"task_id":"t1","user_id":"anonymous","response_text":"你好","memory_updated":true,"source":"letta",'
                '"timestamp":1234567890.0,"status":"ok","attempts":1}'
            ),
        ),
        (
            REPLY.model_copy(update={"agent_id": "agent-1", "usage": Usage(total_tokens=3), "fallback_reason": "x"}),
            (
                '{"task_id":"t1","user_id":"anonymous","response_text":"你好","memory_updated":true,"source":"letta",'
                '"timestamp":1234567890.0,"status":"ok","agent_id":"agent-1","usage":{"prompt_tokens":0,'
                '"completion_tokens":0,"total_tokens":3},"attempts":1,"fallback_reason":"x"}'
            ),
        ),
        (
            ErrorReply(task_id="t1", message="坏了", timestamp=1.5),
            (
                '{"task_id":"t1","error":true,"message":"坏了","source":"letta_bridge","timestamp":1.5,"status":"error",'
                '"code":"error","retryable":false,"attempts":1}'
            ),
        ),
        (TaskResponse(text="你好", source="letta"), '{"text":"你好","source":"letta"}'),
        (
            TaskResponse(text="x", source="letta_bridge", error=True),
            '{"text":"x","source":"letta_bridge","error":true}',
        ),
        (
            Handover(answer_key="k", answer_ttl=60, responses_channel="letta_responses", reason="breaker_open"),
            '{"version":1,"answer_key":"k","answer_ttl":60,"responses_channel":"letta_responses","reason":"breaker_open"}',
        ),
        (
            MemoryRecord(
                message_id="m1",
                user_id="ada",
                content="hi",
                source="user",
                timestamp="2025-08-01T00:00:00+00:00",
                require_ai_response=True,
                metadata=MemoryMetadata(task_id="t1", input_file="f", source="user", trace_id="x", lang="zh"),
            ),
            (
                '{"message_id":"m1","user_id":"ada","type":"text","content":"hi","source":"user",'
                '"timestamp":"2025-08-01T00:00:00+00:00","require_ai_response":true,"metadata":{"task_id":"t1",'
                '"input_file":"f","source":"user","trace_id":"x","lang":"zh"}}'
            ),
        ),
        (
            MemoryUpdate(
                user_id="ada",
                message_id="m1",
                source="user",
                content="hi",
                require_ai_response=True,
                timestamp="2025-08-01T00:00:00+00:00",
                task_id="t1",
            ),
            (
                '{"event_type":"memory_update","user_id":"ada","message_id":"m1","source":"user","content":"hi",'
                '"require_ai_response":true,"timestamp":"2025-08-01T00:00:00+00:00","task_id":"t1"}'
            ),
        ),
        (
            AiResponse(user_id="ada", text="hi", original_message_id="m1", timestamp=2, audio_file="a.wav"),
            '{"user_id":"ada","text":"hi","original_message_id":"m1","timestamp":2.0,"audio_file":"a.wav"}',
        ),
        (
            Task(task_id="t1", content="hi", timestamp=2),
            (
                '{"task_id":"t1","type":"text","user_id":"anonymous","content":"hi","source":"user","timestamp":2.0,'
                '"meta":{}}'
            ),
        ),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else None,
)
def test_messages_leave_in_exactly_this_form(message: Any, golden: str) -> None:
    assert dump(message).decode() == golden
    assert type(message).model_validate_json(golden) == message


@pytest.mark.parametrize(
    ("model", "contract"),
    [
        (Task, {"task_id", "type", "user_id", "content", "input_file", "source", "timestamp", "meta"}),
        (Reply, {"task_id", "user_id", "response_text", "memory_updated", "source", "timestamp"}),
        (ErrorReply, {"task_id", "error", "message", "source", "timestamp"}),
        (TaskResponse, {"text", "source", "error"}),
        (
            MemoryRecord,
            {"message_id", "user_id", "type", "content", "source", "timestamp", "require_ai_response", "metadata"},
        ),
        (MemoryMetadata, {"task_id", "input_file", "source", "trace_id", "lang"}),
        (
            MemoryUpdate,
            {
                "event_type",
                "user_id",
                "message_id",
                "source",
                "content",
                "require_ai_response",
                "timestamp",
                "task_id",
            },
        ),
        (AiResponse, {"user_id", "text", "original_message_id", "timestamp", "audio_file"}),
    ],
)
def test_no_field_other_programs_know_was_renamed_or_dropped(model: Any, contract: set[str]) -> None:
    assert contract <= model.model_fields.keys()


def test_a_chat_ais_answer_is_read_tolerantly() -> None:
    answer = AiResponse.model_validate({"user_id": 7, "text": None, "timestamp": 1.5, "audio_file": 0, "mood": "glad"})
    assert (answer.user_id, answer.text, answer.audio_file, answer.model_extra) == ("7", "", None, {"mood": "glad"})


def test_now_is_in_seconds() -> None:
    assert 1_700_000_000 < now() < 10_000_000_000
