"""What a streamed turn of the fake Letta consists of, and who hears it."""

from __future__ import annotations

import asyncio
import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from letta_bridge.letta.answer import MEMORY_TOOLS
from letta_bridge.letta.port import ToolState, TurnAnswer, TurnListener

_PIECE = re.compile(r".{1,4}", re.DOTALL)


@dataclass(frozen=True)
class ToolUse:
    """A tool call in the middle of a streamed turn, which begins a new step of it."""

    name: str
    succeeds: bool = True


class Hold:
    """Turns waiting, as for a slow model."""

    def __init__(self) -> None:
        self._arrivals = asyncio.Semaphore(0)
        self._over = asyncio.Event()

    async def arrived(self, turns: int = 1) -> None:
        """Wait until so many further turns have reached the model."""
        for _ in range(turns):
            await self._arrivals.acquire()

    def release(self) -> None:
        """Let them all go on."""
        self._over.set()

    async def wait(self) -> None:
        self._arrivals.release()
        await self._over.wait()


StreamPart = str | ToolUse | Hold
"""Of a streamed turn: a piece of text, a tool call, or a point where the turn waits."""


class HeardStream:
    """What one listener hears of a turn, as long as the caller waits for it."""

    def __init__(self, listener: TurnListener) -> None:
        self._listener: TurnListener | None = listener
        self._message = f"message-{uuid.uuid4()}"

    def leave(self) -> None:
        """The caller is gone; the turn continues unheard."""
        self._listener = None

    def run(self, run_id: str) -> None:
        if self._listener is not None:
            self._listener.run(run_id)

    def text(self, text: str) -> None:
        if self._listener is not None and text:
            self._listener.text(self._message, text)

    def tool(self, use: ToolUse) -> None:
        self._message = f"message-{uuid.uuid4()}"  # what is said after it
        if self._listener is not None:
            self._listener.tool(use.name, ToolState.CALLED)
            self._listener.tool(use.name, ToolState.RETURNED if use.succeeds else ToolState.FAILED)


def answer_of(parts: Sequence[StreamPart]) -> TurnAnswer:
    """What a script comes to: the text before a tool call and the text after it are two messages."""
    said = [""]
    for part in parts:
        if isinstance(part, ToolUse):
            said.append("")
        elif isinstance(part, str):
            said[-1] += part
    updated = any(isinstance(part, ToolUse) and part.succeeds and part.name in MEMORY_TOOLS for part in parts)
    return TurnAnswer("\n".join(text for text in said if text), memory_updated=updated)


def pieces_of(text: str) -> tuple[str, ...]:
    """A text in the pieces in which the fake says it."""
    return tuple(_PIECE.findall(text))
