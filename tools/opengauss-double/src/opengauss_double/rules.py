"""Which statements are refused for their text: the rows of facts/syntax.toml as patterns over tokens.

A pattern is a list of elements, each standing for significant tokens:

    WORD         the keyword or mark, unquoted, in any case
    #name        the identifier, quoted or not
    A|B          either
    ...          any number of tokens, as few as possible
    <name>       a name with its qualifiers
    <args>       a balanced parenthesis
    <several>    nothing, if the parenthesis just opened holds more than one argument
    ^  $         the statement's start and end
    {reserved}   any word that openGauss reserves and PostgreSQL does not
    !element     the token that the message names
"""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import cache
from typing import Any

from opengauss_double import facts
from opengauss_double.errors import SYNTAX_ERROR, Refusal
from opengauss_double.profiles import Profile
from opengauss_double.tokens import Token, closing

_RESERVED = [
    "AUTHID",
    "BUCKETS",
    "EXCLUDED",
    "GROUPPARENT",
    "LESS",
    "MINUS",
    "MODIFY",
    "NOCYCLE",
    "PERFORMANCE",
    "PROCEDURE",
    "REJECT",
    "ROWNUM",
    "SHRINK",
    "SYSDATE",
    "VERIFY",
    "CSN",
    "COMPACT",
    "DELTAMERGE",
    "HDFSDIRECTORY",
    "RECYCLEBIN",
    "TIMECAPSULE",
]


@dataclass(frozen=True)
class _Element:
    kind: str
    words: frozenset[str]
    names: frozenset[str]
    marked: bool

    @classmethod
    def of(cls, text: str) -> _Element:
        marked = len(text) > 1 and text.startswith("!")
        text = text.removeprefix("!") if marked else text
        if text in ("...", "<name>", "<args>", "<several>", "^", "$"):
            return cls(text, frozenset(), frozenset(), marked)
        choices = _RESERVED if text == "{reserved}" else text.split("|")
        names = frozenset(choice[1:] for choice in choices if choice.startswith("#"))
        return cls("word", frozenset(choices) - names, names, marked)

    def end(self, tokens: Sequence[Token], at: int) -> int | None:
        """Index behind what the element takes at `at`; None where it takes nothing there."""
        if self.kind in ("^", "$"):
            return at if at == (0 if self.kind == "^" else len(tokens)) else None
        if self.kind == "<several>":
            return at if _arguments(tokens, at - 1) > 1 else None
        if at >= len(tokens):
            return None
        if self.kind == "<args>":
            return closing(tokens, at) + 1 if tokens[at].text == "(" else None
        if self.kind == "<name>":
            return name_end(tokens, at)
        token = tokens[at]
        return at + 1 if token.upper in self.words or (token.is_name and token.name in self.names) else None


@dataclass(frozen=True)
class Rule:
    """One row: what it refuses and how."""

    feature: str
    patterns: tuple[tuple[_Element, ...], ...]
    sqlstate: str
    message: str
    only_in_transaction: bool
    examples: tuple[str, ...]

    def refusal(self, tokens: Sequence[Token], present: AbstractSet[str]) -> Refusal | None:
        """The refusal of the statement with these significant tokens, if any; `present` are their `upper`."""
        for pattern in self.patterns:
            # A statement may be a million tokens long: nothing is searched for that cannot be there.
            if any(element.words and element.words.isdisjoint(present) for element in pattern if not element.names):
                continue
            # A pattern bound to the start is tried there only.
            starts = 1 if pattern[0].kind == "^" else len(tokens)
            for start in range(starts):
                marked = _match(pattern, tokens, start)
                if marked is not None:
                    return self._refusal(tokens, marked)
        return None

    def _refusal(self, tokens: Sequence[Token], marked: int) -> Refusal:
        if marked >= len(tokens):
            return Refusal(self.sqlstate, self.message)
        near = tokens[marked]
        path = "".join(token.text for token in tokens[marked : name_end(tokens, marked)])
        message = self.message.format(near=near.text, near_lower=near.text.lower(), near_path=path.lower())
        position = near.start if self.sqlstate in (SYNTAX_ERROR, "42883", "42703") else None
        return Refusal(self.sqlstate, message, position=position)


@cache
def rules(profile: Profile) -> tuple[Rule, ...]:
    """What this release refuses, in the order of the file."""
    return tuple(_rule(row) for row in facts.table("syntax")["rule"] if profile.rejects(row))


def name_end(tokens: Sequence[Token], at: int) -> int | None:
    """Index behind the possibly qualified name at `at`; None where there is no name."""
    if at >= len(tokens) or not tokens[at].is_name:
        return None
    while at + 2 < len(tokens) and tokens[at + 1].text == "." and tokens[at + 2].is_name:
        at += 2
    return at + 1


def _rule(row: dict[str, Any]) -> Rule:
    return Rule(
        feature=row["feature"],
        patterns=tuple(tuple(map(_Element.of, pattern.split())) for pattern in row["patterns"]),
        sqlstate=row.get("sqlstate", SYNTAX_ERROR),
        message=row.get("message", 'syntax error at or near "{near}"'),
        only_in_transaction=row.get("when") == "transaction",
        examples=tuple(row["examples"]),
    )


def _match(pattern: Sequence[_Element], tokens: Sequence[Token], at: int) -> int | None:
    """Index of the marked token (of the end, where none is) if the pattern fits at `at`."""
    for index, element in enumerate(pattern):
        if element.kind == "...":
            rest = pattern[index + 1 :]
            found = (_match(rest, tokens, later) for later in range(at, len(tokens) + 1))
            return next((marked for marked in found if marked is not None), None)
        end = element.end(tokens, at)
        if end is None:
            return None
        if element.marked:
            return at if _match(pattern[index + 1 :], tokens, end) is not None else None
        at = end
    return len(tokens)


def _arguments(tokens: Sequence[Token], opening: int) -> int:
    """How many arguments the parenthesis at `opening` holds."""
    end = closing(tokens, opening)
    depth = commas = 0
    for token in tokens[opening + 1 : end]:
        depth += (token.text in ("(", "[")) - (token.text in (")", "]"))
        commas += token.text == "," and depth == 0
    return commas + 1
