"""A jsonb value for a json column, or the reverse: cast where PostgreSQL does it unasked."""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, BindParameter, Column, Engine, Insert, Update, cast, event
from sqlalchemy.dialects.postgresql import JSONB

from shared_utils.persistence.dialects import OpenGauss


def install(_dialect: OpenGauss) -> None:
    """Listen to what every engine made from now on executes."""
    event.listen(Engine, "before_execute", _with_casts, retval=True)


def _with_casts(_connection: Any, statement: Any, many: Any, parameters: Any, _options: Any) -> tuple[Any, Any, Any]:
    values: Any = statement._values if isinstance(statement, (Insert, Update)) else None  # noqa: SLF001 - no public way
    casts = {}
    for key, value in (values or {}).items():
        column = statement.table.c.get(key) if isinstance(key, str) else key
        if _differ(column, value):
            casts[key] = cast(value, column.type)
    return statement.values(casts) if casts else statement, many, parameters


def _differ(column: Any, value: Any) -> bool:
    """Whether an expression of the one JSON type is to be stored as the other; a bound value has its column's."""
    if not isinstance(column, Column) or isinstance(value, BindParameter):
        return False
    types = (column.type, getattr(value, "type", None))
    return all(isinstance(one, JSON) for one in types) and isinstance(types[0], JSONB) != isinstance(types[1], JSONB)
