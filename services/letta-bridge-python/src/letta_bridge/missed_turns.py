"""Turns that the agent does not know yet, because memory-python answered them: kept, and told with the next turn."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from enum import StrEnum

from pydantic import BaseModel, ConfigDict

from letta_bridge.letta.port import TurnMessage, turn_otid
from letta_bridge.settings import FallbackSettings
from shared_utils import logs
from shared_utils.text import read_json

_log = logs.get(__name__)


class Fate(StrEnum):
    """What is known of a turn that Letta gave no answer to."""

    ABSENT = "absent"
    """Never stored: the agent knows nothing of it."""
    UNKNOWN = "unknown"
    """Sent, and not heard of since: look for it before the agent is told anything."""
    STORED = "stored"
    """The user's message is in the agent's history."""


class MissedTurn(BaseModel):
    """One exchange between a user and memory-python."""

    model_config = ConfigDict(frozen=True)

    task_id: str
    content: str
    """What the user said."""
    response_text: str | None = None
    """What memory-python answered; None where nobody did."""
    timestamp: float
    fate: Fate = Fate.ABSENT
    agent_id: str | None = None
    """The agent it may have been sent to; None where that is not known either."""
    interrupted: bool = False
    """Letta went away after it was sent: a run of it that still seems active is most likely dead."""


def read(records: Sequence[bytes]) -> list[MissedTurn]:
    """Missed turns as the queue keeps them, oldest first; an unreadable one is skipped and logged."""
    turns = []
    for record in records:
        try:
            turns.append(MissedTurn.model_validate(read_json(record)))
        except ValueError as error:
            _log.error("missed_turn_unreadable", kind=type(error).__name__)
    return turns


def untold(turns: Sequence[MissedTurn]) -> list[MissedTurn]:
    """What an agent is still to be told, given each turn's fate.

    A turn that reached the agent brought with it all that was missed before it: where it is stored, those need no
    second telling; where it may be, they may be.
    """
    left: list[MissedTurn] = []
    for turn in turns:
        if turn.fate is Fate.STORED:
            left = []
        elif turn.fate is Fate.UNKNOWN:
            left = [earlier.model_copy(update={"fate": Fate.UNKNOWN}) for earlier in left]
        left.append(turn)
    return left


def tell(
    turns: Sequence[MissedTurn], agent_id: str, language: str | None, settings: FallbackSettings
) -> list[TurnMessage]:
    """The messages that tell an agent what it missed, in order, to be sent before the user's next message.

    The newest turns are told word for word, within the configured bounds; older ones are only counted. A turn whose
    user message the agent has already is told by its answer alone. One whose fate is still unknown is told as a note:
    should Letta store the message after all, it is not there twice. One that nobody answered is not told.
    """
    answered = [turn for turn in turns if turn.response_text]
    told: list[MissedTurn] = []
    characters = 0
    for turn in reversed(answered):
        characters += len(turn.content) + len(turn.response_text or "")
        if len(told) == settings.told_turns or (told and characters > settings.told_characters):
            break
        told.append(turn)
    messages: list[TurnMessage] = []
    left_out = len(answered) - len(told)
    if left_out:
        messages.append(TurnMessage("system", _left_out(left_out, language), str(uuid.uuid4())))
    for turn in reversed(told):
        otid = turn_otid(agent_id, turn.task_id)
        said, answer = _bounded(turn.content, turn.response_text or "", settings.told_characters)
        if turn.fate is Fate.UNKNOWN:
            messages.append(TurnMessage("system", _note(said, answer, language), str(uuid.uuid4())))
            continue
        if turn.fate is Fate.ABSENT:
            messages.append(TurnMessage("user", said, otid))
        messages.append(TurnMessage("assistant", answer, str(uuid.uuid5(uuid.UUID(otid), "answer"))))
    return messages


def _bounded(said: str, answer: str, characters: int) -> tuple[str, str]:
    """Both within ``characters`` together; the shorter one is left whole where it can be."""
    half = characters // 2
    said = _cut(said, max(half, characters - len(answer)))
    return said, _cut(answer, characters - len(said))


def _cut(text: str, characters: int) -> str:
    return text if len(text) <= characters else text[: characters - 1] + "…"


def _note(said: str, answer: str, language: str | None) -> str:
    if _is_chinese(language):
        return f"(在你不在的时候,用户说:「{said}」短期记忆回答:「{answer}」)"
    return f'(While you were away the user said: "{said}" and the short-term memory answered: "{answer}")'


def _left_out(count: int, language: str | None) -> str:
    if _is_chinese(language):
        return f"(在你不在的时候,短期记忆还回答了用户更早的 {count} 条消息,内容未附上。)"
    return f"(While you were away, the short-term memory answered {count} earlier messages that are not shown here.)"


def _is_chinese(language: str | None) -> bool:
    return (language or "").lower().startswith("zh")
