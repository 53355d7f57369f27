"""Values that the engines write differently and that are the same; and those that only look so."""

from __future__ import annotations

import pytest

from letta_server.transfer.comparison import _FORMS, _canonical

SAME = [
    ("vector", "[0.1,-2,1e-05]", "[0.100000001,-2,9.99999975e-06]"),
    ("real", "0.1", "0.100000001"),
    ("double precision", "0.1", "0.10000000000000001"),
    ("double precision", "NaN", "NaN"),
    ("jsonb", '{"a": 1, "b": [null]}', '{"b":[null],"a":1}'),
]
DIFFERENT = [
    ("vector", "[0.1,2]", "[0.10000001,2]"),
    ("vector", "[1,2]", "[2,1]"),
    ("real", "0.1", "0.10000001"),
    ("double precision", "0.1", "0.10000000000000002"),
    ("json", '{"a": 1}', '{"a":1}'),
    ("text", "a", "a "),
    ("text", "", None),
]


def canonical(kind: str, *values: str | None) -> bytes:
    return _canonical(values, [_FORMS.get(kind, str.encode)] * len(values))


@pytest.mark.parametrize(("kind", "ours", "theirs"), SAME)
def test_equal_values_have_one_canonical_form(kind: str, ours: str, theirs: str) -> None:
    assert canonical(kind, ours) == canonical(kind, theirs)


@pytest.mark.parametrize(("kind", "ours", "theirs"), DIFFERENT)
def test_different_values_differ_in_canonical_form(kind: str, ours: str, theirs: str | None) -> None:
    assert canonical(kind, ours) != canonical(kind, theirs)


def test_where_a_value_ends_matters() -> None:
    assert canonical("text", "a", "bc") != canonical("text", "ab", "c")
    assert canonical("text", None, "") != canonical("text", "", None)
