"""INSERT … ON DUPLICATE KEY UPDATE as INSERT … ON CONFLICT.

openGauss takes a conflict on any unique index, PostgreSQL on one. Of several whose columns are all inserted, one is
named: the primary key before others. Rows of VALUES that conflict on another are led to it, see `unique_keys`; a row of
any other source then fails with 23505.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from opengauss_double import unique_keys
from opengauss_double.errors import NOT_SUPPORTED, Refusal
from opengauss_double.rules import name_end
from opengauss_double.statements import Statement
from opengauss_double.tokens import Token, closing, joined, rewritten, significant, tokenise
from opengauss_double.unique_keys import TableLookups, Target, UniqueIndex


def is_upsert(words: Sequence[Token]) -> bool:
    return bool(words) and words[0].upper == "INSERT" and _clause(words) is not None


async def upsert(statement: Statement, mode: str, lookups: TableLookups) -> Statement:
    """The statement in PostgreSQL's words. Raises `Refusal` where a key column is set outside mode B."""
    words = statement.words
    clause = _clause(words)
    if clause is None:
        return statement
    table_end = name_end(words, 2) or 3
    table = joined(words[2:table_end])
    found = await lookups.unique_indexes(table)
    start, action = words[clause].start, clause + 4
    if found is None or (action < len(words) and words[action].upper == "NOTHING"):
        # A table that is not there: the upstream says so.
        rest = words[action + 1] if action + 1 < len(words) and found is not None else None
        return _spliced(statement, start, "ON CONFLICT DO NOTHING ", rest)
    targets = [name for name, _ in _assignments(words, action)]
    keys = frozenset[str]().union(*(index.columns for index in found))
    if mode != "B" and keys.intersection(targets):
        raise Refusal(NOT_SUPPORTED, "INSERT ON DUPLICATE KEY UPDATE don't allow update on primary key or unique key.")
    names, source = _inserted(words, table_end)
    complete = [one for one in found if names is None or one.columns.issubset(names)]
    index = unique_keys.arbiter(complete)
    if index is None:
        # Nothing can be duplicate.
        returning = next((token for token in words[action:] if token.upper == "RETURNING"), None)
        return _spliced(statement, start, "", returning)
    where = f" WHERE {index.predicate}" if index.predicate else ""
    head = f"ON CONFLICT ({', '.join(index.keys)}){where} DO UPDATE SET "
    changes = _with_excluded(words, action)
    if index.is_plain and len(complete) > 1 and not index.columns.intersection(_excluded(words, action)):
        columns = await lookups.columns(table)
        target = Target(table, tuple(columns), tuple(names or [column.name for column in columns]))
        keys_in_order = sorted(complete, key=lambda one: one is not index)
        changes |= _redirected(statement, source, target, keys_in_order)
    return _spliced(replace(statement, tokens=tuple(rewritten(statement.tokens, changes))), start, head, words[action])


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


def _inserted(words: Sequence[Token], at: int) -> tuple[list[str] | None, int]:
    """The columns listed, None where the statement lists none; and where its source begins."""
    if at < len(words) and words[at].upper == "AS":
        at += 2
    if at >= len(words) or words[at].text != "(" or words[at + 1].upper in ("SELECT", "WITH", "VALUES"):
        return None, at
    end = closing(words, at)
    return [token.name for token in words[at + 1 : end] if token.is_name], end + 1


def _with_excluded(words: Sequence[Token], at: int) -> dict[int, str]:
    """VALUES(c) as EXCLUDED.c, and targets without their table's name."""
    changes: dict[int, str] = {}
    for index in range(at, len(words) - 3):
        if words[index].upper == "VALUES" and words[index + 1].text == "(" and words[index + 3].text == ")":
            changes |= {words[index].start: "EXCLUDED", words[index + 1].start: ".", words[index + 3].start: ""}
    for _, target in _assignments(words, at):
        for qualifier in words[target : (name_end(words, target) or target + 1) - 1]:
            changes[qualifier.start] = ""
    return changes


def _excluded(words: Sequence[Token], at: int) -> set[str]:
    """The columns whose given values are asked for."""
    return {
        name.name
        for word, _, name in zip(words[at:], words[at + 1 :], words[at + 2 :], strict=False)
        if word.upper in ("EXCLUDED", "VALUES")
    }


def _redirected(statement: Statement, source: int, target: Target, keys: Sequence[UniqueIndex]) -> dict[int, str]:
    """The changes that lead the rows of a VALUES at `source` to the rows that are there."""
    sql, base = joined(statement.tokens), statement.tokens[0].start
    changes: dict[int, str] = {}
    for row in unique_keys.rows(statement.words, source):
        if not all(row):  # a syntax error: the upstream says so
            return {}
        values = [sql[value[0].start - base : value[-1].start - base + len(value[-1].text)] for value in row]
        for position, text in unique_keys.redirected(target, values, keys).items():
            first, *rest = row[position]
            changes |= {first.start: text} | {token.start: "" for token in rest}
    return changes


def _spliced(statement: Statement, start: int, text: str, rest: Token | None) -> Statement:
    """The statement up to `start`, then `text`, then everything from `rest` on."""
    kept = joined(token for token in statement.tokens if token.start < start)
    tail = joined(token for token in statement.tokens if rest is not None and token.start >= rest.start)
    end = ";" if rest is None and statement.tokens[-1].text == ";" else ""
    tokens = tuple(tokenise(kept + text + tail + end))
    return replace(statement, tokens=tokens, words=tuple(significant(tokens)))
