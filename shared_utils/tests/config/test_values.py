"""What is stripped from a value, and what is said of one that cannot be used."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared_utils.config.values import header_problem, is_service_port, trimmed, unquoted, value_problem


@pytest.mark.parametrize("left", ["\n", "\r\n", "\n\n", "\ufeff", "\u200b", "\x00", "\u2028"], ids=ascii)
@pytest.mark.parametrize("keep_spaces", [False, True])
def test_characters_left_around_a_value_are_stripped(left: str, keep_spaces: bool) -> None:
    assert trimmed(f"{left}a b{left}", keep_spaces=keep_spaces) == "a b"


def test_spaces_around_a_password_are_kept() -> None:
    assert trimmed(" a ", keep_spaces=True) == " a "
    assert trimmed(" \u3000a\u00a0\t") == "a"


@pytest.mark.parametrize(
    ("value", "inner"),
    [
        ('"a"', "a"),
        ("'a b'", "a b"),
        ('"it\'s"', "it's"),
        ('"a', '"a'),
        ('"', '"'),
        ('""', ""),
        ('"a"b"', '"a"b"'),
        ("\"a'", "\"a'"),
        ("", ""),
    ],
)
def test_one_pair_of_quotes_is_removed(value: str, inner: str) -> None:
    assert unquoted(value) == inner


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("a\x00b", "control character"),
        ("a\x1bb", "control character"),
        ("a\x85b", "control character"),
        ("a\udcffb", "not UTF-8"),
    ],
    ids=ascii,
)
def test_value_problem_names_the_fault_without_the_value(value: Any, says: Any) -> None:
    problem = value_problem(value)
    assert problem is not None
    assert says in problem
    assert value not in problem


def test_a_line_break_is_failure_only_where_one_line_is_wanted() -> None:
    assert value_problem("a\nb\tc") is None
    assert "line break" in (value_problem("a\nb", one_line=True) or "")


@given(st.text(st.characters(codec="utf-8")))
def test_any_text_a_header_can_hold_can_be_encoded_for_it(value: str) -> None:
    if header_problem(value) is None:
        assert value.encode("ascii").isascii()
    else:
        assert not value.isascii() or not value.isprintable()


@pytest.mark.parametrize(
    ("name", "value", "is_one"),
    [
        ("REDIS_PORT", "tcp://10.96.0.1:6379", True),
        ("REDIS_PORT", "udp://10.96.0.1:6379\n", True),
        ("REDIS_PORT", "6379", False),
        ("REDIS_URL", "tcp://10.96.0.1:6379", False),
        ("REDIS_PORT", "http://x", False),
    ],
)
def test_kubernetes_service_ports_are_recognised(name: str, value: str, is_one: bool) -> None:
    assert is_service_port(name, value) is is_one
