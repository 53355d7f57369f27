from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opengauss_double.tokens import Kind, closing, joined, significant, statements, tokenise

_PIECES = [
    "'",
    "''",
    '"',
    "$$",
    "$a$",
    "$1",
    "/*",
    "*/",
    "--",
    "\n",
    " ",
    ";",
    "(",
    ")",
    "E'",
    "\\",
    "a",
    "1",
    ".",
    "-",
    "@",
]


def texts(sql: str) -> list[str]:
    return [token.text for token in significant(tokenise(sql))]


def kinds(sql: str) -> list[Kind]:
    return [token.kind for token in tokenise(sql)]


@given(st.text() | st.lists(st.sampled_from(_PIECES)).map("".join))
def test_nothing_is_lost_and_nothing_crashes(sql: str) -> None:
    tokens = tokenise(sql)
    assert joined(tokens) == sql
    assert all(sql.startswith(token.text, token.start) and token.text for token in tokens)


@given(st.lists(st.sampled_from(_PIECES)).map("".join))
def test_statements_joined_are_the_query_string(sql: str) -> None:
    assert "".join(joined(piece) for piece in statements(tokenise(sql))) == sql


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("SELECT 'a;b'", ["SELECT", "'a;b'"]),
        ("SELECT 'it''s'", ["SELECT", "'it''s'"]),
        (r"SELECT E'a\'b', 'c\'", ["SELECT", r"E'a\'b'", ",", r"'c\'"]),
        ("$body$ 'x' $$ $body$", ["$body$ 'x' $$ $body$"]),
        ("$1+$2", ["$1", "+", "$2"]),
        ("a$1 b", ["a$1", "b"]),
        ('"a""b".c', ['"a""b"', ".", "c"]),
        ("1..2", ["1", "..", "2"]),
        ("1.5e-3", ["1.5e-3"]),
        ("a/* x /* y */ z */b", ["a", "b"]),
        ("a--;\nb", ["a", "b"]),
        ("a->>'b'", ["a", "->>", "'b'"]),
        ("a@-1", ["a", "@-", "1"]),
        ("2*-1", ["2", "*", "-", "1"]),
        ("1--1", ["1"]),
        ("a+/*b*/c", ["a", "+", "c"]),
        ("x::int[]", ["x", "::", "int", "[", "]"]),
        ("U&'d' B'1' n'a'", ["U&'d'", "B'1'", "n'a'"]),
        ("größe = 1", ["größe", "=", "1"]),
    ],
)
def test_cuts_as_the_servers_lexer_does(sql: str, expected: list[str]) -> None:
    assert texts(sql) == expected


@pytest.mark.parametrize("sql", ["'open", '"open', "$a$ open", "/* open", "E'open\\'"])
def test_unclosed_token_extends_to_the_end(sql: str) -> None:
    assert len(tokenise(sql)) == 1


def test_statements_end_at_semicolons_outside_parentheses_and_quotes() -> None:
    sql = "SELECT ';'; CREATE RULE r AS ON INSERT TO t DO (SELECT 1; SELECT 2); DO $$ a; b $$"
    assert [len(significant(piece)) > 0 for piece in statements(tokenise(sql))] == [True, True, True]


def test_a_quoted_identifier_is_a_name_and_no_keyword() -> None:
    word, quoted = tokenise('Listen"Listen"')
    assert (word.upper, word.name) == ("LISTEN", "listen")
    assert (quoted.upper, quoted.name) == ("", "Listen")
    assert kinds("\"a\"'b'") == [Kind.QUOTED, Kind.STRING]


def test_a_parenthesis_never_closed_closes_at_the_end() -> None:
    assert closing(tokenise("((a)"), 0) == 3
