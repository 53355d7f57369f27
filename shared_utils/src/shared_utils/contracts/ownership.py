r"""Finds the owner of a payload, even of a partly unreadable task, for exports and erasures of one user.

``parse_task`` decides for what it can read. The rest, tasks that end as dead letters, is judged by its JSON object, or
by the ids that stand in its text. A user id has many JSON forms: ``42`` and ``"42"``, ``"Ada"`` and ``"\u0041da"``,
none at all and ``null`` for the anonymous user.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Any, Final

from shared_utils.contracts.limits import BOUNDS
from shared_utils.contracts.message_fields import ANONYMOUS, identifier
from shared_utils.contracts.messages import parse_task
from shared_utils.errors import MalformedMessage
from shared_utils.text import read_json, read_text

_USER_IDS: Final = re.compile(r'"user_id"\s*:\s*("(?:[^"\\]|\\.)*"|-?\d+(?=[\s,}\]])|null)', re.DOTALL)


class Ownership(StrEnum):
    """How certainly a payload belongs to a user."""

    THEIRS = "theirs"
    SHARED = "shared"
    """It names this user and others, and is not one readable task."""
    OTHERS = "others"
    """It belongs to another user, or to an unknown one."""


def ownership(payload: bytes, user_id: str) -> Ownership:
    """Whether the payload is this user's."""
    users = owners(payload)
    if user_id not in users:
        return Ownership.OTHERS
    return Ownership.THEIRS if len(users) == 1 else Ownership.SHARED


def owners(payload: bytes) -> frozenset[str]:
    """Every possible owner of the payload: one if certain, none if it names no user."""
    try:
        return frozenset({parse_task(payload, BOUNDS).user_id})
    except MalformedMessage:
        pass
    text = read_text(payload)
    try:
        content = read_json(payload)
    except ValueError:
        return frozenset(_named_in(text))
    if isinstance(content, Mapping):
        user = _user(content.get("user_id"))
        return frozenset() if user is None else frozenset({user})
    return frozenset(_named_in(text))


def _user(value: Any) -> str | None:
    """The user of an object that is not a valid task, read as leniently as by any reader of the stack."""
    if value is None or value == "":
        return ANONYMOUS
    try:
        user = identifier(value)
    except ValueError:
        return None
    return user if isinstance(user, str) else None


def _named_in(text: str) -> Iterator[str]:
    for literal in _USER_IDS.findall(text):
        try:
            user = _user(json.loads(literal, strict=False))
        except ValueError:
            continue
        if user is not None:
            yield user
