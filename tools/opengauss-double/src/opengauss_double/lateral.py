"""Finds a construct that only PostgreSQL accepts: a function in FROM that reads an earlier table of the same FROM.

Seen where the function's arguments name that table (`FROM t, unnest(t.list)`); a bare column (`unnest(list)`) is not.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from opengauss_double.errors import Refusal
from opengauss_double.rules import name_end
from opengauss_double.tokens import Token, closing

_ENDS = frozenset(
    [
        "WHERE",
        "GROUP",
        "ORDER",
        "HAVING",
        "LIMIT",
        "OFFSET",
        "FETCH",
        "UNION",
        "INTERSECT",
        "EXCEPT",
        "WINDOW",
        "FOR",
        "RETURNING",
        "SET",
    ]
)
_NO_ALIAS = _ENDS | frozenset(["ON", "USING", "JOIN", "LEFT", "RIGHT", "FULL", "INNER", "CROSS", "NATURAL", "AS"])


def implicit_lateral(tokens: Sequence[Token]) -> Refusal | None:
    """The refusal of the first such function in the significant tokens of a statement."""
    for index, token in enumerate(tokens):
        if token.upper != "FROM" or (index and tokens[index - 1].upper == "DISTINCT"):
            continue
        seen: set[str] = set()
        for at in _items(tokens, index + 1):
            end = _relation_end(tokens, at)
            if end is None or tokens[at].upper == "LATERAL":
                continue
            if end < len(tokens) and tokens[end].text == "(":
                close = closing(tokens, end)
                if _reads(tokens[end:close], seen):
                    message = "function expression in FROM cannot refer to other relations of same query level"
                    return Refusal("42P10", message, position=tokens[at].start)
                end = close + 1
            seen.update(_names(tokens, end - 1, end))
    return None


def _items(tokens: Sequence[Token], at: int) -> Iterator[int]:
    """Where each item of the FROM clause starts."""
    yield at
    while at < len(tokens):
        token = tokens[at]
        if token.text == "(":
            at = closing(tokens, at)
        elif token.text == ")" or token.upper in _ENDS:
            return
        elif token.text == "," or token.upper == "JOIN":
            yield at + 1
        at += 1


def _relation_end(tokens: Sequence[Token], at: int) -> int | None:
    """Index behind the name or the parenthesis at `at`."""
    if at < len(tokens) and tokens[at].text == "(":
        return closing(tokens, at) + 1
    return name_end(tokens, at)


def _names(tokens: Sequence[Token], last: int, end: int) -> Iterator[str]:
    if tokens[last].is_name:
        yield tokens[last].name
    if end < len(tokens) and tokens[end].upper == "AS":
        end += 1
    if end < len(tokens) and tokens[end].is_name and tokens[end].upper not in _NO_ALIAS:
        yield tokens[end].name


def _reads(arguments: Sequence[Token], seen: set[str]) -> bool:
    pairs = itertools.pairwise(arguments)
    return any(name.is_name and dot.text == "." and name.name in seen for name, dot in pairs)
