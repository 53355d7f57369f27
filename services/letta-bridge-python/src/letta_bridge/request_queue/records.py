"""Format versions of the queue's records, as far as Python reads them. ``lua/records.lua`` describes all formats.

A record that names no version has version 1. A release must be able to read a new version before a later release
writes it, because bridges are upgraded one at a time and going back one release must work.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final

JSON_VERSION: Final = 1
"""Of JSON in the journal's stream and of missed turns; the field "v" names a later one."""
_LETTER_VERSION: Final = 2
"""Of dead letters. Version 1 holds a task, version 2 a record that was set aside."""
_NUMBER: Final = re.compile(r"(\d+)-(\d+)")


class Fault(StrEnum):
    """Why a record was set aside; the code of its dead letter."""

    NEWER = "newer_record"
    """A later release wrote it."""
    UNREADABLE = "unreadable_record"
    """It is damaged."""


def fault_of_json(record: Mapping[str, Any]) -> Fault:
    """The fault of a JSON record that could not be parsed."""
    return Fault.NEWER if _version(record) > JSON_VERSION else Fault.UNREADABLE


def body_of_letter(about: Mapping[str, Any]) -> str:
    """The kind of a dead letter's body.

    Returns:
        ``task``, the kind of a record (``entry``, ``turn``, ``journal``, …), ``newer`` if the letter itself has a
        later version, or ``unreadable`` if it does not describe itself.
    """
    if not about:
        return "unreadable"
    version = _version(about)
    if version > _LETTER_VERSION:
        return "newer"
    return str(about.get("record")) if version == _LETTER_VERSION else "task"


def number_of(seq: int, first_ms: int) -> str:
    """The number of a task, unique for ever and the same for all its hand-outs."""
    return f"{seq}-{first_ms}"


def parts_of_number(number: object) -> tuple[str, str] | None:
    """``seq`` and ``first_ms`` of a task's number; None if it is not one."""
    found = _NUMBER.fullmatch(number) if isinstance(number, str) else None
    return (found[1], found[2]) if found else None


def _version(record: Mapping[str, Any]) -> int:
    version = record.get("v", 1)
    return version if isinstance(version, int) else 1
