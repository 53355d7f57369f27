"""Sends the messages and tools of a request as they are.

The SDK walks through every message of the context and compares it with all types a message may have, to rename keys
and to encode files. Letta's messages are JSON already, so nothing changes, and the walk takes longer than all else in
a call. What is given as ``extra_body`` goes into the request without it.
"""

from __future__ import annotations

from typing import Any, Final

_AS_THEY_ARE: Final = ("messages", "tools")


def send_as_they_are(client: Any) -> Any:
    """Let an ``AsyncOpenAI``'s chat completions send messages and tools that are JSON as they are; returns it."""
    completions = client.chat.completions
    original = completions.create

    async def create(**request: Any) -> Any:
        body = {name: request[name] for name in _AS_THEY_ARE if name in request and is_json(request[name])}
        if "messages" in body:
            request["messages"] = []  # which the SDK requires; the body's take its place
        if "tools" in body:
            del request["tools"]
        return await original(**request | {"extra_body": {**body, **(request.get("extra_body") or {})}})

    completions.create = create
    return client


def is_json(value: Any) -> bool:
    """Whether a value consists of JSON's types alone, and not of classes derived from them."""
    kind = type(value)
    if kind is dict:
        return all(type(name) is str and is_json(held) for name, held in value.items())
    if kind is list:
        return all(map(is_json, value))
    return value is None or kind in {str, int, float, bool}
