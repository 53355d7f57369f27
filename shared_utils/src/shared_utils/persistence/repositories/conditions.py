"""Conditions on the columns of a table: what may be asked, and how it reads as SQL.

Every repository refuses the same questions, so that what holds in memory holds in a database.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal
from uuid import UUID

from shared_utils.persistence.repositories.table import Table
from shared_utils.text import clean_json

Comparison = Literal["=", "!=", "<", "<=", ">", ">=", "in"]

_COMPARISONS: Final = frozenset({"=", "!=", "<", "<=", ">", ">=", "in"})
_ORDERS: Final = frozenset({"<", "<=", ">", ">="})
_BIGINT_RANGE: Final = range(-(2**63), 2**63)


@dataclass(frozen=True, slots=True)
class Where:
    """A condition on one column.

    A missing value (None) is compared with ``=`` and ``!=`` only; as in SQL, a row without a value meets no other one.
    Texts are ordered by their code points.
    """

    column: str
    comparison: Comparison
    value: Any
    """Of the column's type; for ``in`` a collection of such."""


def composed(conditions: Sequence[Where], table: Table[Any]) -> tuple[list[str], dict[str, Any]]:
    """The conditions as SQL, and their parameters.

    Raises:
        ValueError: a condition is none that can be asked.
    """
    texts, params = [], {}
    for number, where in enumerate(conditions):
        check_condition(where, table)
        name = f"where_{number}"
        texts.append(condition(where, table, name))
        if where.value is not None:
            params[name] = clean_json(_of_one_type(where, table) if where.comparison == "in" else where.value)
    return texts, params


def _of_one_type(where: Where, table: Table[Any]) -> list[Any]:
    """The values of ``in``; whole and other numbers cannot be sent in one array."""
    is_float = table.columns[where.column] == "double precision"
    return [float(value) if is_float else value for value in where.value]


def condition(where: Where, table: Table[Any], name: str) -> str:
    """One condition as SQL, its value the parameter ``name``."""
    column, kind = f'"{where.column}"', table.columns[where.column]
    if where.comparison == "in":
        return f"{column} = ANY(%({name})s::{kind}[])"
    if where.value is None:
        return f"{column} IS NULL" if where.comparison == "=" else f"{column} IS NOT NULL"
    # The order of a language would not be that of other repositories.
    order = ' COLLATE "C"' if kind == "text" and where.comparison in _ORDERS else ""
    return f"{column}{order} {where.comparison} %({name})s::{kind}"


def check_condition(where: Where, table: Table[Any]) -> None:
    """Return where it can be asked.

    Raises:
        ValueError: no such column, a jsonb column, or a value that the column or the comparison does not allow.
    """
    kind = table.columns[table.check(where.column)]
    if kind == "jsonb":
        raise ValueError(f"{where.column} of {table.name} is JSON, which cannot be compared")
    if where.comparison not in _COMPARISONS:
        raise ValueError(f"{where.comparison!r} is not a comparison")
    if where.comparison == "in":
        if isinstance(where.value, str) or not isinstance(where.value, Collection):
            raise ValueError(f"what {where.column} is to be in must be a collection")
        for value in where.value:
            _check_value(where.column, kind, value, table)
    elif where.value is not None:
        _check_value(where.column, kind, where.value, table)
    elif where.comparison in _ORDERS:
        raise ValueError(f"{where.column} {where.comparison} None matches no row; use = or !=")


def _check_value(column: str, kind: str, value: object, table: Table[Any]) -> None:
    if not _FITS[kind](value):
        raise ValueError(
            f"{column} of {table.name} is compared with {_NAMES[kind]}, not with {str(value)[:80]!r} "
            f"({type(value).__name__})"
        )


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(float(value))
    except OverflowError:
        return False


_FITS: Final[Mapping[str, Callable[[Any], bool]]] = {
    "text": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "bigint": lambda value: isinstance(value, int) and not isinstance(value, bool) and value in _BIGINT_RANGE,
    "double precision": _is_number,
    "timestamptz": lambda value: isinstance(value, datetime) and value.tzinfo is not None,
    "uuid": lambda value: isinstance(value, UUID),
}
_NAMES: Final[Mapping[str, str]] = {
    "text": "a text",
    "boolean": "true or false",
    "bigint": "a whole number of 64 bits",
    "double precision": "a finite number",
    "timestamptz": "a datetime with its time zone",
    "uuid": "a UUID",
}
