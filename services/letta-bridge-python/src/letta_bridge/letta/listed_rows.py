"""Converts Letta's listed form of a message to the row of an agent file, with some loss.

For the few messages that Letta cannot export, such as one with a lone surrogate. Times have seconds only, envelopes of
tool results are reconstructed, and several text parts become one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

Listed = Mapping[str, Any]
"""An entry of Letta's list. One message may have several entries with the same id."""

_ROLE_OF_MESSAGE_TYPE: Final = {"user_message": "user", "system_message": "system", "tool_return_message": "tool"}
OWN_OTID: Final = frozenset({"user_message", "system_message", "approval_request_message", "approval_response_message"})
"""Types of entries that show the stored otid; for all others Letta derives one from the message's id."""


def listed_row(entries: Sequence[Listed]) -> dict[str, Any]:
    """The row of a message.

    Args:
        entries: all entries of one message, in listed order; at least one.
    """
    first = entries[0]
    kind = str(first.get("message_type"))
    row: dict[str, Any] = {"role": _ROLE_OF_MESSAGE_TYPE.get(kind, "assistant"), "created_at": first.get("date")}
    if first.get("name"):
        row["name"] = first["name"]
    if kind == "tool_return_message":
        return row | _tool_result(first)
    content: list[Any] = []
    calls: list[Any] = []
    for entry in entries:
        content += _content(entry)
        calls += _calls(entry)
    return row | {"content": content, **({"tool_calls": calls} if calls else {})}


def own_otid(entries: Sequence[Listed]) -> str | None:
    """The otid that is stored with the message; None where there is none."""
    given = (entry.get("otid") for entry in entries if entry.get("message_type") in OWN_OTID)
    return next((str(otid) for otid in given if otid), None)


def _content(entry: Listed) -> list[Any]:
    text = entry.get("content")
    if isinstance(text, list):
        return text
    if isinstance(text, str):
        return [_text(text)]
    if isinstance(entry.get("reasoning"), str):
        return [{"type": "reasoning", "is_native": True, "reasoning": entry["reasoning"]}]
    return []


def _calls(entry: Listed) -> list[Any]:
    calls = entry.get("tool_calls") or ([entry["tool_call"]] if entry.get("tool_call") else [])
    return [
        {
            "id": call.get("tool_call_id"),
            "type": "function",
            "function": {"name": call.get("name"), "arguments": call.get("arguments")},
        }
        for call in calls
        if isinstance(call, Mapping)
    ]


def _tool_result(entry: Listed) -> dict[str, Any]:
    returns = entry.get("tool_returns") or [entry]
    texts = [_envelope(one, entry.get("date")) for one in returns]
    return {
        "content": [_text(text) for text in texts],
        "tool_call_id": entry.get("tool_call_id"),
        "tool_returns": [
            {
                "tool_call_id": one.get("tool_call_id"),
                "status": one.get("status"),
                "stdout": one.get("stdout"),
                "stderr": one.get("stderr"),
                "func_response": text,
            }
            for one, text in zip(returns, texts, strict=True)
        ],
    }


def _envelope(result: Listed, date: object) -> str:
    status = "OK" if result.get("status") == "success" else "Failed"
    return json.dumps({"status": status, "message": result.get("tool_return"), "time": date}, ensure_ascii=False)


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}
