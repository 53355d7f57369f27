"""Answers of Letta's API in the shape of the real server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

USAGE: Final = {"completion_tokens": 3, "prompt_tokens": 668, "total_tokens": 671, "step_count": 1}
"""Tokens of every turn."""


def turn_answer(messages: Sequence[Mapping[str, Any]], stop_reason: str = "end_turn") -> dict[str, Any]:
    """The body of an answered turn."""
    return {
        "messages": list(messages),
        "stop_reason": {"message_type": "stop_reason", "stop_reason": stop_reason},
        "usage": USAGE,
    }


def health(version: str) -> dict[str, Any]:
    """The body of the health page."""
    return {"version": version, "status": "ok"}
