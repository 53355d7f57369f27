"""Tells that a streamed answer was cut off at the model's length limit.

Letta reads that from a whole answer and from a stream of the Responses API, but not from a stream of chat completions:
the turn then ends as if the answer were complete (``end_turn`` in place of ``max_tokens_exceeded``).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from types import SimpleNamespace
from typing import Any, Final

from letta_server.replacement import replace

_CUT: Final = SimpleNamespace(incomplete_details=SimpleNamespace(reason="max_output_tokens"), status="incomplete")
"""What Letta looks for in the last response of the Responses API, and in nothing else of it."""


def install() -> None:
    """Install the hook. Imports parts of Letta.

    Raises:
        LettaServerError: the function is not the one the hook was written for.
    """
    replace(
        "letta.interfaces.openai_streaming_interface:SimpleOpenAIStreamingInterface._process_chunk", _noting_the_limit
    )


def _noting_the_limit(original: Callable[..., AsyncGenerator[Any]]) -> Callable[..., AsyncGenerator[Any]]:
    def process_chunk(interface: Any, chunk: Any, *arguments: Any, **options: Any) -> AsyncGenerator[Any]:
        if chunk.choices and chunk.choices[0].finish_reason == "length":
            interface.final_response = _CUT
        return original(interface, chunk, *arguments, **options)

    return process_chunk
