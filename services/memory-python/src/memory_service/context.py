"""The recent conversation, in chronological order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from shared_utils.contracts.messages import MemoryRecord


class NewestFirst(Protocol):
    """The source of a user's messages."""

    async def newest(self, user_id: str, limit: int) -> list[MemoryRecord]:
        """The user's last ``limit`` messages, newest first."""
        ...


async def recent(memory: NewestFirst, user_id: str, window: int) -> list[MemoryRecord]:
    """The user's last ``window`` messages, oldest first: the order a model wants.

    The lists are newest first, so the last messages are ``LRANGE key 0 window-1``, turned round;
    ``LRANGE key -window -1`` would be the oldest.
    """
    return list(reversed(await memory.newest(user_id, window)))


def before(conversation: Sequence[MemoryRecord], message_id: str) -> list[MemoryRecord]:
    """The conversation before one message: without that message and the user's later ones.

    Answers stay, because those to earlier messages are often stored later.
    """
    positions = [index for index, record in enumerate(conversation) if record.message_id == message_id]
    if not positions:
        return list(conversation)
    at = positions[0]
    return [record for index, record in enumerate(conversation) if index < at or (index > at and record.source == "ai")]
