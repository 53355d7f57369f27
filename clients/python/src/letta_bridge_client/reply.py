"""The one shape of a reply."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of a turn, as Letta counted them."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Reply:
    """The reply to one task."""

    task_id: str
    user_id: str
    text: str
    """What to show the user; of an interrupted reply, what was published of it; of an error, a sentence for people with
    the remedy."""
    source: str
    """``letta``: the user's agent; ``memory-python``: short-term memory; ``letta_bridge``: an error."""
    status: str = "ok"
    """``ok``, ``interrupted`` or ``error``."""
    code: str = ""
    """Of an error; stable."""
    retryable: bool = False
    """Of an error: whether the same task may be sent again, with the same id and text."""
    memory_updated: bool = False
    """Whether the agent changed its memory."""
    agent_id: str | None = None
    fallback_reason: str | None = None
    """Why memory-python answered, if it did."""
    fallback_cause: str | None = None
    """The failure behind it."""
    usage: Usage | None = None
    truncated: bool = False
    """Whether the model's text reached its length limit."""
    canned: bool = False
    """Whether the text is the configured sentence of memory-python, because no model answered."""
    heard_text: str | None = None
    """Of an interrupted reply: the part of ``text`` that the user heard; None if nobody said."""
    attempts: int = 1
    """How many times the task was handed to a bridge."""
    timestamp: float = 0.0
    """Seconds since 1970."""
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)
    """The JSON object it was made from, with the fields that later releases add."""

    @property
    def ok(self) -> bool:
        """Whether it is an answer, not an error; also one that the user broke off."""
        return self.status != "error"

    @property
    def interrupted(self) -> bool:
        """Whether the user broke it off."""
        return self.status == "interrupted"

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Self:
        """The reply in a JSON object of ``letta_responses``, the stream of replies or a reply's key."""
        failed = bool(content.get("error"))
        usage = content.get("usage")
        return cls(
            task_id=str(content.get("task_id", "")),
            user_id=str(content.get("user_id", "")),
            text=str((content.get("message") if failed else content.get("response_text")) or ""),
            source=str(content.get("source", "")),
            status="error" if failed else "interrupted" if content.get("status") == "interrupted" else "ok",
            code=str(content.get("code") or "error") if failed else "",
            retryable=failed and content.get("retryable") is True,
            memory_updated=content.get("memory_updated") is True,
            agent_id=_text(content.get("agent_id")),
            fallback_reason=_text(content.get("fallback_reason")),
            fallback_cause=_text(content.get("fallback_cause")),
            usage=_usage(usage) if isinstance(usage, Mapping) else None,
            truncated=content.get("truncated") is True,
            canned=content.get("canned") is True,
            heard_text=_text(content.get("heard_text")),
            attempts=_whole(content.get("attempts"), 1),
            timestamp=_number(content.get("timestamp")),
            raw=content,
        )


def text_of(value: bytes | str) -> str:
    """What Redis says; a client that the caller made may decode by itself."""
    return value.decode() if isinstance(value, bytes) else value


def json_object(text: bytes | str | None) -> dict[str, Any]:
    """What a JSON object holds; empty for anything else."""
    if text is None:
        return {}
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _whole(value: object, default: int = 0) -> int:
    return value if isinstance(value, int) else default


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def _usage(counted: Mapping[str, Any]) -> Usage:
    names = ("prompt_tokens", "completion_tokens", "total_tokens")
    return Usage(*(_whole(counted.get(name)) for name in names))
