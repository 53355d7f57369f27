"""A listener that keeps what it hears, for tests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from letta_bridge.letta.port import ToolState


class Heard:
    """Everything that a turn told its listener, in order.

    Attributes:
        runs: ids of runs; at most one.
        pieces: id of the message and text.
        tools: name and state.
    """

    def __init__(self) -> None:
        self.runs: list[str] = []
        self.pieces: list[tuple[str, str]] = []
        self.tools: list[tuple[str, ToolState]] = []
        self._news = asyncio.Event()

    @property
    def messages(self) -> list[str]:
        """The text of each message."""
        texts: dict[str, str] = {}
        for message, text in self.pieces:
            texts[message] = texts.get(message, "") + text
        return list(texts.values())

    def run(self, run_id: str) -> None:
        """See the port."""
        self.runs.append(run_id)
        self._news.set()

    def text(self, message: str, text: str) -> None:
        """See the port."""
        self.pieces.append((message, text))
        self._news.set()

    def tool(self, name: str, state: ToolState) -> None:
        """See the port."""
        self.tools.append((name, state))
        self._news.set()

    async def until(self, reached: Callable[[Heard], object]) -> None:
        """Wait until ``reached`` holds of what was heard; at most a minute."""
        async with asyncio.timeout(60):
            while not reached(self):
                self._news.clear()
                await self._news.wait()
