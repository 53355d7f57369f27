"""memory-python's answer as it is written, in a turn's stream."""

from __future__ import annotations

from typing import Final

from letta_bridge.turn.streams.turn_stream import TurnStream
from shared_utils.contracts.messages import AnswerPart

_SOURCE: Final = "memory-python"


class PartsHeard:
    """Says the parts of one answer as far as they come without a hole; the whole answer completes them.

    Args:
        stream: of the turn.
        reason: why memory-python answers.
    """

    def __init__(self, stream: TurnStream, reason: str) -> None:
        self._stream = stream
        self._reason = reason
        self._heard = -1
        """Characters so far; -1 before the first part."""

    def hear(self, part: AnswerPart) -> None:
        """Take the next part."""
        if part.at == 0:  # also of another instance, which answers anew
            self._stream.begin(_SOURCE, reason=self._reason if self._heard < 0 else "answered_anew")
            self._heard = 0
        if part.at == self._heard:
            self._heard += len(part.part)
            self._stream.text(_SOURCE, part.part)
