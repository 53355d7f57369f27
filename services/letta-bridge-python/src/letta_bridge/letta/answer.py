"""Extracts the agent's answer from the messages of a turn.

These functions accept any JSON: whatever a server sends, they return and never raise. They return only assistant text,
never reasoning, tool calls or tool results, not even if the model wrote them into its text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields

from letta_bridge.letta.port import RunEnd, TurnAnswer, Usage
from shared_utils.llm.model_text import text_for_user
from shared_utils.text import clean_text, read_json

MEMORY_TOOLS = frozenset(
    {
        "archival_memory_insert",
        "core_memory_append",
        "core_memory_replace",
        "memory",
        "memory_apply_patch",
        "memory_finish_edits",
        "memory_insert",
        "memory_replace",
        "memory_rethink",
        "memory_str_insert",
        "memory_str_replace",
        "rethink_memory",
        "rethink_user_memory",
    }
)
"""Letta's tools that change what an agent remembers."""

SEND_MESSAGE = "send_message"
"""The tool with which agents of older types speak to the user."""

FOUND = "found"
"""The stop reason of an answer read from the agent's history, where Letta keeps none."""

_USAGE_FIELDS = tuple(field.name for field in fields(Usage))

# The text of a send_message call whose JSON was cut off or otherwise broken.
_BROKEN_MESSAGE = re.compile(r'"message"\s*:\s*"((?:[^"\\]|\\.)*)', re.DOTALL)


def parse_answer(body: bytes) -> TurnAnswer:
    """The answer in the body of a finished turn. Raises ValueError where the body is not a JSON object."""
    response = read_json(body)
    if isinstance(response, dict):
        return turn_answer(response)
    raise ValueError("not a JSON object")


def turn_answer(response: Mapping[str, object]) -> TurnAnswer:
    """The answer in Letta's response: ``messages``, ``stop_reason``, ``usage``, each of them optional."""
    messages = response.get("messages")
    return answer_of(
        messages, stop_reason=_stop_reason(response.get("stop_reason")), usage=_usage(response.get("usage"))
    )


def answer_of(messages: object, *, stop_reason: str, usage: Usage | None = None) -> TurnAnswer:
    """The answer in a list of Letta messages, oldest first."""
    listed = [message for message in messages if isinstance(message, dict)] if isinstance(messages, list) else []
    return TurnAnswer(
        text=_text(listed),
        stop_reason=stop_reason,
        usage=usage,
        memory_updated=_memory_updated(listed),
    )


def _text(messages: list[dict[str, object]]) -> str:
    said = [content_text(m.get("content")) for m in messages if m.get("message_type") == "assistant_message"]
    return clean_text(_joined(said) or _joined(sent_by_tool(messages)))


def _joined(said: Iterable[str]) -> str:
    return "\n".join([part for part in map(text_for_user, said) if part and not part.isspace()])


def content_text(content: object) -> str:
    """The text of a message's content, which is a string or a list of parts; empty for anything else."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(_part(part) for part in content)
    return ""


def _part(part: object) -> str:
    if isinstance(part, str):
        return part
    if isinstance(part, dict) and part.get("type", "text") == "text":
        text = part.get("text")
        return text if isinstance(text, str) else ""
    return ""


def sent_by_tool(messages: Iterable[Mapping[str, object]]) -> Iterator[str]:
    """Text of older agent types, which answer by calling the tool ``send_message``."""
    for message in messages:
        for name, _, arguments in tool_calls(message):
            if name == SEND_MESSAGE:
                yield _message_argument(arguments)


def tool_calls(message: Mapping[str, object]) -> Iterator[tuple[str, object, object]]:
    """Name, call id and arguments of every tool call; the list form repeats the single one."""
    if message.get("message_type") != "tool_call_message":
        return
    listed = message.get("tool_calls")
    calls = listed if isinstance(listed, list) and listed else [message.get("tool_call")]
    for call in calls:
        if isinstance(call, dict) and isinstance(name := call.get("name"), str):
            yield name, call.get("tool_call_id"), call.get("arguments")


def _message_argument(arguments: object) -> str:
    given = _parsed(arguments) if isinstance(arguments, str) else arguments
    if isinstance(given, dict):
        return content_text(given.get("message"))
    return _salvaged(arguments) if isinstance(arguments, str) else ""


def _parsed(arguments: str) -> object:
    try:
        return json.loads(arguments, strict=False)
    except (ValueError, RecursionError):
        return None


def _salvaged(arguments: str) -> str:
    found = _BROKEN_MESSAGE.search(arguments)
    if found is None:
        return ""
    try:
        text = json.loads(f'"{found[1]}"', strict=False)
    except ValueError:
        return found[1]
    return text if isinstance(text, str) else ""


def _memory_updated(messages: list[dict[str, object]]) -> bool:
    returns = [message for message in messages if message.get("message_type") == "tool_return_message"]
    if not returns:
        return False
    names = {
        call_id: name for message in messages for name, call_id, _ in tool_calls(message) if isinstance(call_id, str)
    }
    for message in returns:
        for name, call_id, succeeded in tool_returns(message):
            called = names.get(call_id, name) if isinstance(call_id, str) else name
            if succeeded and isinstance(called, str) and called in MEMORY_TOOLS:
                return True
    return False


def tool_returns(message: Mapping[str, object]) -> Iterator[tuple[object, object, bool]]:
    """Tool name if given, call id, and success, of everything that a tool return message reports."""
    listed = message.get("tool_returns")
    for returned in listed if isinstance(listed, list) and listed else [message]:
        if isinstance(returned, Mapping):
            yield message.get("name"), returned.get("tool_call_id"), returned.get("status") == "success"


def _stop_reason(value: object) -> str:
    if isinstance(value, dict):
        value = value.get("stop_reason")
    return value if isinstance(value, str) else "unknown"


def run_end(run: object, usage: object) -> RunEnd:
    """The end of a finished run, from Letta's descriptions of the run and its usage."""
    reason = run.get("stop_reason") if isinstance(run, dict) else None
    return RunEnd(reason if isinstance(reason, str) else FOUND, _usage(usage))


def _usage(value: object) -> Usage | None:
    """The tokens of a turn; None if Letta counted none, as for a turn that failed in the middle."""
    if not isinstance(value, dict):
        return None
    counts = [n if type(n := value.get(name)) is int and n > 0 else 0 for name in _USAGE_FIELDS]
    usage = Usage(*counts)
    return usage if usage.total_tokens else None
