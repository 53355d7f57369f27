from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from letta_bridge.errors import LettaError, LettaRejected, OutcomeUnknown, TurnCancelled
from letta_bridge.letta import ToolState, TurnAnswer, Usage
from letta_bridge.letta.answer import turn_answer
from letta_bridge.letta.failures import refusal
from letta_bridge.letta.streamed_turn import StreamedTurn
from letta_bridge.testing.turn_listener import Heard
from shared_utils.llm.server_sent_events import ServerSentEvent

DONE = ServerSentEvent("", b"[DONE]")
RUN = "run-1"


def event(kind: str, *, event_name: str = "", **content: object) -> ServerSentEvent:
    return ServerSentEvent(event_name, json.dumps({"message_type": kind, "run_id": RUN, **content}).encode())


def said(text: str, message: str = "message-1") -> ServerSentEvent:
    return event("assistant_message", id=message, content=text)


def called(message: str = "message-2", **call: str) -> ServerSentEvent:
    return event("tool_call_message", id=message, tool_call=call, tool_calls=call)


def returned(call_id: str, status: str = "success", name: str | None = None) -> ServerSentEvent:
    one = {"tool_call_id": call_id, "status": status}
    return event("tool_return_message", id="message-3", name=name, tool_returns=[one], **one)


STOP = event("stop_reason", stop_reason="end_turn")
USAGE = event("usage_statistics", prompt_tokens=2, completion_tokens=1, total_tokens=3, step_count=1)
END = (STOP, USAGE, DONE)


def heard_of(*events: ServerSentEvent) -> tuple[Heard, TurnAnswer]:
    heard = Heard()
    turn = StreamedTurn(heard)
    for each in events:
        turn.hear(each)
    return heard, turn.finish()


def test_pieces_of_one_message_are_joined_and_two_messages_are_two_lines() -> None:
    heard, answer = heard_of(event("ping"), said("Wait"), said(" a bit."), said("Done", "message-9"), said(""), *END)
    assert answer == TurnAnswer("Wait a bit.\nDone", usage=Usage(2, 1, 3, 1))
    assert heard.runs == [RUN]
    assert heard.pieces == [("message-1", "Wait"), ("message-1", " a bit."), ("message-9", "Done")]


def test_thoughts_are_cut_from_the_answer_and_not_from_the_pieces() -> None:
    heard, answer = heard_of(said("<thi"), said("nk>Hm.</think>"), said("Yes"), *END)
    assert (answer.text, heard.messages) == ("Yes", ["<think>Hm.</think>Yes"])


def test_content_may_be_parts() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "image"}, "b", 7]
    heard, answer = heard_of(event("assistant_message", id="m", content=parts), *END)
    assert (answer.text, heard.messages) == ("ab", ["ab"])


def test_states_of_tools_are_told_once_for_each_call() -> None:
    heard, answer = heard_of(
        called(name="memory_insert", tool_call_id="c1"),
        called(arguments='{"label"', tool_call_id="c1"),
        called(arguments=': "human"}'),  # some providers' pieces lack the id
        called(name="memory_insert", tool_call_id="c2"),
        returned("c1"),
        returned("c1"),
        returned("c2", status="error"),
        returned("c3", name="web_search"),
        *END,
    )
    assert answer.memory_updated
    assert heard.tools == [
        ("memory_insert", ToolState.CALLED),
        ("memory_insert", ToolState.CALLED),
        ("memory_insert", ToolState.RETURNED),
        ("memory_insert", ToolState.FAILED),
        ("web_search", ToolState.RETURNED),
    ]


def test_failed_memory_tool_changes_nothing() -> None:
    _, answer = heard_of(called(name="memory_insert", tool_call_id="c"), returned("c", "error"), said("No"), *END)
    assert not answer.memory_updated


def test_what_older_agents_say_by_a_tool_is_told_at_the_end() -> None:
    call = '{"message": "Hello, 小明."}'
    pieces = [called(name="send_message", tool_call_id="c"), *(called(arguments=c, tool_call_id="c") for c in call)]
    heard, answer = heard_of(*pieces, returned("c", name="send_message"), *END)
    assert (answer.text, heard.messages, heard.tools) == ("Hello, 小明.", ["Hello, 小明."], [])


@pytest.mark.parametrize(
    "unknown",
    [
        event("new_kind", content="x"),
        event("hidden_reasoning_message"),
        ServerSentEvent("metrics", b"not JSON"),
        ServerSentEvent("metrics", b'{"message_type": "assistant_message", "content": "x"}'),
        ServerSentEvent("", b'{"message_type": {}}'),
        ServerSentEvent("", b"{}"),
        event("assistant_message", content=None),
        event("tool_call_message", tool_call="x", tool_calls=[3]),
        event("tool_return_message", tool_returns=[3]),
    ],
)
def test_unknown_events_are_skipped(unknown: ServerSentEvent) -> None:
    assert heard_of(said("Yes"), unknown, *END)[1].text == "Yes"


@pytest.mark.parametrize(
    "events",
    [
        (),
        (said("Yes"),),
        (said("Yes"), STOP, USAGE),
        (said("Yes"), USAGE, DONE),
        (said("Yes"), ServerSentEvent("", b'{"message_type": "assistant_mess'), *END),
        (said("Yes"), ServerSentEvent("", b"[1]"), *END),
    ],
    ids=["nothing", "no end", "no DONE", "no stop reason", "broken JSON", "no object"],
)
def test_a_stream_with_a_hole_or_without_its_end_is_in_doubt(events: tuple[ServerSentEvent, ...]) -> None:
    with pytest.raises(OutcomeUnknown) as caught:
        heard_of(*events)
    assert caught.value.cause == "connection_lost"


@pytest.mark.parametrize(
    "events",
    [
        [event("stop_reason", stop_reason="cancelled")],  # without [DONE], as Letta ends it in the middle
        [said("Yes"), event("stop_reason", stop_reason="cancelled"), DONE],
        [said("Yes"), event("stop_reason", stop_reason="cancelled"), USAGE, DONE],
        [ServerSentEvent("cancelled", b'{"message": "Run was cancelled"}')],
    ],
)
def test_a_cancelled_stream(events: list[ServerSentEvent]) -> None:
    with pytest.raises(TurnCancelled) as caught:
        heard_of(*events)
    assert caught.value.cause == "cancelled"


@pytest.mark.parametrize("reason", ["max_steps", "max_tokens_exceeded", "insufficient_credits", "error", "new"])
def test_the_stop_reason_is_that_of_the_answer(reason: str) -> None:
    assert heard_of(said("Yes"), event("stop_reason", stop_reason=reason), DONE)[1].stop_reason == reason


def _llm(kind: str, detail: str) -> dict[str, Any]:
    return {"error": {"type": kind, "message": "m", "detail": detail}}


_429 = "RATE_LIMIT_EXCEEDED: Rate limited by OpenAI: Error code: 429 - "
_QUOTA = _429 + str({"error": {"message": "You exceeded your current quota", "code": "insufficient_quota"}})
_CONTEXT = "CONTEXT_WINDOW_EXCEEDED: Bad request to OpenAI (context window exceeded): too long ({})"
_KEY = "UNAUTHENTICATED: Authentication failed with OpenAI: Error code: 401 - {'error': {'message': 'bad key'}}"
_NO_MODEL = "NOT_FOUND: Resource not found in OpenAI: Error code: 404 - {'error': {'code': 'model_not_found'}}"
_BAD = "INVALID_ARGUMENT: Bad request to OpenAI-compatible endpoint: odd"
_PAY = "PAYMENT_REQUIRED: no money"
_EMPTY = "Message content is empty or invalid"
_UNPROCESSABLE = "INVALID_ARGUMENT: Invalid request content for OpenAI: odd"


@pytest.mark.parametrize(
    ("kind", "detail", "status", "body"),
    [
        ("llm_rate_limit", _429 + "{}", 429, _llm("llm_rate_limit", _429 + "{}")),
        ("internal_error", _429 + "{}", 429, _llm("llm_rate_limit", _429 + "{}")),  # of a later step
        ("llm_rate_limit", _QUOTA, 429, _llm("llm_rate_limit", _QUOTA)),
        ("internal_error", _CONTEXT, 400, {"detail": _CONTEXT}),
        ("context_window_overflow_in_system_prompt", _CONTEXT, 400, {"detail": _CONTEXT}),
        ("llm_authentication", _KEY, 401, _llm("llm_authentication", _KEY)),
        ("llm_error", _NO_MODEL, 500, _llm("llm_error", _NO_MODEL)),
        ("llm_error", _BAD, 400, _llm("llm_bad_request", _BAD)),
        ("llm_error", _UNPROCESSABLE, 500, _llm("llm_error", _UNPROCESSABLE)),
        (
            "llm_error",
            "PAYMENT_REQUIRED: no money",
            402,
            _llm("llm_insufficient_credits", "PAYMENT_REQUIRED: no money"),
        ),
        ("llm_error", "INTERNAL_SERVER_ERROR: no", 500, _llm("llm_error", "INTERNAL_SERVER_ERROR: no")),
        ("llm_timeout", "TIMEOUT: no", 504, _llm("llm_timeout", "TIMEOUT: no")),
        ("llm_empty_response", "nothing", 500, _llm("llm_error", "nothing")),
        (
            "internal_error",
            "Message content is empty or invalid",
            400,
            {"detail": "Message content is empty or invalid"},
        ),
        ("internal_error", "A database deadlock was detected for Message.", 409, {"detail": "A database deadlock"}),
        ("cleanup_error", "boom", 500, {"detail": "boom"}),
        ("new", None, 500, {"detail": ""}),
    ],
)
def test_an_error_in_a_stream_is_that_of_a_turn_that_is_not_streamed(
    kind: str, detail: str | None, status: int, body: Mapping[str, Any]
) -> None:
    error = event("error_message", event_name="error", error_type=kind, message="m", detail=detail)
    whole = refusal(status, json.dumps(body).encode())
    for events in ([said("Well"), STOP, error], [error, DONE], [error._replace(name="")]):
        with pytest.raises(type(whole)) as caught:
            heard_of(*events)
        assert getattr(caught.value, "cause", None) == getattr(whole, "cause", None)


@pytest.mark.parametrize(
    ("content", "error", "cause"),
    [
        (
            {"error": "An exception occurred mid-stream", "code": "INTERNAL_SERVER_ERROR"},
            OutcomeUnknown,
            "server_error",
        ),
        ({"error": {"error_type": "llm_rate_limit", "detail": _429 + "{}"}}, OutcomeUnknown, "rate_limited"),
        ({"error": _CONTEXT, "code": "CONTEXT_WINDOW_EXCEEDED"}, LettaRejected, "context_overflow"),
        ({"error": None}, OutcomeUnknown, "server_error"),
    ],
)
def test_errors_of_other_forms(content: Mapping[str, Any], error: type[Exception], cause: str) -> None:
    for name in ("error", ""):
        with pytest.raises(error) as caught:
            heard_of(ServerSentEvent(name, json.dumps(content).encode()))
        assert vars(caught.value)["cause"] == cause


def test_an_error_quotes_no_text_of_the_request() -> None:
    turn = StreamedTurn(Heard())
    secret = "my secret is long enough"
    detail = _429 + str({"error": {"message": f"refused: {secret}", "code": "x"}})
    turn.hear(event("error_message", event_name="error", error_type="llm_rate_limit", message="m", detail=detail))
    with pytest.raises(OutcomeUnknown) as caught:
        turn.finish(sent=(secret,))
    assert secret not in str(caught.value)


_KINDS = ("assistant_message", "tool_call_message", "tool_return_message", "stop_reason", "usage_statistics", "ping")
_FIELDS = (
    "message_type",
    "id",
    "run_id",
    "content",
    "tool_call",
    "tool_calls",
    "tool_returns",
    "name",
    "error",
    "stop_reason",
)
_PARTS = ("name", "arguments", "tool_call_id", "status", "text", "type", "detail", "error_type")
_LEAVES = st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.sampled_from(_KINDS)
_VALUES = st.recursive(
    _LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(_PARTS), inner, max_size=4)
)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["", "error", "message", "cancelled", "x"]),
            _VALUES | st.dictionaries(st.sampled_from(_FIELDS), _VALUES, max_size=6),
        ),
        max_size=6,
    )
)
def test_any_json_gives_an_answer_or_an_error_of_the_port(events: list[tuple[str, Any]]) -> None:
    with suppress(LettaError):
        heard_of(*(ServerSentEvent(name, json.dumps(value).encode()) for name, value in events), *END)


_TEXTS = st.text(st.characters(codec="utf-8"), max_size=60)


@given(st.lists(st.tuples(_TEXTS, st.booleans()), max_size=5), st.integers(1, 7))
def test_the_answer_is_that_of_the_whole_messages(steps: list[tuple[str, bool]], size: int) -> None:
    whole: list[dict[str, Any]] = []
    events: list[ServerSentEvent] = []
    for number, (text, remembers) in enumerate(steps):
        arguments = json.dumps({"label": text})
        call = {"name": "memory_insert" if remembers else "roll_dice", "tool_call_id": f"call-{number}"}
        result = {"tool_call_id": f"call-{number}", "status": "success"}
        whole += [
            {"id": f"m{number}", "message_type": "assistant_message", "content": text},
            {"message_type": "tool_call_message", "tool_calls": [{**call, "arguments": arguments}]},
            {"message_type": "tool_return_message", **result},
        ]
        events += [said(text[at : at + size], f"m{number}") for at in range(0, len(text), size)]
        events += [called(**call)]
        events += [
            called(arguments=arguments[at : at + size], tool_call_id=f"call-{number}")
            for at in range(0, len(arguments), size)
        ]
        events += [event("tool_return_message", **result)]
    usage = json.loads(USAGE.data)
    assert heard_of(*events, *END)[1] == turn_answer({"messages": whole, "stop_reason": "end_turn", "usage": usage})
