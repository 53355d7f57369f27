"""The tasks of all contenders, and the addresses of Redis and Letta."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

REQUESTS: Final = "letta_requests"
RESPONSES: Final = "letta_responses"

REDIS_URL: Final = os.environ.get("BENCH_REDIS_URL", "redis://127.0.0.1:6379/0")
LETTA_URL: Final = os.environ.get("BENCH_LETTA_URL", "http://127.0.0.1:8283")
CONCURRENCY: Final = int(os.environ.get("BENCH_CONCURRENCY", "64"))

_CONTENT: Final = "Do you remember what I told you about the garden last week? The tomatoes have come, all of them red."


def payload(number: int, users: int, prefix: str = "t", *, stream: bool = False) -> str:
    """One task as JSON, about 300 bytes. Users take turns, so that neighbours in the queue are different users."""
    task: dict[str, Any] = {
        "task_id": f"{prefix}-{number}",
        "type": "text",
        "user_id": f"user-{number % users}",
        "content": f"{number}: {_CONTENT}",
        "source": "user",
        "timestamp": 1_750_000_000.0,
        "meta": {"lang": "en", "trace_id": f"{number:032x}", "memory_type": "permanent"},
    }
    if stream:
        task["meta"]["stream"] = True
    return json.dumps(task)


def payloads(first: int, count: int, users: int, prefix: str = "t", *, batch: int = 500) -> Iterator[Sequence[str]]:
    """``count`` tasks from number ``first`` on, in batches."""
    for start in range(first, first + count, batch):
        yield [payload(number, users, prefix) for number in range(start, min(start + batch, first + count))]


def turn_path(task: Mapping[str, Any]) -> str:
    """The path for turns of the agent of the task's user."""
    return f"/v1/agents/agent-{task['user_id']}/messages"


def turn_body(task: Mapping[str, Any]) -> bytes:
    """The turn in Letta's format."""
    message = {"role": "user", "content": task["content"], "otid": task["task_id"]}
    return json.dumps({"messages": [message]}).encode()


def reply(task: Mapping[str, Any], answer: bytes) -> bytes:
    """The published reply: the contract's fields, from Letta's answer."""
    messages = json.loads(answer)["messages"]
    text = next(message["content"] for message in messages if message["message_type"] == "assistant_message")
    return json.dumps(
        {
            "task_id": task["task_id"],
            "user_id": task["user_id"],
            "response_text": text,
            "memory_updated": True,
            "source": "letta",
            "timestamp": task["timestamp"],
        }
    ).encode()
