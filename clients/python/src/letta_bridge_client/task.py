"""A task as it is pushed, and the key under which its reply is kept."""

from __future__ import annotations

import hashlib
import json
import re
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self, TypedDict, Unpack

_UNSTORABLE: Final = re.compile("[\x00\ud800-\udfff]")
_UNREADABLE: Final = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
"""In an id: the bridge could not tell whose the task is."""
_REPLACEMENT: Final = "\ufffd"
_META_OF_OPTIONS: Final = {"memory_type": "memory", "lang": "lang", "persona": "persona"}


class TaskOptions(TypedDict, total=False):
    """What may be said with a message, by keyword."""

    persona: str | None
    """Which of the configured personas answers; each has an agent of its own."""
    lang: str | None
    """The language of a new agent's first memory."""
    memory: str | None
    """``permanent`` (the default), or ``temporary``: no agent remembers the message."""
    task_id: str | None
    """An idempotency key of the caller's own: a repeated call with the same id and text is no second turn."""
    meta: Mapping[str, Any] | None
    """More metadata, kept and passed on."""


@dataclass(frozen=True, slots=True)
class Task:
    """One message of a user.

    Attributes:
        task_id: the idempotency key, unique for each message of a user.
        user_id: whose memory it is.
        payload: the JSON that is pushed.
        digest: of the content, as the bridge stores it beside the reply.
        is_named: whether the caller chose the id, so that an earlier task may have it, too.
    """

    task_id: str
    user_id: str
    payload: bytes
    digest: str
    is_named: bool

    @classmethod
    def of(
        cls,
        user: str | int,
        text: str,
        **options: Unpack[TaskOptions],
    ) -> Self:
        """Build it.

        Raises:
            ValueError: the user's or the task's id is empty, or no id.
        """
        user_id, named = identifier("user", user), options.get("task_id")
        task_id = str(uuid.uuid4()) if named is None else identifier("task_id", named)
        text = _UNSTORABLE.sub(_REPLACEMENT, text)
        chosen = {name: options.get(option) for name, option in _META_OF_OPTIONS.items()}
        meta = {**(options.get("meta") or {}), **{name: value for name, value in chosen.items() if value is not None}}
        content = {
            "task_id": task_id,
            "type": "text",
            "user_id": user_id,
            "content": text,
            "source": "user",
            "timestamp": time.time(),
            "meta": meta,
        }
        payload = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
        return cls(task_id, user_id, payload, _digest(text, meta.get("persona")), named is not None)


def identifier(name: str, value: str | int) -> str:
    """An id as text.

    Raises:
        ValueError: it is empty, or no id.
    """
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError(f"{name} is {type(value).__name__}; pass text or a whole number")  # noqa: TRY004  # one kind
    text = str(value)
    if not text:
        raise ValueError(f"{name} is empty; every user and task needs an id of its own")
    if _UNREADABLE.search(text):
        raise ValueError(f"{name} contains a control character or half a surrogate pair; pass plain text")
    return text


def reply_key(requests: str, user_id: str, task_id: str) -> str:
    """The key under which the bridge keeps the reply to a task of the queue ``requests``."""
    return f"{{{requests}}}:reply:{_per_task(user_id, task_id)}"


def stream_key(requests: str, user_id: str, task_id: str) -> str:
    """The key under which the bridge keeps the events of a task of the queue ``requests``."""
    return f"{{{requests}}}:stream:{_per_task(user_id, task_id)}"


def _per_task(user_id: str, task_id: str) -> str:
    return f"{user_id.replace('%', '%25').replace(':', '%3A')}:{task_id}"


def _digest(text: str, persona: str | None) -> str:
    """SHA-256 of what the bridge takes for a task's content: type, text, input file, persona."""
    said = ["text", text, "", persona or ""]
    return hashlib.sha256(json.dumps(said, ensure_ascii=False, separators=(",", ":")).encode()).hexdigest()
