"""A parsed chat completion request: messages, memory and tools."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_BLOCK = re.compile(
    r"<(?P<label>[\w/-]+)>\s*<description>.*?</metadata>\s*(?:<warning>.*?</warning>\s*)?<value>\n?(?P<value>.*?)</value>",
    re.DOTALL,
)
_LINE_NUMBER = re.compile(r"^\d+→ ?", re.MULTILINE)
_PACKED = {"user_message", "system_alert"}


@dataclass(frozen=True, slots=True)
class Said:
    """One message with text in it: ``role`` is user, system or assistant."""

    role: str
    text: str


@dataclass(frozen=True, slots=True)
class ToolUse:
    """One tool call and what it returned; ``result`` is None while there is none."""

    name: str
    arguments: Mapping[str, Any]
    result: str | None

    @property
    def succeeded(self) -> bool:
        """Letta packs results as JSON with a ``status``; a refused edit has another one than OK."""
        return self.result is not None and not self.failed

    @property
    def failed(self) -> bool:
        return bool(_json_object(self.result or "").get("status", "OK") != "OK")


@dataclass(frozen=True, slots=True)
class Conversation:
    """The request, read.

    Attributes:
        system: the system prompt.
        blocks: label and value of every memory block rendered in it.
        timeline: everything after it, oldest first, the newest user message included.
        newest: text of the newest user message, "" where there is none.
        uses_now: the tool uses since that message.
        tools: name and parameter schema of every tool offered.
    """

    system: str
    blocks: Mapping[str, str]
    timeline: Sequence[Said | ToolUse]
    newest: str
    uses_now: Sequence[ToolUse]
    tools: Mapping[str, Mapping[str, Any]]


def read(request: Mapping[str, Any]) -> Conversation:
    """Read the body of a chat completion request. Parts of an unknown shape are passed over."""
    messages = [m for m in _list(request.get("messages")) if isinstance(m, dict)]
    system = ""
    if messages and _role(messages[0]) == "system":
        system = _content(messages.pop(0))
    timeline = list(_timeline(messages))
    asking = [i for i, event in enumerate(timeline) if isinstance(event, Said) and event.role == "user"]
    newest = timeline[asking[-1]] if asking else None
    return Conversation(
        system=system,
        blocks={m["label"]: _LINE_NUMBER.sub("", m["value"]).strip("\n") for m in _BLOCK.finditer(system)},
        timeline=timeline,
        newest=newest.text if isinstance(newest, Said) else "",
        uses_now=[event for event in timeline[asking[-1] if asking else 0 :] if isinstance(event, ToolUse)],
        tools=_tools(request),
    )


def _timeline(messages: Sequence[Mapping[str, Any]]) -> Iterator[Said | ToolUse]:
    results = {m.get("tool_call_id"): _content(m) for m in messages if m.get("role") == "tool"}
    for message in messages:
        if message.get("role") == "tool":
            continue
        if text := _text(message):
            yield Said(_role(message), text)
        for call in _list(message.get("tool_calls")):
            function = call.get("function") if isinstance(call, dict) else None
            if isinstance(function, dict):
                arguments = _json_object(function.get("arguments"))
                yield ToolUse(str(function.get("name", "")), arguments, results.get(call.get("id")))


def _role(message: Mapping[str, Any]) -> str:
    role = str(message.get("role"))
    return "system" if role == "developer" else role


def _text(message: Mapping[str, Any]) -> str:
    """What the message says, out of the JSON envelope Letta puts around notes; "" for a heartbeat."""
    content = _content(message)
    packed = _json_object(content)
    if "type" not in packed:
        return content
    return str(packed.get("message", "")) if packed["type"] in _PACKED else ""


def _content(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, str):
        return content
    return "\n".join(str(part.get("text", "")) for part in _list(content) if isinstance(part, dict))


def _tools(request: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    functions = (tool.get("function") for tool in _list(request.get("tools")) if isinstance(tool, dict))
    return {str(f["name"]): f.get("parameters") or {} for f in functions if isinstance(f, dict) and "name" in f}


def _json_object(text: Any) -> dict[str, Any]:
    if not isinstance(text, str) or not text.startswith("{"):
        return {}
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
