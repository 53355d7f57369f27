"""Normalises fields of foreign messages to one text each.

Fields that decide whose memory is used, or whether anything is remembered, must be exact; fields that are only passed
on may have any shape. Every type here is for pydantic models that are validated from Python values.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Annotated, Final

from pydantic import BeforeValidator

from shared_utils.text import read_json

ANONYMOUS: Final = "anonymous"
"""The user of a task that names none."""

LARGEST_EXACT_FLOAT: Final = 2**53
"""From here on, neighbouring integers are the same floating-point number."""

_TEXT_PARTS: Final = frozenset({"text", "input_text", "output_text"})
"""Types of a content part that hold text, in OpenAI's two APIs."""
_PART_TYPE: Final = re.compile(r"[\w-]{1,40}", re.ASCII)


def identifier(value: object) -> object:
    """An id as text where it is an exact number, unchanged where it is anything else.

    Chat platforms number their users; a number becomes the same text in every service.

    Raises:
        ValueError: it is a number that is not exact.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        if not value.is_integer() or abs(value) >= LARGEST_EXACT_FLOAT:
            raise ValueError(
                "is a number with limited precision; send it as text, or as an integer with all its digits"
            )
        return str(int(value))
    return value


def _task_id(value: object) -> object:
    return "" if value is None else identifier(value)


def _user_id(value: object) -> object:
    return ANONYMOUS if value is None or value == "" else identifier(value)


def _passed_on(value: object) -> object:
    """Numbers and structures as their JSON text."""
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _number_or_text(value: object) -> object:
    if isinstance(value, float):
        return value
    if isinstance(value, bool):
        return _passed_on(value)
    try:
        return float(value) if isinstance(value, int) else _passed_on(value)
    except OverflowError:
        return str(value)


def _path(value: object) -> object:
    """PHP and others write false, 0, [] or {} for what is not there."""
    return _passed_on(value) if value else None


def _content(value: object) -> object:
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, bool):
        raise ValueError("is true or false; send text")  # noqa: TRY004  # pydantic reports ValueError alone
    if isinstance(value, int | float):
        return _passed_on(value)
    if isinstance(value, Mapping):
        return _part(value)
    if isinstance(value, list):
        return "\n".join(part for part in map(_part, value) if part)
    return value


def _part(part: object) -> str:
    if isinstance(part, str):
        return part
    kind = part.get("type", "text") if isinstance(part, Mapping) else None
    text = part.get("text") if isinstance(part, Mapping) else None
    if kind in _TEXT_PARTS and isinstance(text, str):
        return text
    # A type that is no plain word may hold what the user wrote, which no error repeats.
    known = isinstance(kind, str) and _PART_TYPE.fullmatch(kind)
    named = f"a part of type '{kind}'" if known else "a part of an unknown type"
    raise ValueError(f"contains {named}; only text parts are supported, so remove it or send its text")


def _table(value: object) -> object:
    """PHP writes an empty object as [], and some producers encode ``meta`` twice; anything else says nothing."""
    if isinstance(value, str):
        try:
            value = read_json(value)
        except ValueError:
            return {}
    return value if isinstance(value, dict) else {}


def _memory_type(value: object) -> object:
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise ValueError("is not text; send permanent or temporary")  # noqa: TRY004  # see above
    return value.strip().lower()


def _flag(value: object) -> object:
    """Programs write true, 1 or "true"; anything else says nothing."""
    if isinstance(value, str):
        return {"true": True, "1": True, "false": False, "0": False}.get(value.strip().lower())
    return bool(value) if isinstance(value, bool | int | float) else None


TaskId = Annotated[str, BeforeValidator(_task_id)]
"""Empty where it is missing."""
UserId = Annotated[str, BeforeValidator(_user_id)]
"""``anonymous`` where it is missing or empty."""
Content = Annotated[str, BeforeValidator(_content)]
"""Text, or OpenAI-style text parts, joined by line breaks; other parts are refused."""
PassedOn = Annotated[str | None, BeforeValidator(_passed_on)]
"""Text that no decision depends on, from a value of any shape."""
FilePath = Annotated[str | None, BeforeValidator(_path)]
Moment = Annotated[float | str | None, BeforeValidator(_number_or_text)]
"""Seconds since 1970, or whatever the producer writes."""
TaskType = Annotated[str, BeforeValidator(lambda value: _passed_on(value) if value else "text")]
Source = Annotated[str, BeforeValidator(lambda value: _passed_on(value) if value else "user")]
MemoryType = Annotated[str | None, BeforeValidator(_memory_type)]
"""In lower case. Values other than text are refused, because they may have meant "do not remember"."""


Table = BeforeValidator(_table)
"""For a field that holds a model: a value that is not a JSON object counts as an empty one."""
Flag = Annotated[bool | None, BeforeValidator(_flag)]
"""None where it is missing or no yes or no."""
