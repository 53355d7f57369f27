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
    r'\[?\s*\{\s*"name"\s*:\s*"(?P<name>[\w.:/-]{0,100})(?:"\s*(?:,\s*(?:"\w{0,20}(?:"\s*:?)?)?)?)?\s*\Z'
)
"""A call that the text ends in before its arguments, as small models stop."""
_RESULT_KEYS: Final = frozenset({"status", "message", "time"})
_RESULT_STATES: Final = ("OK", "Failed")
_CUT_RESULT: Final = re.compile(r'\{\s*"status"\s*:\s*"(?:OK|Failed)"\s*,\s*"message"\s*:')
"""The beginning of what Letta tells a model of a tool's end."""
_OF_NO_TOOL: Final = ""
"""The name that a result has: it does not say whose it is."""
_STRUCTURE: Final = re.compile(r'["\[{\]}]')
_REST_OF_TEXT: Final = re.compile(r'[^"\\]*(?:\\.[^"\\]*)*', re.DOTALL)
_KEYS: Final = "|".join(sorted(_CALL_KEYS | _RESULT_KEYS))
_NO_CALL: Final = re.compile(
    rf"""\s*+\[?+\s*+(?:[^\s{{]|\{{\s*+(?:[^"]|"(?!(?:{_KEYS})"|[^"]*\\|[^"]*\Z)))""",
)
"""What begins no call and no result: something else than an object, or an object with another key first."""
_NO_JSON: Final = re.compile(r'\{\s*[^\s"}]|\[\s*[^\s"\[{\]0-9tfnNI-]')
"""What begins no JSON document: a bracket with something in it that cannot be there."""
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


def may_be_call(text: str, start: int) -> bool:
    """Whether a call or a result may begin at ``start``, blanks skipped, if more text follows."""
    return _NO_CALL.match(text, start) is None


def may_be_json(text: str, start: int) -> bool:
    """Whether a JSON object or list may begin with the bracket at ``start``, if more text follows."""
    return _NO_JSON.match(text, start) is None


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


class Brackets:
    """Finds the bracket that closes the first one of a JSON value, which may arrive in parts."""

    def __init__(self) -> None:
        self.exhausted = False
        """The value is not closed within 32,768 characters."""
        self._read = 0
        self._depth = 0
        self._in_text = False

    def end(self, text: str, start: int) -> int | None:
        """Behind that bracket; None where it is not there yet. Each call's ``text`` has more behind ``start``."""
        limit = min(len(text), start + _MAX_CALL_CHARACTERS)
        at = start + self._read
        while at < limit:
            if self._in_text:
                at = _REST_OF_TEXT.match(text, at, limit).end()  # type: ignore[union-attr]  # it matches nothing, too
                if at >= limit or text[at] != '"':
                    break
                self._in_text = False
                at += 1
                continue
            found = _STRUCTURE.search(text, at, limit)
            at = limit if found is None else found.end()
            if found is None:
                break
            if found[0] == '"':
                self._in_text = True
            elif found[0] in "[{":
                self._depth += 1
            else:
                self._depth -= 1
                if self._depth <= 0:
                    return at
        self._read = at - start
        self.exhausted = limit == start + _MAX_CALL_CHARACTERS
        return None


def _bracket_end(text: str, start: int) -> int | None:
    """Behind the bracket that closes the one at ``start``; None where it is not closed within 32,768 characters."""
    return Brackets().end(text, start)


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
