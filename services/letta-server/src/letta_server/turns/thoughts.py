"""Sends a model's thoughts back with the tool call that they led to.

DeepSeek and Moonshot refuse (400) a history in which a tool call of a thinking model lacks its ``reasoning_content``.
Letta sends thoughts back if the message has a text, too, but leaves out thoughts that stand alone, as they do with
nearly every tool call: such a model could take no second step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from letta_server.replacement import replace


def install() -> None:
    """Install the hook. Imports parts of Letta.

    Raises:
        LettaServerError: the function is not the one the hook was written for.
    """
    replace("letta.schemas.message:Message.to_openai_dict", _with_thoughts)


def _with_thoughts(original: Callable[..., Any]) -> Callable[..., Any]:
    from letta.schemas.letta_message_content import ReasoningContent  # noqa: PLC0415 - not in the workspace

    def to_openai_dict(message: Any, *arguments: Any, **options: Any) -> dict[str, Any] | None:
        made: dict[str, Any] | None = original(message, *arguments, **options)
        if made is not None and made.get("tool_calls") and len(message.content or ()) == 1:
            [part] = message.content
            if isinstance(part, ReasoningContent):
                made["reasoning_content"] = part.reasoning
        return made

    return to_openai_dict
