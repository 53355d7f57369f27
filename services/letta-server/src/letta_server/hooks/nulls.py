"""``UNIQUE NULLS NOT DISTINCT`` as a unique index over expressions, in which a text stands for NULL."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import Column, ColumnElement, Index, Table, UniqueConstraint, event, func, literal_column

from shared_utils.persistence.dialects import OpenGauss

_NOBODY: Final[ColumnElement[str]] = literal_column("'(null)'")
"""Not empty, which some compatibility modes read as NULL, and no id that Letta or its callers make."""


def install(_dialect: OpenGauss) -> None:
    """Listen to tables about to be created."""
    event.listen(Table, "before_create", _use_indexes)


def _use_indexes(table: Table, _connection: Any, **_: Any) -> None:
    for constraint in list(table.constraints):
        if isinstance(constraint, UniqueConstraint) and constraint.dialect_kwargs.get("postgresql_nulls_not_distinct"):
            table.constraints.discard(constraint)
            # It belongs to the table by its columns, and is created right after it.
            Index(str(constraint.name), *map(_never_null, constraint.columns), unique=True)


def _never_null(column: Column[Any]) -> ColumnElement[Any]:
    return func.coalesce(column, _NOBODY) if column.nullable else column
