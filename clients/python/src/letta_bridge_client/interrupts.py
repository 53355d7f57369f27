"""The message that breaks a reply off."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Heard:
    """How much of a streamed reply its user heard."""

    seq: int
    """The last event that was played to its end; -1: nothing was."""
    characters: int = 0
    """Of the ``text`` of the sentence after it."""

    def __post_init__(self) -> None:
        if self.seq < -1 or self.characters < 0:
            raise ValueError("what was heard cannot be less than nothing; pass a seq from -1 and characters from 0")


NOTHING_HEARD = Heard(-1)


def interrupt_message(user_id: str, task_id: str, heard: Heard | str | None) -> bytes:
    """What is pushed on the control list.

    Args:
        user_id: whose turn.
        task_id: empty for the one that is being answered.
        heard: a place in the stream, or the heard beginning of the reply; None where that is not known.
    """
    message: dict[str, Any] = {"type": "interrupt", "user_id": user_id}
    if task_id:
        message["task_id"] = task_id
    if isinstance(heard, Heard):
        message["heard"] = {"seq": heard.seq, "characters": heard.characters}
    elif heard is not None:
        message["heard"] = {"text": heard}
    return json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
