"""The queue's scripts and parse_task read the same user and task id from whatever a producer writes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from importlib import resources
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from redis import Redis

from letta_bridge.request_queue.keys import user_lane, user_of
from local_stack.valkey import Valkey
from shared_utils.contracts.limits import Limits
from shared_utils.contracts.messages import parse_task
from shared_utils.errors import MalformedMessage

pytestmark = pytest.mark.integration

LIMITS = Limits()
LUA = resources.files("letta_bridge.request_queue") / "lua"
SCRIPT = (
    (LUA / "records.lua").read_text()
    + (LUA / "task_ids.lua").read_text()
    + """
local user, task_id = read_ids(ARGV[1], tonumber(ARGV[2]))
return { user or false, task_id or false, user and user_lane(user) or false,
    user and user_of(user_lane(user)) or false, leading_task_id(ARGV[1]) or false }
"""
)


@pytest.fixture(scope="module")
def by_script(redis_server: Valkey) -> Iterator[Callable[..., Any]]:
    redis_server.start()
    redis_server.wait_ready()
    with Redis.from_url(redis_server.url) as client:
        script = client.register_script(SCRIPT)
        yield lambda payload: script(args=[payload, LIMITS.id_length * 4])


def check(by_script: Callable[..., Any], payload: bytes) -> None:
    user, task_id, lane, user_of_lane, leading_task_id = by_script(payload)
    try:
        task = parse_task(payload, LIMITS)
    except MalformedMessage:
        return  # whatever lane a refused task waits in, nothing is kept under its ids
    assert user == task.user_id.encode()
    assert (task_id or b"") == task.task_id.encode()
    assert leading_task_id in {None, task_id}
    assert lane == user_lane(task.user_id).encode()
    assert user_of_lane == str(user_of(user_lane(task.user_id))).encode() == user


NUMBERS = st.one_of(
    st.integers(),
    st.integers(-(2**70), 2**70),
    st.integers(2**53 - 3, 2**53 + 3),
    st.integers(10**14, 10**17),
    st.floats(),
    st.sampled_from([-0.0, 1.0, 2.0**53, 2.0**53 - 1, 1e15, 1e16, 1e22]),
).map(json.dumps)
TEXTS = st.text(st.characters(), max_size=6) | st.sampled_from(
    ["", "~7", "~full:7", "~", "\ud83d", "😀", "\ufeff", "a\x00"]
)
VALUES = st.one_of(
    NUMBERS,
    TEXTS.map(json.dumps),
    TEXTS.map(lambda text: json.dumps(text, ensure_ascii=False)),
    st.sampled_from(["null", "true", "false", "[]", "{}", "-0", "0x10", "012", "nan", "1e999", "-Infinity"]),
    st.sampled_from(['"\\ud83d\\ud83d\\ude00"', '"\\\\ud83d"']),
)
NAMES = st.sampled_from(
    ["user_id", "task_id", "content", "meta", "x", '\\"user_id', "user\\u005fid", "task\\u005Fid", "\\ud83d"]
)
SPACE = st.sampled_from(["", " ", "\n\t"])
OBJECTS = st.recursive(
    VALUES,
    lambda inner: st.lists(st.tuples(NAMES, SPACE, TEXTS.map(json.dumps) | inner), max_size=5).map(
        lambda members: "{" + ",".join(f'"{name}"{space}:{space}{value}' for name, space, value in members) + "}"
    ),
    max_leaves=12,
)


@st.composite
def payloads(draw: Callable[..., Any]) -> Any:
    text = draw(OBJECTS)
    payload = text.encode(errors="surrogatepass")
    if draw(st.booleans()):
        at = draw(st.integers(0, len(payload)))
        junk = draw(
            st.sampled_from([b"\xff", b"\xe4\xbd", b"\xed\xa0\xbd", b"\x00", b"\x01", b"\\ud83d", b"\\", b'"', b" "])
        )
        payload = payload[:at] + junk + payload[at:]
    before, after = (
        draw(st.sampled_from([b"", b"\xef\xbb\xbf", b"\n", b"\x00"])),
        draw(st.sampled_from([b"", b"\x00", b"\r\n"])),
    )
    return before + payload + after


@given(payload=payloads())
@settings(max_examples=1500, deadline=None)
@example(payload=b'{"user_id":1234567890123456789,"task_id":-9223372036854775808,"content":"hi"}')
@example(payload=b'{"user_id":1234567890123456789,"content":"half a pair \\ud83d"}')
@example(payload=b'{"user_id":-0,"content":"\\ud83d"}')
@example(payload=b'\xef\xbb\xbf{"user_id":"ada","task_id":"a\\ud83d"}\x00')
@example(payload=b'{"task_id":"a\xffb\xe4\xbd\xe4\xbd\xa0","content":"hi"}')
@example(payload=b'{"content":"a\x00b","user_id":"ada"}')
@example(payload=b'{"content":"user_id\\": 1234567890123456789, ","user_id":1234567890123456788}')
@example(payload=b'{"user_id":"a","meta":{"user_id":1234567890123456789.5},"task_id":9007199254740993}')
@example(payload=b'{"task_id":"a","task_id":"b"}')
@example(payload=b'{"task_id":"a","task\\u005fid":"b"}')
@example(payload=b'{"task_id":"a","meta":{"task_id":"b"}}')
@example(payload=b'{"task_id" : "a" ,"user_id":"ada","content":"\\u4f60\\u597d"}')
def test_scripts_and_python_read_the_same_ids(by_script: Callable[..., Any], payload: bytes) -> None:
    check(by_script, payload)


@given(payload=st.binary(max_size=40) | st.binary(max_size=10).map(lambda junk: b'{"user_id":"a' + junk + b'"}'))
@settings(max_examples=500, deadline=None)
def test_scripts_and_python_read_the_same_ids_from_raw_bytes(by_script: Callable[..., Any], payload: bytes) -> None:
    check(by_script, payload)


@pytest.mark.parametrize(
    "payload",
    [
        b'{"user_id":"ada",' + b" " * 200_000 + b'"x":1}\x00',
        b'{"content":"' + b"\\ud83d" * 40_000 + b'"}',
        b'{"content":"' + b'\\"' * 120_000 + b"\\ud83d" + b'"}',
        b'{"task_id":"' + b"\xff" * 200 + b'","x":"' + b"\xff" * 200_000 + b'"}',
        b'"user_id":' * 25_000,
        b'{"user_id":' + b"1" * 250_000,
    ],
    ids=lambda payload: repr(payload[:20]),
)
def test_no_payload_keeps_the_server_busy(by_script: Callable[..., Any], redis_server: Valkey, payload: bytes) -> None:
    with Redis.from_url(redis_server.url) as client:
        client.config_set("slowlog-log-slower-than", 500_000)
        client.slowlog_reset()
        check(by_script, payload)
        assert client.slowlog_len() == 0
