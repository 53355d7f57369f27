"""Filters on metadata: ``{"topic": "cats", "year": {"$gte": 2020}}``.

===================================  ==========================================================================
``{"key": value}``                   the same as ``$eq``
``$eq`` ``$ne``                      a text, number, boolean or None
``$lt`` ``$lte`` ``$gt`` ``$gte``    a number or a text; texts compare by code point
``$in`` ``$nin``                     a list of such values as ``$eq`` takes
``$between``                         ``[least, most]``, both included
``$exists``                          true or false
``$and`` ``$or``                     a list of filters
``$not``                             a filter
===================================  ==========================================================================

Several keys, or several operators of one key, must all hold. A number only compares with numbers, a text with texts: a
condition on a key a passage lacks, or has a value of another kind for, does not hold; so neither does ``$ne`` on a key
it lacks. ``$not`` turns that round.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import ge, gt, le, lt
from typing import Any, Final, Literal

from shared_utils.persistence.vectors.errors import FilterRefused
from shared_utils.text import clean_json, clean_text

Scalar = str | int | float | bool | None
Operator = Literal["$eq", "$ne", "$lt", "$lte", "$gt", "$gte", "$in", "$nin", "$exists"]

_ORDER: Final[Mapping[str, Callable[[Any, Any], bool]]] = {"$lt": lt, "$lte": le, "$gt": gt, "$gte": ge}
_ON_KEYS: Final = ("$eq", "$ne", *_ORDER, "$in", "$nin", "$between", "$exists")
_ON_FILTERS: Final = ("$and", "$or", "$not")
_MAX_FILTER_DEPTH: Final = 10
_MOST_PARTS: Final = 200
_MOST_VALUES: Final = 1000
_LONGEST_KEY: Final = 200


@dataclass(frozen=True, slots=True)
class Compare:
    """A condition on one key."""

    key: str
    operator: Operator
    value: Any
    """A scalar; a tuple of them for ``$in`` and ``$nin``."""

    def holds(self, metadata: Mapping[str, Any]) -> bool:
        """Whether passages with such metadata meet it."""
        if self.operator == "$exists":
            return (self.key in metadata) is self.value
        if self.key not in metadata:
            return False
        found = metadata[self.key]
        if self.operator in _ORDER:
            return kind(found) == kind(self.value) and _ORDER[self.operator](found, self.value)
        among = self.value if self.operator in {"$in", "$nin"} else (self.value,)
        same = any(kind(found) == kind(value) and found == value for value in among)
        return same if self.operator in {"$eq", "$in"} else not same


@dataclass(frozen=True, slots=True)
class Every:
    """All of its parts."""

    parts: Sequence[Condition]

    def holds(self, metadata: Mapping[str, Any]) -> bool:
        """See :meth:`Compare.holds`."""
        return all(part.holds(metadata) for part in self.parts)


@dataclass(frozen=True, slots=True)
class Some:
    """One of its parts."""

    parts: Sequence[Condition]

    def holds(self, metadata: Mapping[str, Any]) -> bool:
        """See :meth:`Compare.holds`."""
        return any(part.holds(metadata) for part in self.parts)


@dataclass(frozen=True, slots=True)
class Not:
    """The opposite."""

    part: Condition

    def holds(self, metadata: Mapping[str, Any]) -> bool:
        """See :meth:`Compare.holds`."""
        return not self.part.holds(metadata)


Condition = Compare | Every | Some | Not


def parsed(given: Mapping[str, Any] | None) -> Condition | None:
    """The condition a filter states; None where there is no filter.

    Raises:
        FilterRefused: it says nothing that can be asked; names the part.
    """
    return _Parser().filter(given, 0) if given else None


def kind(value: Any) -> str:
    """What compares with each other: ``number``, ``string``, ``boolean``, ``null``; ``other`` compares with none."""
    match value:
        case bool():
            return "boolean"
        case int() | float():
            return "number"
        case str():
            return "string"
        case None:
            return "null"
        case _:
            return "other"


class _Parser:
    def __init__(self) -> None:
        self._parts = 0

    def filter(self, given: Any, depth: int) -> Condition:
        if not isinstance(given, Mapping) or not given:
            raise FilterRefused(f"{_shown(given)} is not a filter; write {{'key': value}} or {{'$and': [...]}}")
        if depth > _MAX_FILTER_DEPTH:
            raise FilterRefused(f"the filter is nested deeper than {_MAX_FILTER_DEPTH} levels; make it flatter")
        parts: list[Condition] = []
        for name, value in given.items():
            parts += self._part(name, value, depth)
        return parts[0] if len(parts) == 1 else Every(parts)

    def _part(self, name: Any, value: Any, depth: int) -> Sequence[Condition]:
        self._count()
        if not isinstance(name, str) or not name or len(name) > _LONGEST_KEY:
            raise FilterRefused(
                f"{_shown(name)} is not a key; a filter's keys are texts of 1 to {_LONGEST_KEY} characters"
            )
        if name == "$not":
            return [Not(self.filter(value, depth + 1))]
        if name in _ON_FILTERS:
            if not isinstance(value, (list, tuple)) or not value:
                raise FilterRefused(f"{name} takes a list of filters, not {_shown(value)}")
            parts = [self.filter(part, depth + 1) for part in value]
            return [Every(parts) if name == "$and" else Some(parts)]
        if name.startswith("$"):
            raise FilterRefused(f"{name} is not allowed here; before a key, use {', '.join(_ON_FILTERS)}")
        key = clean_text(name)
        if not isinstance(value, Mapping):
            return [Compare(key, "$eq", _scalar(value, "$eq", key))]
        if not value:
            raise FilterRefused(f"the filter has no condition for {key}; write {{{key!r}: {{'$eq': value}}}}")
        return [part for operator, operand in value.items() for part in self._compared(key, operator, operand)]

    def _compared(self, key: str, operator: Any, value: Any) -> Sequence[Condition]:
        self._count()
        match operator:
            case "$eq" | "$ne":
                return [Compare(key, operator, _scalar(value, operator, key))]
            case "$lt" | "$lte" | "$gt" | "$gte":
                return [Compare(key, operator, _ordered(value, operator, key))]
            case "$in" | "$nin":
                if not isinstance(value, (list, tuple)) or len(value) > _MOST_VALUES:
                    raise FilterRefused(f"{operator} of {key} takes a list of up to {_MOST_VALUES} values")
                return [Compare(key, operator, tuple(_scalar(one, operator, key) for one in value))]
            case "$between":
                if not isinstance(value, (list, tuple)) or len(value) != 2:  # noqa: PLR2004  # least and most
                    raise FilterRefused(f"$between of {key} takes [least, most], not {_shown(value)}")
                least, most = (_ordered(one, operator, key) for one in value)
                return [Compare(key, "$gte", least), Compare(key, "$lte", most)]
            case "$exists":
                if not isinstance(value, bool):
                    raise FilterRefused(f"$exists of {key} takes true or false, not {_shown(value)}")
                return [Compare(key, operator, value)]
            case _:
                raise FilterRefused(f"{_shown(operator)} of {key} is not an operator; use one of {', '.join(_ON_KEYS)}")

    def _count(self) -> None:
        self._parts += 1
        if self._parts > _MOST_PARTS:
            raise FilterRefused(f"the filter has more than {_MOST_PARTS} conditions; use fewer")


def _scalar(value: Any, operator: str, key: str) -> Scalar:
    if kind(value) == "other" or (isinstance(value, float) and not math.isfinite(value)):
        raise FilterRefused(f"{operator} of {key} takes a text, a finite number, true, false or None")
    scalar: Scalar = clean_json(value)
    return scalar


def _ordered(value: Any, operator: str, key: str) -> Scalar:
    if kind(value) not in {"number", "string"}:
        raise FilterRefused(f"{operator} of {key} takes a number or a text, not {_shown(value)}")
    return _scalar(value, operator, key)


def _shown(value: Any) -> str:
    return repr(value)[:60]
