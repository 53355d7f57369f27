from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared_utils.llm.server_sent_events import ServerSentEvent, ServerSentEvents, TooLong

BODY = """\ufeff: a comment
data: {"a":
data:  "小明"}

event: error
id: 7
retry: 10
data:no space

data

event: named without data

data: [DONE]

data: cut off"""
EVENTS = [
    ServerSentEvent("", '{"a":\n "小明"}'.encode()),
    ServerSentEvent("error", b"no space"),
    ServerSentEvent("", b""),
    ServerSentEvent("", b"[DONE]"),
]


def read(chunks: list[bytes], **limits: int) -> list[ServerSentEvent]:
    events = ServerSentEvents(**limits)
    return [event for chunk in chunks for event in events.read(chunk)]


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
@given(cuts=st.lists(st.integers(0, 200), max_size=40))
def test_events_are_the_same_wherever_the_bytes_are_cut(line_end: str, cuts: list[int]) -> None:
    body = BODY.replace("\n", line_end).encode()
    places = sorted({0, len(body), *(cut % len(body) for cut in cuts)})
    chunks = [body[start:end] for start, end in itertools.pairwise(places)]
    assert read([b"", *chunks, b""]) == EVENTS
    assert read([bytes([byte]) for byte in body]) == EVENTS


def test_a_line_feed_after_a_carriage_return_ends_no_second_line() -> None:
    assert read([b"data: one\r", b"", b"\ndata: two\r", b"\n\r", b"\n"]) == [ServerSentEvent("", b"one\ntwo")]


@pytest.mark.parametrize("chunk", [b"data: " + b"x" * 7, b"data: x\n" * 3, b"no end of a line" * 2, b":" * 25])
def test_an_event_has_a_limit(chunk: bytes) -> None:
    with pytest.raises(TooLong):
        read([chunk[:4], chunk[4:], b"\n"], longest_event=12)


def test_a_stream_has_a_limit() -> None:
    event = b"data: x\n\n"
    assert len(read([event] * 10, longest_stream=90)) == 10
    with pytest.raises(TooLong):
        read([event] * 11, longest_stream=90)
