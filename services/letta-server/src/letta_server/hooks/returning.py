"""Before 6.0.2 an upsert has no RETURNING: the upsert first, then a SELECT of what it should have returned."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from sqlalchemy import BindParameter, Insert, Result, event, select, tuple_
from sqlalchemy.dialects.postgresql.dml import OnConflictDoUpdate
from sqlalchemy.orm import ORMExecuteState, Session

from shared_utils.persistence.dialects import OpenGauss

_FIRST_WITH_RETURNING: Final = (6, 0, 2)


def install(dialect: OpenGauss) -> None:
    """Listen to what sessions execute, where the server is that old."""
    if dialect.version < _FIRST_WITH_RETURNING:
        event.listen(Session, "do_orm_execute", _split)


def _split(state: ORMExecuteState) -> Result[Any] | None:
    """Answer for an upsert with RETURNING; None leaves the statement as it is."""
    statement: Any = state.statement
    conflict = statement._post_values_clause if isinstance(statement, Insert) else None  # noqa: SLF001
    if not isinstance(conflict, OnConflictDoUpdate) or not statement._returning:  # noqa: SLF001
        return None
    returned = statement._returning  # noqa: SLF001 - SQLAlchemy has no public way to look into a statement
    bare = statement._generate()  # noqa: SLF001
    bare._returning = ()  # noqa: SLF001
    state.invoke_statement(bare)
    key = [statement.table.c[getattr(name, "name", name)] for name in conflict.inferred_target_elements or ()]
    rows = [tuple(_plain(row[column.name]) for column in key) for row in _rows(statement)]
    found: Result[Any] = state.session.execute(select(*returned).where(tuple_(*key).in_(rows)))
    return found


def _rows(statement: Any) -> Iterator[Mapping[str, Any]]:
    """The inserted rows by column name."""
    many = [row for rows in statement._multi_values for row in rows]  # noqa: SLF001
    for row in many or [statement._values]:  # noqa: SLF001
        yield {getattr(column, "name", column): value for column, value in row.items()}


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, BindParameter) else value
