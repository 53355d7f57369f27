"""One table as a pydantic model describes it: its columns, its statements, and how a row becomes a model.

Every statement is composed once, of names the model declares; values travel as parameters only.
"""

from __future__ import annotations

import json
import types
from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import Enum
from typing import Any, Final, Generic, Literal, TypeVar, Union, get_args, get_origin
from uuid import UUID

from psycopg import sql
from pydantic import AwareDatetime, BaseModel, ValidationError

from shared_utils.persistence.errors import PersistenceError, ValueRefused
from shared_utils.text import clean_json, clean_text

Model = TypeVar("Model", bound=BaseModel)

_TYPES: Final[Mapping[Any, str]] = {
    str: "text",
    bool: "boolean",
    int: "bigint",
    float: "double precision",
    datetime: "timestamptz",
    AwareDatetime: "timestamptz",
    UUID: "uuid",
    dict: "jsonb",
    list: "jsonb",
    Mapping: "jsonb",
    Sequence: "jsonb",
}


class Table(Generic[Model]):
    """A table.

    Args:
        model: one field per column; texts, numbers, booleans, times, UUIDs, and dicts or lists for jsonb.
        name: of the table.
        order: the columns that order its rows; the key is added as the last of them, which makes the order total.
        key: the primary key.

    Raises:
        TypeError: a field is of a type no column holds.
        ValueError: the key or an ordering column is no field.
    """

    def __init__(self, model: type[Model], name: str, *, order: Sequence[str], key: str = "id") -> None:
        self.model = model
        self.name = name
        self.key = key
        self.columns: Mapping[str, str] = {
            column: _type(field.annotation, f"{model.__name__}.{column}")
            for column, field in model.model_fields.items()
        }
        """Column → SQL type."""
        self.order = tuple(order) if key in order else (*order, key)
        for column in (key, *self.order):
            self.check(column)
        names, rows = _listed(self.columns), _unnested(self.columns)
        values = sql.SQL(", ").join(map(self._value, self.columns))
        changes = sql.SQL(", ").join(
            sql.SQL("{} = {}").format(sql.Identifier(column), self._value(column))
            for column in self.columns
            if column != key
        )
        parts = {
            "table": sql.Composed([sql.SQL("{schema}."), sql.Identifier(name)]),  # the database fills in the schema
            "names": names,
            "values": values,
            "rows": rows,
            "changes": changes,
            "is_key": sql.SQL("{} = {}").format(sql.Identifier(key), self._value(key)),
        }
        self.select = _text("SELECT {names} FROM {table} WHERE {is_key}", parts)
        self.exists = _text("SELECT 1 AS found FROM {table} WHERE {is_key}", parts)
        self.insert = _text("INSERT INTO {table} ({names}) VALUES ({values})", parts)
        self.insert_all = _text("INSERT INTO {table} ({names}) {rows}", parts)
        """Any number of rows; a parameter is the array of one column's values."""
        self.insert_new = f"{self.insert_all} {{or_ignore}}"
        """The same, but for rows whose key is taken."""
        self.select_locked = _text("SELECT {names} FROM {table} WHERE {is_key} FOR UPDATE", parts)
        as_expected = [self._is_expected(column) for column in self.columns if column != key]
        expected = sql.SQL(" AND ").join(as_expected) if as_expected else sql.SQL("true")
        self.update_expected = _text(
            "UPDATE {table} SET {changes} WHERE {is_key} AND {expected}", {**parts, "expected": expected}
        )
        """Touches nothing where a column is not ``%(expected_<column>)s`` any more."""
        self.update = _text("UPDATE {table} SET {changes} WHERE {is_key}", parts)
        self.delete = _text("DELETE FROM {table} WHERE {is_key}", parts)
        self._select_all = _text("SELECT {names} FROM {table}", parts)
        self._count_all = _text("SELECT count(*) AS rows FROM {table}", parts)

    def check(self, column: str) -> str:
        """The column.

        Raises:
            ValueError: there is none of this name.
        """
        if column not in self.columns:
            raise ValueError(f"{self.name} has no column {column!r}; it has {', '.join(self.columns)}")
        return column

    def page(self, conditions: Sequence[str] = (), *, newest_first: bool = False) -> str:
        """Rows that meet every condition, in order, at most ``%(most)s``."""
        direction = " DESC" if newest_first else ""
        order = ", ".join(f'"{column}"{direction}' for column in self.order)
        return f"{self._select_all}{_where(conditions)} ORDER BY {order} LIMIT %(most)s"

    def count(self, conditions: Sequence[str] = ()) -> str:
        """How many rows meet every condition."""
        return f"{self._count_all}{_where(conditions)}"

    def beyond(self, *, newest_first: bool = False) -> str:
        """The condition that a row comes after the one whose ordering columns are ``%(after_<column>)s``."""
        columns = ", ".join(f'"{column}"' for column in self.order)
        values = ", ".join(f"%(after_{column})s::{self.columns[column]}" for column in self.order)
        return f"({columns}) {'<' if newest_first else '>'} ({values})"

    def row(self, record: Model) -> dict[str, Any]:
        """Column → value as the database is given it, its text clean, its JSON as text.

        Raises:
            ValueRefused: a value is none the column can hold.
        """
        return {column: self._plain(column, getattr(record, column)) for column in self.columns}

    def rows(self, records: Sequence[Model]) -> dict[str, list[Any]]:
        """Column → the values of all records, for ``insert_all``."""
        rows = [self.row(record) for record in records]
        return {column: [row[column] for row in rows] for column in self.columns}

    def read(self, row: Mapping[str, Any]) -> Model:
        """The model of a row.

        Raises:
            PersistenceError: the row is not what the model says.
        """
        try:
            return self.model.model_validate(row)
        except ValidationError as error:
            fields = ", ".join(sorted({str(problem["loc"][0]) for problem in error.errors() if problem["loc"]}))
            raise PersistenceError(
                f"the row {row.get(self.key)} of {self.name} cannot be read ({fields}); a newer release may have "
                "written it"
            ) from None

    def _plain(self, column: str, value: Any) -> Any:
        if isinstance(value, Enum):
            value = value.value
        if self.columns[column] == "jsonb":
            return self._json(column, value)
        if isinstance(value, datetime) and value.tzinfo is None:
            raise ValueRefused(f"{column} of {self.name} has no time zone; give it one")
        return clean_text(value) if isinstance(value, str) else value

    def _json(self, column: str, value: Any) -> str | None:
        try:
            return None if value is None else json.dumps(clean_json(value), ensure_ascii=False, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ValueRefused(
                f"{column} of {self.name} contains a value that JSON cannot represent ({error}); remove it"
            ) from None

    def _is_expected(self, column: str) -> sql.Composed:
        value = sql.SQL("{}::{}").format(sql.Placeholder(f"expected_{column}"), sql.SQL(self.columns[column]))
        # In brackets, with its cast first: openGauss binds IS more tightly than PostgreSQL does.
        return sql.SQL("({} IS NOT DISTINCT FROM {})").format(sql.Identifier(column), value)

    def _value(self, column: str) -> sql.Composed:
        return sql.SQL("{}::{}").format(sql.Placeholder(column), sql.SQL(self.columns[column]))


def _type(annotation: Any, where: str) -> str:
    origin = get_origin(annotation)
    if origin in {Union, types.UnionType}:
        [*kinds] = (kind for kind in get_args(annotation) if kind is not type(None))
        if len(kinds) == 1:
            return _type(kinds[0], where)
    if origin is Literal and all(isinstance(value, str) for value in get_args(annotation)):
        return "text"
    found = _TYPES.get(origin or annotation)
    if found is None and isinstance(annotation, type) and issubclass(annotation, str):
        found = "text"
    if found is None:
        raise TypeError(f"{where} has a type that no column can store: {annotation}")
    return found


def _listed(columns: Mapping[str, str]) -> sql.Composed:
    return sql.SQL(", ").join(map(sql.Identifier, columns))


def _unnested(columns: Mapping[str, str]) -> sql.Composed:
    # jsonb travels as text and is cast outside: openGauss casts it explicitly only. Arrays of one length
    # unnest in step.
    arrays, values = [], []
    for column, kind in columns.items():
        names = {"column": sql.Identifier(column), "array": sql.Placeholder(column)}
        as_text = kind == "jsonb"
        array = "unnest({array}::text[]) AS {column}" if as_text else f"unnest({{array}}::{kind}[]) AS {{column}}"
        arrays.append(sql.SQL(array).format(**names))
        values.append(sql.SQL("{column}::jsonb" if as_text else "{column}").format(**names))
    comma = sql.SQL(", ")
    return sql.SQL("SELECT {} FROM (SELECT {}) AS given").format(comma.join(values), comma.join(arrays))


def _text(statement: str, parts: Mapping[str, sql.Composable]) -> str:
    return sql.SQL(statement).format(**parts).as_string()


def _where(conditions: Sequence[str]) -> str:
    return f" WHERE {' AND '.join(conditions)}" if conditions else ""
