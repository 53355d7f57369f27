"""Whatever bytes come in, what comes out can be encoded, stored and sent."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared_utils.text import REPLACEMENT, clean_json, clean_text, counted, is_clean, load_json, read_json, read_text

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(-1e9, 1e9) | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters()), inner, max_size=3),
    max_leaves=6,
)


@given(VALUES)
def test_any_json_value_is_read_and_can_be_encoded(value: Any) -> None:
    read = read_json(json.dumps(value))
    assert read == clean_json(value)
    json.dumps(read, ensure_ascii=False).encode()


@given(st.binary() | st.text(st.characters()))
def test_any_bytes_are_json_or_a_value_error(payload: bytes | str) -> None:
    try:
        value = read_json(payload)
    except ValueError:
        return
    json.dumps(value, ensure_ascii=False).encode()


@given(st.text(st.characters()))
def test_clean_text_keeps_every_character_that_can_be_kept(text: str) -> None:
    cleaned = clean_text(text)
    assert is_clean(cleaned)
    assert len(cleaned) == len(text)
    assert all(new in (old, REPLACEMENT) for old, new in zip(text, cleaned, strict=True))
    assert is_clean(text) == (cleaned == text)


@pytest.mark.parametrize(
    ("payload", "value"),
    [
        (b'"\\ud83d"', "\ufffd"),
        (b'"\\ud83d\\ude00"', "😀"),
        (b'"\\ude00\\ud83d"', "\ufffd\ufffd"),
        (b'"\\\\ud83d"', "\\ud83d"),
        (b'"\xff\\ud83d"', "\ufffd\ufffd"),
        (b'"\xed\xa0\xbd"', "\ufffd\ufffd\ufffd"),
        (b'"a\\u0000b"', "a\ufffdb"),
        (b'"a\x00b"', "a\ufffdb"),
        (b'"a\nb"', "a\nb"),
        (b"\xef\xbb\xbf[1]", [1]),
        (b"[1]\x00", [1]),
        (b'{"\\ud83d":{"\xff":["\\udc00"]}}', {"\ufffd": {"\ufffd": ["\ufffd"]}}),
        (b"[-" + b"9" * 5000 + b"]", [-math.inf]),
        ("\ufeff{}", {}),
        ('"\ud83d"', "\ufffd"),
    ],
    ids=ascii,
)
def test_characters_that_cannot_be_stored_become_the_replacement_character(payload: bytes | str, value: Any) -> None:
    assert read_json(payload) == value


def test_load_json_keeps_distinct_texts_distinct() -> None:
    assert load_json(b'["\\ud83d","\\ud83e","\xff"]') == ["\ud83d", "\ud83e", "\udcff"]


@pytest.mark.parametrize("payload", [b"", b"{", b"[" * 100_000, b"[" * 2000 + b"]" * 2000, b'{"a":' * 30_000, b"\x00"])
def test_invalid_json_raises_value_error(payload: bytes) -> None:
    with pytest.raises(ValueError):
        read_json(payload)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("你好\r\n".encode(), "你好\r\n"),
        (b"\xef\xbb\xbfhi", "hi"),
        ("你好 😀".encode("utf-16"), "你好 😀"),
        (b"\xfe\xff" + "hi".encode("utf-16-be"), "hi"),
        (b"\xff\xfe\x3d\xd8h\x00", "\ufffdh"),
        (b"cut \xe4\xbd", "cut \ufffd"),
        (b"a\x00b", "a\ufffdb"),
        (b"", ""),
    ],
    ids=ascii,
)
def test_a_file_is_read_as_text(content: bytes, text: str) -> None:
    assert read_text(content) == text


def test_a_number_stands_with_its_noun() -> None:
    assert [counted(number, "task") for number in range(3)] == ["0 tasks", "1 task", "2 tasks"]
