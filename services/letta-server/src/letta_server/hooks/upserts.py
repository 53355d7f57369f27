"""``INSERT … ON CONFLICT`` in openGauss's words: ``INSERT … ON DUPLICATE KEY UPDATE``.

That one names no index: any unique key counts. And it sets no column of a key. Letta sets all columns; those of the
key it names are equal anyway, and ``tools.project_id``, part of another key, stays what it was.
"""

from __future__ import annotations

import copy
from typing import Any, Final, cast

from sqlalchemy import Table, UniqueConstraint
from sqlalchemy.dialects.postgresql.base import PGCompiler
from sqlalchemy.dialects.postgresql.dml import OnConflictDoNothing, OnConflictDoUpdate
from sqlalchemy.ext.compiler import compiles

from shared_utils.persistence.dialects import OpenGauss

_CLAUSE: Final = "ON DUPLICATE KEY UPDATE"


def install(dialect: OpenGauss) -> None:
    """Register with SQLAlchemy's compiler."""

    def nothing(_clause: OnConflictDoNothing, _compiler: PGCompiler, **_: Any) -> str:
        return dialect.or_ignore

    compiles(OnConflictDoNothing, "postgresql")(nothing)
    compiles(OnConflictDoUpdate, "postgresql")(_update)


def key_columns(table: Table) -> set[str]:
    """The names of all columns that are in some unique key of the table, also inside an expression."""
    keys = [table.primary_key.columns]
    keys += [constraint.columns for constraint in table.constraints if isinstance(constraint, UniqueConstraint)]
    names = {column.name for columns in keys for column in columns}
    return names | {column.name for index in table.indexes if index.unique for column in index.columns}


def _update(clause: OnConflictDoUpdate, compiler: PGCompiler, **options: Any) -> str:
    insert: Any = compiler.stack[-1]["selectable"]
    keys = key_columns(insert.table)
    assignments = dict(clause.update_values_to_set).items()
    reduced, render = copy.copy(clause), cast("Any", compiler).visit_on_conflict_do_update
    # Pairs in a list: what SQLAlchemy 2.0 keeps here, and 2.1 takes.
    pairs: Any = [(column, value) for column, value in assignments if getattr(column, "name", column) not in keys]
    if not pairs:
        return f"{_CLAUSE} NOTHING"
    reduced.update_values_to_set = pairs
    made: str = render(reduced, **options)
    return f"{_CLAUSE} {made.partition(' DO UPDATE SET ')[2]}"
