"""A conflict on any unique key, where PostgreSQL's ON CONFLICT takes but one.

Of several complete keys the statement names one, the arbiter, and its values are taken from the row that is there,
whichever key finds it: `VALUES (coalesce((SELECT id FROM t WHERE name = 'a'), 1), 'a')`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from opengauss_double.tokens import Token, closing, tokenise


@dataclass(frozen=True)
class UniqueIndex:
    """A unique index: its plain columns' names, its keys as SQL, its predicate (empty where it has none)."""

    columns: frozenset[str]
    keys: tuple[str, ...]
    predicate: str

    @property
    def is_plain(self) -> bool:
        """Whether columns are all it is made of."""
        return len(self.columns) == len(self.keys) and not self.predicate


@dataclass(frozen=True)
class Column:
    """A table's column; `default` is SQL, `NULL` where there is none."""

    name: str
    type: str
    default: str


@dataclass(frozen=True)
class Target:
    """What is inserted into: the table as in SQL, all its columns, and the names of those that get values."""

    table: str
    columns: tuple[Column, ...]
    names: tuple[str, ...]


class TableLookups(Protocol):
    """Questions about a table written as in SQL."""

    async def unique_indexes(self, table: str) -> list[UniqueIndex] | None:
        """The primary key first; None where there is no such table."""

    async def columns(self, table: str) -> list[Column]:
        """In their order."""


def arbiter(complete: Sequence[UniqueIndex]) -> UniqueIndex | None:
    """The one to be named; a plain one can stand for the others."""
    return next((one for one in complete if one.is_plain), next(iter(complete), None))


def rows(words: Sequence[Token], at: int) -> list[list[tuple[Token, ...]]]:
    """The rows of a VALUES at `at`, each value's tokens without spaces; none where something else stands there."""
    found: list[list[tuple[Token, ...]]] = []
    if at >= len(words) or words[at].upper != "VALUES":
        return found
    while at + 1 < len(words) and words[at + 1].text == "(":
        end = closing(words, at + 1)
        found.append(_values(words[at + 2 : end]))
        at = end + 1
        if at >= len(words) or words[at].text != ",":
            break
    return found


def redirected(target: Target, row: Sequence[str], keys: Sequence[UniqueIndex]) -> dict[int, str]:
    """The values of a row that change, by their position; values are SQL.

    Of `keys`, all of them complete, the first is the arbiter.
    """
    given = {column.name: column.default for column in target.columns} | dict(zip(target.names, row, strict=False))
    changed = {}
    for position, name in enumerate(target.names[: len(row)]):
        if name in keys[0].columns:
            found = [_found(target, name, given, key) for key in keys]
            changed[position] = f"coalesce({', '.join(found)}, {given[name]})"
    return changed


def _values(words: Sequence[Token]) -> list[tuple[Token, ...]]:
    values: list[list[Token]] = [[]]
    depth = 0
    for word in words:
        depth += (word.text in ("(", "[")) - (word.text in (")", "]"))
        if word.text == "," and not depth:
            values.append([])
        else:
            values[-1].append(word)
    return [tuple(value) for value in values]


def _found(target: Target, name: str, given: dict[str, str], key: UniqueIndex) -> str:
    """`name` of the row that conflicts on the key. Inside, a key's columns are those given; outside, the table's."""
    read = {token.name for token in tokenise(" ".join((*key.keys, key.predicate))) if token.is_name}
    values = ", ".join(
        f"CAST({given[column.name]} AS {column.type}) AS {_quoted(column.name)}"
        for column in target.columns
        if column.name in read
    )
    keys, where = ", ".join(key.keys), f" AND {key.predicate}" if key.predicate else ""
    new = f"SELECT {keys} FROM (SELECT {values}) AS given WHERE true{where}"  # noqa: S608 - the client's own words
    return f"(SELECT {_quoted(name)} FROM {target.table} WHERE ({keys}) = ({new}){where})"  # noqa: S608 - the client's own words


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
