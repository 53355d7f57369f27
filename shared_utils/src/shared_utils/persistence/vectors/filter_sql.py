"""Scopes and filters as SQL, of operators that PostgreSQL's and openGauss's jsonb both have: -> ->> @> ? and casts.

Every text here is true or false, never NULL, so that NOT means the opposite.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, Final

from shared_utils.persistence.vectors.filters import Compare, Condition, Every, Not, Scalar, Some, kind
from shared_utils.persistence.vectors.passages import Scope

_SIGNS: Final = {"$lt": "<", "$lte": "<=", "$gt": ">", "$gte": ">="}


class Conditions:
    """The conditions of one question, and their parameters."""

    def __init__(self, scope: Scope, condition: Condition | None) -> None:
        self.params: dict[str, Any] = {}
        owners = {"agent_id": scope.agent_id, "source_id": scope.source_id}
        parts = [
            f"passage.{name} = {self._param(owner, 'text')}" for name, owner in owners.items() if owner is not None
        ]
        if condition is not None:
            parts.append(self._sql(condition))
        self.any = not parts
        """Whether they leave nothing out."""
        self._parts = parts

    @property
    def text(self) -> str:
        """For a WHERE."""
        return " AND ".join(self._parts) or "true"

    def without(self, table: str) -> None:
        """Leave out the passages that another table has."""
        self._parts.append(
            f"NOT EXISTS (SELECT 1 FROM {{schema}}.{table} AS newer WHERE newer.passage_id = passage.passage_id)"  # noqa: S608
        )

    def _sql(self, condition: Condition) -> str:
        match condition:
            case Every(parts):
                return self._joined(" AND ", parts)
            case Some(parts):
                return self._joined(" OR ", parts)
            case Not(part):
                return f"NOT {self._sql(part)}"
            case Compare():
                return f"({self._compared(condition)})"

    def _joined(self, word: str, parts: Sequence[Condition]) -> str:
        return f"({word.join(map(self._sql, parts))})"

    def _compared(self, compare: Compare) -> str:
        key, value = compare.key, compare.value
        match compare.operator:
            case "$exists":
                return self._there(key) if value else f"NOT {self._there(key)}"
            case "$eq":
                return self._contains(key, value)
            case "$ne":
                return f"{self._there(key)} AND NOT {self._contains(key, value)}"
            case "$in":
                return self._among(key, value)
            case "$nin":
                return f"{self._there(key)} AND NOT ({self._among(key, value)})"
            case operator:
                return self._typed(key, kind(value), _SIGNS[operator], value)

    def _there(self, key: str) -> str:
        return f"passage.metadata ? {self._param(key, 'text')}"

    def _contains(self, key: str, value: Scalar) -> str:
        return f"passage.metadata @> {self._param(json.dumps({key: value}, ensure_ascii=False), 'jsonb')}"

    def _among(self, key: str, values: Sequence[Scalar]) -> str:
        parts = [
            self._typed(key, name, "= ANY", some)
            for name in ("string", "number")
            if (some := [value for value in values if kind(value) == name])
        ]
        parts += [self._contains(key, value) for value in values if kind(value) in {"boolean", "null"}]
        return " OR ".join(parts) or "false"

    def _typed(self, key: str, name: str, sign: str, value: Any) -> str:
        name_of_key = self._param(key, "text")
        found = f"(passage.metadata ->> {name_of_key})"
        sql_type = "numeric" if name == "number" else "text"
        many = isinstance(value, list)
        if name == "number":
            value = [_decimal(one) for one in value] if many else _decimal(value)
            found += "::numeric"
        else:
            found += ' COLLATE "C"'
        other = self._param(value, f"{sql_type}[]" if many else sql_type)
        # CASE, because the parts of an AND may be tried in any order, and a cast of a text to a number fails.
        return (
            f"CASE WHEN jsonb_typeof(passage.metadata -> {name_of_key}) = '{name}' "
            f"THEN {found} {sign} {f'({other})' if many else other} ELSE false END"
        )

    def _param(self, value: Any, sql_type: str) -> str:
        name = f"filter_{len(self.params)}"
        self.params[name] = value
        return f"%({name})s::{sql_type}"


def _decimal(value: Any) -> Decimal:
    return Decimal(repr(value))


def filled(statement: str, gaps: Mapping[str, Any]) -> str:
    """A statement with its gaps filled."""
    for name, text in gaps.items():
        statement = statement.replace(f"{{{name}}}", str(text))
    return statement
