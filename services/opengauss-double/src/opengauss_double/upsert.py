"""INSERT … ON DUPLICATE KEY UPDATE as INSERT … ON CONFLICT.

openGauss takes a conflict on any unique index, PostgreSQL on one. Of several indexes the double takes the first whose
columns are all inserted, the primary key before others; a duplicate in another index then fails with 23505.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from opengauss_double.errors import NOT_SUPPORTED, Refusal
from opengauss_double.rules import name_end
from opengauss_double.statements import Statement
from opengauss_double.tokens import Token, closing, joined, rewritten, significant, tokenise


@dataclass(frozen=True)
class UniqueIndex:
    """A unique index: its plain columns' names, its keys as SQL, its predicate (empty where it has none)."""

    columns: frozenset[str]
    keys: tuple[str, ...]
    predicate: str


Indexes = Callable[[str], Awaitable[list[UniqueIndex] | None]]


def is_upsert(words: Sequence[Token]) -> bool:
    return bool(words) and words[0].upper == "INSERT" and _clause(words) is not None


async def upsert(statement: Statement, mode: str, indexes: Indexes) -> Statement:
    """The statement in PostgreSQL's words. Raises `Refusal` where a key column is set outside mode B."""
    words = statement.words
    clause = _clause(words)
    if clause is None:
        return statement
    table_end = name_end(words, 2) or 3
    found = await indexes("".join(token.text for token in words[2:table_end]))
    start, action = words[clause].start, clause + 4
    if found is None or (action < len(words) and words[action].upper == "NOTHING"):
        # A table that is not there: the upstream says so.
        rest = words[action + 1] if action + 1 < len(words) and found is not None else None
        return _spliced(statement, start, "ON CONFLICT DO NOTHING ", rest)
    targets = [name for name, _ in _assignments(words, action)]
    keys = frozenset[str]().union(*(index.columns for index in found))
    if mode != "B" and keys.intersection(targets):
        raise Refusal(NOT_SUPPORTED, "INSERT ON DUPLICATE KEY UPDATE don't allow update on primary key or unique key.")
    inserted = _inserted(words, table_end)
    index = next((one for one in found if inserted is None or one.columns <= inserted), None)
    if index is None:
        # Nothing can be duplicate.
        returning = next((token for token in words[action:] if token.upper == "RETURNING"), None)
        return _spliced(statement, start, "", returning)
    where = f" WHERE {index.predicate}" if index.predicate else ""
    head = f"ON CONFLICT ({', '.join(index.keys)}){where} DO UPDATE SET "
    return _spliced(_with_excluded(statement, action), start, head, words[action])


def _clause(words: Sequence[Token]) -> int | None:
    """Index of the ON of ON DUPLICATE KEY UPDATE."""
    wanted = ["ON", "DUPLICATE", "KEY", "UPDATE"]
    for index, token in enumerate(words):
        if token.upper == "ON" and [word.upper for word in words[index : index + 4]] == wanted:
            return index
    return None


def _assignments(words: Sequence[Token], at: int) -> Iterator[tuple[str, int]]:
    """Each assigned column's name and index, without its table's."""
    expected = True
    while at < len(words) and words[at].upper not in ("WHERE", "RETURNING"):
        if expected and words[at].is_name:
            end = name_end(words, at) or at + 1
            yield words[end - 1].name, at
            at, expected = end, False
            continue
        if words[at].text in ("(", "["):
            at = closing(words, at)
        expected = words[at].text == ","
        at += 1


def _inserted(words: Sequence[Token], at: int) -> frozenset[str] | None:
    """The columns listed; None where the statement lists none."""
    if at < len(words) and words[at].upper == "AS":
        at += 2
    if at >= len(words) or words[at].text != "(" or words[at + 1].upper in ("SELECT", "WITH", "VALUES"):
        return None
    return frozenset(token.name for token in words[at + 1 : closing(words, at)] if token.is_name)


def _with_excluded(statement: Statement, at: int) -> Statement:
    """VALUES(c) as EXCLUDED.c, and targets without their table's name."""
    words = statement.words
    changes: dict[int, str] = {}
    for index in range(at, len(words) - 3):
        if words[index].upper == "VALUES" and words[index + 1].text == "(" and words[index + 3].text == ")":
            changes |= {words[index].start: "EXCLUDED", words[index + 1].start: ".", words[index + 3].start: ""}
    for _, target in _assignments(words, at):
        for qualifier in words[target : (name_end(words, target) or target + 1) - 1]:
            changes[qualifier.start] = ""
    return replace(statement, tokens=tuple(rewritten(statement.tokens, changes)))


def _spliced(statement: Statement, start: int, text: str, rest: Token | None) -> Statement:
    """The statement up to `start`, then `text`, then everything from `rest` on."""
    kept = joined(token for token in statement.tokens if token.start < start)
    tail = joined(token for token in statement.tokens if rest is not None and token.start >= rest.start)
    end = ";" if rest is None and statement.tokens[-1].text == ";" else ""
    tokens = tuple(tokenise(kept + text + tail + end))
    return replace(statement, tokens=tokens, words=tuple(significant(tokens)))
