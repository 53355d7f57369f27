"""Tool calls that a small model writes as bare JSON, in the form of the API.

llama.cpp's server waits for the tags of the model's template, which this model leaves out.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Collection, Mapping
from typing import Any, Final

_FENCED: Final = re.compile(r"```(?:json)?\s*(.*?)\s*```", re.DOTALL)


def with_tool_calls(completion: dict[str, Any], tools: Collection[str]) -> dict[str, Any]:
    """The completion with its text as a tool call, where all of the text is one of an offered tool.

    Anything else stays text, broken calls and calls of unknown tools as well: that is what a real server passes on.
    """
    for choice in completion.get("choices") or ():
        message = choice.get("message") or {}
        call = _call(message.get("content"), tools)
        if call is not None:
            message |= {"content": None, "tool_calls": [call]}
            choice["finish_reason"] = "tool_calls"
    return completion


def offered_tools(request: Mapping[str, Any]) -> set[str]:
    """The names of a request's tools."""
    return {tool["function"]["name"] for tool in request.get("tools") or ()}


def _call(content: object, tools: Collection[str]) -> dict[str, Any] | None:
    text = content.strip() if isinstance(content, str) else ""
    fenced = _FENCED.fullmatch(text)
    try:
        said = json.loads(fenced[1] if fenced else text)
    except ValueError:
        return None
    if not isinstance(said, dict) or said.get("name") not in tools or not isinstance(said.get("arguments"), dict):
        return None
    function = {"name": said["name"], "arguments": json.dumps(said["arguments"], ensure_ascii=False)}
    return {"id": f"call_{uuid.uuid4().hex[:24]}", "type": "function", "function": function}
