"""Whose a payload is, in every JSON form a user id may have."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared_utils.contracts.limits import BOUNDS
from shared_utils.contracts.messages import parse_task
from shared_utils.contracts.ownership import Ownership, owners, ownership
from shared_utils.errors import MalformedMessage


@pytest.mark.parametrize(
    ("payload", "user"),
    [
        (b'{"user_id":"42"}', "42"),
        (b'{"user_id":42}', "42"),
        (b'{"user_id":-0}', "0"),
        (b'{"user_id":"Ada"}', "Ada"),
        (b'{"user_id":"\\u0041da"}', "Ada"),
        (b'{"user\\u005fid":"Ada"}', "Ada"),
        (b'{"user_id":"bob","user_id":"Ada"}', "Ada"),
        (b'{"content":"x"}', "anonymous"),
        (b'{"user_id":null}', "anonymous"),
        (b'{"user_id":""}', "anonymous"),
        # what ends as a dead letter
        (b'{"user_id":42.0}', "42"),
        (b'{"user_id":123456789012345678901}', "123456789012345678901"),
        (b'{"user_id":"Ada","meta":[]}', "Ada"),
        (b'{"user_id":"A\\nda"}', "A\nda"),
        (b'\xef\xbb\xbf{"user_id":"Ada","content":7}', "Ada"),
        (b'{"user_id":"Ada","content":"\xff"}', "Ada"),
        (b'{"user_id":"Ada","content":"cut', "Ada"),
        (b'{"content":"cut short","user_id": 42, "x', "42"),
        (b'{"user_id":"\\u0041da","content":', "Ada"),
        (b'{"user_id":null,"content":', "anonymous"),
        (b'[{"user_id":"Ada"}]', "Ada"),
    ],
)
def test_a_payload_is_its_users(payload: bytes, user: str) -> None:
    assert owners(payload) == {user}
    assert ownership(payload, user) is Ownership.THEIRS
    assert ownership(payload, f"{user}x") is Ownership.OTHERS


@pytest.mark.parametrize(
    "payload",
    [b"", b"null", b"7", b"[]", b'"Ada"', b"\xff", b'{"user_id":["Ada"]}', b'{"user_id":true}', b'{"user_id":0x10,"x'],
)
def test_payload_without_a_user_has_no_owner(payload: bytes) -> None:
    assert owners(payload) == frozenset()


def test_a_payload_that_names_several_is_no_single_ones() -> None:
    payload = b'[{"user_id":"Ada"},{"user_id":"bob"}]'
    assert ownership(payload, "Ada") is Ownership.SHARED
    assert ownership(payload, "cy") is Ownership.OTHERS


def test_only_the_tasks_own_user_counts_not_one_inside_it() -> None:
    assert owners(b'{"user_id":"bob","meta":{"user_id":"Ada"}}') == {"bob"}


SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
FIELDS = st.sampled_from(["user_id", "content", "meta", "task_id"])


@given(st.dictionaries(FIELDS, st.recursive(SCALARS, st.lists, max_leaves=3)))
def test_it_never_disagrees_with_the_reader_of_tasks(task: dict[str, Any]) -> None:
    payload = json.dumps(task).encode()
    try:
        user = parse_task(payload, BOUNDS).user_id
    except MalformedMessage:
        assert len(owners(payload)) <= 1
    else:
        assert owners(payload) == {user}
