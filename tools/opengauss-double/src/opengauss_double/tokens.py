"""A tokeniser of SQL as PostgreSQL's lexer cuts it, lossless: the tokens' texts joined are the source."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from functools import cached_property


class Kind(Enum):
    SPACE = "space"
    COMMENT = "comment"
    WORD = "word"  # keyword or unquoted identifier
    QUOTED = "quoted identifier"
    STRING = "string"
    NUMBER = "number"
    PARAMETER = "parameter"
    OPERATOR = "operator"
    MARK = "mark"  # ( ) [ ] , ; : . :: := ..
    OTHER = "other"  # what no lexer rule knows


@dataclass(frozen=True)
class Token:
    """A piece of the source; `start` is its index there, in characters."""

    kind: Kind
    text: str
    start: int

    @cached_property
    def upper(self) -> str:
        """What patterns compare: upper case, but a quoted identifier or string equals no keyword."""
        return "" if self.kind in (Kind.QUOTED, Kind.STRING) else self.text.upper()

    @property
    def is_name(self) -> bool:
        return self.kind in (Kind.WORD, Kind.QUOTED)

    @property
    def name(self) -> str:
        """The identifier it stands for: folded, or unquoted."""
        if self.kind is Kind.QUOTED:
            return self.text.removeprefix("U&").removeprefix("u&")[1:-1].replace('""', '"')
        return self.text.lower()

    @property
    def value(self) -> str:
        """A plain or E'' string's value; escapes other than doubled quotes are kept as written."""
        opening = self.text.find("'")
        return self.text[opening + 1 : -1].replace("''", "'") if opening >= 0 else self.text


_OPENING = re.compile(
    r"""
      (?P<space>\s+)
    | (?P<line>--[^\n\r]*)
    | (?P<block>/\*)
    | (?P<escape>[eE]')
    | (?P<plain>(?:[bBxXnN]|[uU]&)?')
    | (?P<quoted>(?:[uU]&)?")
    | (?P<dollar>\$(?:[A-Za-z_\x80-\U0010ffff][A-Za-z0-9_\x80-\U0010ffff]*)?\$)
    | (?P<parameter>\$[0-9]+)
    | (?P<number>(?:[0-9]+(?:\.(?!\.)[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)
    | (?P<word>[A-Za-z_\x80-\U0010ffff][A-Za-z0-9_$\x80-\U0010ffff]*)
    | (?P<mark>::|:=|\.\.|[()\[\],;:.])
    | (?P<operator>[-+*/<>=~!@\#%^&|`?]+)
    | (?P<other>.)
    """,
    re.VERBOSE | re.DOTALL,
)
_KINDS = {
    "space": Kind.SPACE,
    "line": Kind.COMMENT,
    "parameter": Kind.PARAMETER,
    "number": Kind.NUMBER,
    "word": Kind.WORD,
    "mark": Kind.MARK,
    "other": Kind.OTHER,
}
_CLOSINGS = {
    "escape": (Kind.STRING, re.compile(r"(?:[^'\\]|''|\\.)*'", re.DOTALL)),
    "plain": (Kind.STRING, re.compile(r"(?:[^']|'')*'")),
    "quoted": (Kind.QUOTED, re.compile(r'(?:[^"]|"")*"')),
}
_COMMENT_EDGE = re.compile(r"/\*|\*/")
_COMMENT_INSIDE = re.compile(r"--|/\*")


def tokenise(sql: str) -> list[Token]:
    """All tokens of `sql`. Never fails: what is not closed runs to the end."""
    tokens = []
    at = 0
    while at < len(sql):
        token = _next(sql, at)
        tokens.append(token)
        at += len(token.text)
    return tokens


def statements(tokens: Iterable[Token]) -> Iterator[list[Token]]:
    """Cuts at semicolons outside parentheses; each semicolon ends its statement. The pieces joined are the input."""
    piece: list[Token] = []
    depth = 0
    for token in tokens:
        piece.append(token)
        if token.kind is Kind.MARK:
            depth = max(0, depth + (token.text == "(") - (token.text == ")"))
            if token.text == ";" and depth == 0:
                yield piece
                piece = []
    if piece:
        yield piece


def significant(tokens: Iterable[Token]) -> list[Token]:
    """Without spaces, comments and semicolons."""
    return [token for token in tokens if token.kind not in (Kind.SPACE, Kind.COMMENT) and token.text != ";"]


def joined(tokens: Iterable[Token]) -> str:
    return "".join(token.text for token in tokens)


def quoted(value: str) -> str:
    """A string literal."""
    return "'" + value.replace("'", "''") + "'"


def rewritten(tokens: Sequence[Token], changes: dict[int, str]) -> list[Token]:
    """The tokens with other texts where `changes` names a token's start."""
    return [replace(token, text=changes.get(token.start, token.text)) for token in tokens]


def closing(tokens: Sequence[Token], opening: int) -> int:
    """Index of the parenthesis or bracket that closes the one at `opening`; the last index where none does."""
    depth = 0
    for index in range(opening, len(tokens)):
        if tokens[index].kind is Kind.MARK:
            depth += (tokens[index].text in "([") - (tokens[index].text in ")]")
        if depth == 0:
            return index
    return len(tokens) - 1


def _next(sql: str, at: int) -> Token:
    found = _OPENING.match(sql, at)
    if found is None or found.lastgroup is None:  # never: the last alternative matches anything
        return Token(Kind.OTHER, sql[at:], at)
    group = found.lastgroup
    if group in _CLOSINGS:
        kind, rest = _CLOSINGS[group]
        closed = rest.match(sql, found.end())
        return Token(kind, sql[at : closed.end() if closed else len(sql)], at)
    if group == "dollar":
        closes = sql.find(found[0], found.end())
        return Token(Kind.STRING, sql[at : closes + len(found[0]) if closes >= 0 else len(sql)], at)
    if group == "block":
        return Token(Kind.COMMENT, sql[at : _comment_end(sql, at)], at)
    if group == "operator":
        return Token(Kind.OPERATOR, _operator(found[0]), at)
    return Token(_KINDS[group], found[0], at)


def _comment_end(sql: str, at: int) -> int:
    depth = 0
    for edge in _COMMENT_EDGE.finditer(sql, at):
        depth += 1 if edge[0] == "/*" else -1
        if depth == 0:
            return edge.end()
    return len(sql)


def _operator(run: str) -> str:
    """The first operator of a run of operator characters: it ends at a comment, and not in a stray sign."""
    inside = _COMMENT_INSIDE.search(run, 1)
    operator = run[: inside.start()] if inside else run
    while len(operator) > 1 and operator[-1] in "+-" and not set(operator) & set("~!@#%^&|`?"):
        operator = operator[:-1]
    return operator
