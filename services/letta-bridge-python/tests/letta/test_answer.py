from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from letta_bridge.letta.answer import answer_of, parse_answer, turn_answer
from letta_bridge.letta.port import TurnAnswer, Usage


def said(content: object) -> dict[str, object]:
    return {"message_type": "assistant_message", "content": content}


def called(name: object, arguments: object, call_id: str = "call-1") -> dict[str, object]:
    call = {"name": name, "arguments": arguments, "tool_call_id": call_id}
    return {"message_type": "tool_call_message", "tool_call": call, "tool_calls": [call]}


def returned(status: str, *, name: str | None = None, call_id: str = "call-1") -> dict[str, object]:
    return {
        "message_type": "tool_return_message",
        "name": name,
        "status": status,
        "tool_call_id": call_id,
        "tool_return": "secret",
    }


def text_of(*messages: object) -> str:
    return answer_of(list(messages), stop_reason="end_turn").text


@pytest.mark.parametrize(
    ("messages", "text"),
    [
        ([said("你好")], "你好"),
        ([said([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}])], "ab"),
        ([said([{"type": "reasoning", "text": "secret"}, {"type": "text", "text": "a"}, {"text": "b"}, 7])], "ab"),
        ([said("one"), said("two")], "one\ntwo"),
        ([said("one"), said("  "), said("two")], "one\ntwo"),
        ([said(" \n")], ""),
        ([said(None)], ""),
        ([], ""),
        ([{"message_type": "reasoning_message", "reasoning": "secret", "content": "secret"}], ""),
        ([{"message_type": "hidden_reasoning_message", "hidden_reasoning": "secret"}, said("a")], "a"),
        ([{"message_type": "user_message", "content": "mine"}, said("a")], "a"),
        ([returned("success", name="memory_insert")], ""),
        ([{"message_type": "something_new", "content": "x"}, None, 3, "y", said("a")], "a"),
        ([called("send_message", '{"message": "hi"}')], "hi"),
        ([called("send_message", '{"message": "hi"}'), said("spoken")], "spoken"),
        ([called("send_message", {"message": "hi"})], "hi"),
        ([called("send_message", '{"message": "cut o')], "cut o"),
        ([called("send_message", '{"message": "a\\nb", "oops')], "a\nb"),
        ([called("send_message", '{"message": "a \\u12')], "a \\u12"),
        ([called("send_message", "no json")], ""),
        ([called("send_message", '["message"]')], ""),
        ([called("send_message", None)], ""),
        ([called("other_tool", '{"message": "secret"}')], ""),
        ([{"message_type": "tool_call_message", "tool_call": {"name": "send_message", "arguments": "{}"}}], ""),
        ([said("a\x00b\ud800c")], "a\ufffdb\ufffdc"),
        ([said("<think>hm</think>\n\nhi")], "hi"),
        ([said("<think>hm")], ""),
        ([said("<think>hm"), said("hi")], "hi"),
        ([said('{"name": "memory_insert", "arguments": {"label": "human"}}')], ""),
        ([called("send_message", '{"message": "<think>hm</think>hi"}')], "hi"),
        ([said("<think>hm"), called("send_message", '{"message": "hi"}')], "hi"),
    ],
)
def test_answer_text_is_joined_from_the_messages(messages: list[object], text: str) -> None:
    assert text_of(*messages) == text


def test_both_forms_of_a_tool_call_are_said_once() -> None:
    assert text_of(called("send_message", '{"message": "one"}'), called("send_message", '{"message": "two"}')) == (
        "one\ntwo"
    )


@pytest.mark.parametrize(
    ("messages", "updated"),
    [
        ([called("memory_insert", "{}"), returned("success")], True),
        ([called("memory_insert", "{}"), returned("error")], False),
        ([called("conversation_search", "{}"), returned("success")], False),
        ([returned("success", name="core_memory_append")], True),
        ([called("memory_insert", "{}")], False),
        (
            [
                called("memory_replace", "{}", "a"),
                {"message_type": "tool_return_message", "tool_returns": [{"status": "success", "tool_call_id": "a"}]},
            ],
            True,
        ),
        ([called("conversation_search", "{}", "a"), returned("success", name="memory_insert", call_id="a")], False),
    ],
)
def test_an_answer_says_whether_memory_was_updated(messages: list[object], updated: bool) -> None:
    assert answer_of(messages, stop_reason="end_turn").memory_updated is updated


def test_a_response_is_parsed_with_stop_reason_and_usage() -> None:
    response = {
        "messages": [said("hi")],
        "stop_reason": {"message_type": "stop_reason", "stop_reason": "max_steps"},
        "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5, "step_count": 1, "more": None},
    }
    expected = TurnAnswer("hi", "max_steps", Usage(3, 2, 5, 1))
    assert not expected.truncated
    assert TurnAnswer("hi", "max_tokens_exceeded").truncated
    assert turn_answer(response) == expected
    assert parse_answer(json.dumps(response).encode()) == expected


@pytest.mark.parametrize(
    "response",
    [{}, {"messages": None, "stop_reason": 3, "usage": []}, {"usage": {"prompt_tokens": "3", "total_tokens": True}}],
)
def test_a_response_without_its_parts(response: dict[str, object]) -> None:
    assert turn_answer(response) == TurnAnswer("", "unknown")


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"null", b"\xff\xfe\x00", b"[" * 100_000])
def test_parse_answer_refuses_an_invalid_body(body: bytes) -> None:
    with pytest.raises(ValueError):
        parse_answer(body)


_KEYS = st.sampled_from(
    [
        *("messages", "message_type", "content", "type", "text", "name", "tool_call", "tool_calls", "tool_return"),
        *("tool_returns", "arguments", "status", "tool_call_id", "stop_reason", "usage", "prompt_tokens", "message"),
    ]
)
_WORDS = st.sampled_from(
    [
        *("assistant_message", "tool_call_message", "tool_return_message", "user_message", "reasoning_message"),
        *("text", "send_message", "memory_insert", "success"),
    ]
)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | _WORDS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_KEYS, inner, max_size=5),
    max_leaves=15,
)
_MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"message_type": _WORDS},
        optional={
            "content": _JSON,
            "tool_call": _JSON,
            "tool_calls": _JSON,
            "tool_returns": _JSON,
            "status": _WORDS,
            "name": _JSON,
        },
    )
)


@given(response=st.dictionaries(_KEYS, _JSON))
def test_any_object_has_an_answer(response: dict[str, object]) -> None:
    answer = turn_answer(response)
    answer.text.encode()
    assert isinstance(answer.stop_reason, str)
    assert answer.usage is None or answer.usage.total_tokens > 0


@given(messages=_MESSAGES | _JSON)
def test_any_messages_have_an_answer(messages: object) -> None:
    answer_of(messages, stop_reason="").text.encode()


@given(secret=st.uuids().map(str), kind=st.sampled_from(["reasoning_message", "hidden_reasoning_message", "x"]))
def test_nothing_but_assistant_text_gets_out(secret: str, kind: str) -> None:
    hidden = {"message_type": kind, "content": secret, "reasoning": secret, "text": secret}
    assert text_of(hidden, returned(secret), said([{"type": "thinking", "text": secret}])) == ""


@given(arguments=st.text() | st.text().map(lambda t: json.dumps({"message": t})[:-1]))
def test_broken_arguments_never_raise(arguments: str) -> None:
    text_of(called("send_message", arguments)).encode()
