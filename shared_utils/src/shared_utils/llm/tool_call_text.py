"""Tool calls that a model writes as JSON into its text instead of making them, and tools' results that it imitates."""

from __future__ import annotations

import json
import re
from typing import Any, Final

_CALL_KEYS: Final = frozenset({"name", "arguments", "parameters", "function", "type", "id", "tool_call_id"})
_KNOWN_TOOLS: Final = re.compile(
    r"(?:core_memory|archival_memory|memory|rethink|conversation)_?\w*|rethink_memory|send_message|run_code|web_search"
)
"""Names of Letta's tools; a call of one counts as a call anywhere in the text."""
_BROKEN_CALL: Final = re.compile(
    r'\[?\s*\{\s*(?:"(?:type|id)"\s*:\s*"[^"\n]{0,100}"\s*,\s*)*'
    r'(?:"function"\s*:\s*\{\s*)?"name"\s*:\s*"(?P<name>[\w.:/-]{1,100})"\s*,\s*"(?:arguments|parameters)"\s*:'
)
"""The beginning of a call with truncated or invalid JSON."""
_CUT_CALL: Final = re.compile(
    r'\[?\s*\{\s*"name"\s*:\s*"(?P<name>[\w.:/-]{0,100})(?:"\s*(?:,\s*(?:"\w{0,20}(?:"\s*:?\s*)?)?)?)?\Z'
)
"""A call that the text ends in before its arguments, as small models stop."""
_RESULT_KEYS: Final = frozenset({"status", "message", "time"})
_RESULT_STATES: Final = ("OK", "Failed")
_CUT_RESULT: Final = re.compile(r'\{\s*"status"\s*:\s*"(?:OK|Failed)"\s*,\s*"message"\s*:')
"""The beginning of what Letta tells a model of a tool's end."""
_OF_NO_TOOL: Final = ""
"""The name that a result has: it does not say whose it is."""
_STRUCTURE: Final = re.compile(r'"(?:[^"\\]|\\.)*(?:"|$)|[\[{]|[\]}]', re.DOTALL)
_MAX_CALL_CHARACTERS: Final = 32_768
"""Characters of one call."""


def call_end(text: str, start: int, *, known_tools_only: bool = False) -> int | None:
    """The end of the tool call, list of them, or tool's result that begins at ``start``, blanks skipped; None: nowhere.

    Args:
        text: what the model wrote.
        start: where to look.
        known_tools_only: count calls of Letta's own tools only.

    Returns:
        An index into ``text``; its length where the call is cut off.
    """
    while start < len(text) and text[start].isspace():
        start += 1
    if text[start : start + 1] not in {"{", "["}:
        return None
    end = _bracket_end(text, start)
    written = text[start:end] if end is not None else text[start : start + _MAX_CALL_CHARACTERS]
    try:
        names = _called(json.loads(written, strict=False))
    except (ValueError, RecursionError):
        names = _begun(written, unclosed=end is None)
    if not names or (known_tools_only and not all(map(_KNOWN_TOOLS.fullmatch, names))):
        return None
    return len(text) if end is None else end


def document_end(text: str, start: int) -> int | None:
    """The end of the JSON object or list that begins at ``start``; None where none does."""
    end = _bracket_end(text, start)
    if end is None:
        return None
    try:
        json.loads(text[start:end], strict=False)
    except (ValueError, RecursionError):
        return None
    return end


def _begun(written: str, *, unclosed: bool) -> list[str] | None:
    """The name of the tool whose call or result begins here in JSON that is cut off or invalid."""
    broken = _BROKEN_CALL.match(written) or (_CUT_CALL.match(written) if unclosed else None)
    if broken is not None:
        return [broken["name"]]
    return [_OF_NO_TOOL] if _CUT_RESULT.match(written) else None


def _bracket_end(text: str, start: int) -> int | None:
    """Behind the bracket that closes the one at ``start``; None where it is not closed within 32,768 characters."""
    depth = 0
    for found in _STRUCTURE.finditer(text, start, start + _MAX_CALL_CHARACTERS):
        first = found[0][0]
        if first in "[{":
            depth += 1
        elif first in "]}":
            depth -= 1
            if depth <= 0:
                return found.end()
    return None


def _called(value: Any) -> list[str] | None:
    """The names of the tools that are called, None where the value is no call."""
    calls = value if isinstance(value, list) else [value]
    names = [_name(call) for call in calls]
    return [name for name in names if name is not None] if names and None not in names else None


def _name(call: Any) -> str | None:
    if not isinstance(call, dict):
        return None
    if call.keys() == _RESULT_KEYS and call["status"] in _RESULT_STATES:
        return _OF_NO_TOOL
    if not _CALL_KEYS.issuperset(call):
        return None
    inner = call.get("function")
    if isinstance(inner, dict):
        return _name(inner)
    name = call.get("name", inner)
    arguments = call.get("arguments", call.get("parameters"))
    if not isinstance(name, str) or not isinstance(arguments, dict | str):
        return None
    return name if isinstance(arguments, dict) or arguments.lstrip().startswith("{") else None
