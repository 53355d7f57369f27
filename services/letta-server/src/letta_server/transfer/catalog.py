"""What a database's catalog says of the schema that holds Letta's tables; the questions work on both engines.

Arrays of column numbers are turned into names here and not in SQL: openGauss has neither WITH ORDINALITY nor functions
in FROM that look at the table before them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from letta_server.database import Connection

_COLUMNS: Final = """
    SELECT c.relname, a.attname, a.attnum, format_type(a.atttypid, NULL), a.attnotnull
    FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
    WHERE c.relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = 'alembic_version'::regclass)
        AND c.relkind = 'r' AND a.attnum > 0 AND NOT a.attisdropped
    ORDER BY c.relname, a.attnum
"""
_CONSTRAINTS: Final = """
    SELECT c.relname, f.relname, k.contype, k.conkey
    FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid LEFT JOIN pg_class f ON f.oid = k.confrelid
    WHERE c.relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = 'alembic_version'::regclass)
        AND k.contype IN ('p', 'u', 'f')
    ORDER BY c.relname, k.contype, k.conname
"""
_SEQUENCES: Final = """
    SELECT relname FROM pg_class
    WHERE relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = 'alembic_version'::regclass)
        AND relkind = 'S'
    ORDER BY relname
"""


@dataclass(frozen=True, slots=True)
class Column:
    name: str
    type: str
    """As ``format_type`` names it, without length or precision."""
    nullable: bool


@dataclass(frozen=True, slots=True)
class ForeignKey:
    columns: tuple[str, ...]
    table: str
    """The table it points to."""


@dataclass(frozen=True, slots=True)
class Table:
    name: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    """Columns that tell its rows apart and are never NULL; empty where there are none."""
    foreign_keys: tuple[ForeignKey, ...]

    @property
    def column_names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)

    def nullable(self, names: Sequence[str]) -> bool:
        """Whether all these columns may be NULL."""
        return all(column.nullable for column in self.columns if column.name in names)


def tables(connection: Connection) -> dict[str, Table]:
    """Every ordinary table, by name."""
    columns: dict[str, dict[int, Column]] = {}
    for table, name, number, kind, required in connection.execute(_COLUMNS.encode()):
        columns.setdefault(table, {})[number] = Column(name, kind, not required)
    keys: dict[str, list[tuple[str, ...]]] = {}
    foreign_keys: dict[str, list[ForeignKey]] = {}
    for table, other, kind, numbers in connection.execute(_CONSTRAINTS.encode()):
        names = tuple(columns[table][number].name for number in numbers)
        if _letter(kind) == "f":
            foreign_keys.setdefault(table, []).append(ForeignKey(names, other))
        elif not any(columns[table][number].nullable for number in numbers):
            keys.setdefault(table, []).append(names)  # "p" sorts before "u": the primary key comes first
    return {
        name: Table(name, tuple(found.values()), keys.get(name, [()])[0], tuple(foreign_keys.get(name, ())))
        for name, found in columns.items()
    }


def sequences(connection: Connection) -> list[str]:
    return [str(name) for (name,) in connection.execute(_SEQUENCES.encode())]


def lacking(needed: Mapping[str, Table], there: Mapping[str, Table]) -> str | None:
    """The first table or column of ``needed`` that is not ``there``."""
    for name, table in needed.items():
        if name not in there:
            return f"table {name}"
        for column in table.column_names:
            if column not in there[name].column_names:
                return f"column {name}.{column}"
    return None


def _letter(value: str | bytes) -> str:
    """The type "char" comes as bytes where the server is too old for psycopg to name its type."""
    return value.decode() if isinstance(value, bytes) else value
