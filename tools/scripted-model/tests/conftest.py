from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

Message = dict[str, Any]

_MEMORY_TOOLS: dict[str, Any] = {
    "conversation_search": {"properties": {"query": {}}},
    "memory_insert": {"properties": {"label": {}, "new_string": {}, "insert_line": {}}},
    "memory_replace": {"properties": {"label": {}, "old_string": {}, "new_string": {}}},
}


def _system(human: str) -> str:
    """A system prompt as Letta 0.16.8 renders it."""
    return (
        "You are an agent.\n\n<memory_blocks>\nThe following memory blocks are currently engaged:\n\n"
        "<persona>\n<description>\nWho you are.\n</description>\n<metadata>\n- chars_current=4\n- chars_limit=5000\n"
        "</metadata>\n<value>\nKind.\n</value>\n</persona>\n\n"
        f"<human>\n<description>\nThe user.\n</description>\n<metadata>\n- chars_current={len(human)}\n"
        f"- chars_limit=5000\n</metadata>\n<value>\n{human}\n</value>\n</human>\n\n</memory_blocks>\n"
    )


def _request(*messages: Message | str, human: str | None = None, tools: dict[str, Any] | None = None) -> dict[str, Any]:
    """A chat completion request; with ``human`` one of a Letta agent, a str is a user message."""
    if human is not None:
        tools = _MEMORY_TOOLS if tools is None else tools
        messages = ({"role": "system", "content": _system(human)}, *messages)
    body: dict[str, Any] = {
        "model": "scripted",
        "messages": [{"role": "user", "content": m} if isinstance(m, str) else m for m in messages],
    }
    if tools:
        body["tools"] = [
            {"type": "function", "function": {"name": name, "parameters": schema}} for name, schema in tools.items()
        ]
    return body


def _used(name: str, arguments: dict[str, Any], status: str = "OK") -> list[Message]:
    """The two messages of a tool use: the call and what it returned."""
    call_id = f"call_{name}_{len(str(arguments))}"
    function = {"name": name, "arguments": json.dumps(arguments)}
    return [
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": call_id, "type": "function", "function": function}],
        },
        {"role": "tool", "tool_call_id": call_id, "content": json.dumps({"status": status, "message": "..."})},
    ]


@pytest.fixture
def request_of() -> Callable[..., dict[str, Any]]:
    return _request


@pytest.fixture
def used() -> Callable[..., list[Message]]:
    return _used
