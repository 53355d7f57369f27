"""Checks a session's data and metadata: JSON that every store can hold, up to a size."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

from shared_utils.observability import logs
from shared_utils.persistence.errors import ValueRefused
from shared_utils.persistence.sessions.port import Session

_log = logs.get("shared_utils.persistence.session_values")

MAX_BYTES: Final = 65_536
"""Of ``session_data``, and of ``metadata``, as JSON in UTF-8."""
_MAX_DEPTH: Final = 64
_MAX_INTEGER_BITS: Final = 8192
"""Of an integer; PostgreSQL's numeric and Python's JSON hold that much."""
_UNHOLDABLE: Final = re.compile("[\0\ud800-\udfff]")


class _NoJson(Exception):
    """It is nothing JSON knows."""


def storable(session: Session, max_bytes: int = MAX_BYTES) -> Session:
    """The session with what a store can hold of its data and metadata.

    Values JSON cannot hold are left out with a warning that names their key; characters PostgreSQL cannot hold become
    U+FFFD.

    Raises:
        ValueRefused: data or metadata is larger than ``max_bytes``; the largest key is named.
    """
    return replace(
        session,
        session_data=_storable(session, "session_data", session.session_data, max_bytes),
        metadata=_storable(session, "metadata", session.metadata, max_bytes),
    )


def encoded(values: Mapping[str, Any]) -> str:
    """As JSON text."""
    return json.dumps(dict(values), ensure_ascii=False, allow_nan=False)


def _storable(session: Session, name: str, values: Mapping[str, Any], max_bytes: int) -> Mapping[str, Any]:
    skipped: list[str] = []
    held = dict(_entries(values, name, skipped, _MAX_DEPTH))
    for key in skipped:
        _log.warning("session_value_skipped", session_id=session.session_id, key=key)
    sizes = {key: len(encoded({key: value}).encode()) for key, value in held.items()}
    total = sum(sizes.values())
    if total > max_bytes:
        largest = max(sizes, key=sizes.__getitem__)
        raise ValueRefused(
            f"{name} of session {session.session_id} has {total} bytes; the maximum is {max_bytes}; its largest key "
            f"{_shown(largest)} has {sizes[largest]}: make it smaller, or raise sessions.max_data_bytes"
        )
    return held


def _entries(values: Mapping[Any, Any], path: str, skipped: list[str], depth: int) -> Iterator[tuple[str, Any]]:
    """What can be held; an entry that holds a list with something else in it is left out whole."""
    for key, value in values.items():
        where = f"{path}.{_shown(key)}"
        if not isinstance(key, str):
            skipped.append(where)
            continue
        try:
            yield _clean(key), _held(value, where, skipped, depth - 1)
        except _NoJson:
            skipped.append(where)


def _held(value: Any, path: str, skipped: list[str], depth: int) -> Any:
    if depth < 0:
        raise _NoJson
    result: Any
    match value:
        case None | bool():
            result = value
        case str():
            result = _clean(value)
        case int() if value.bit_length() <= _MAX_INTEGER_BITS:
            result = int(value)
        case float() if math.isfinite(value):
            result = float(value)
        case Mapping():
            result = dict(_entries(value, path, skipped, depth))
        case list() | tuple():
            result = [_held(item, path, skipped, depth - 1) for item in value]
        case _:
            raise _NoJson
    return result


def _clean(text: str) -> str:
    return _UNHOLDABLE.sub("\ufffd", text)


def _shown(key: object) -> str:
    return _clean(str(key))[:80]
