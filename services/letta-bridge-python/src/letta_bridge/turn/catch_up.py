"""The catch-up: messages about missed turns, sent before the user's next message in the same call.

The user's words go into messages of role *user* and memory-python's answers into messages of role *assistant*, never
into another role: a message of role *system* consists of fixed sentences and numbers, so that no user can forge one.
The first message of each turn has an otid of its own, by which the catch-up is found in the history.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Sequence
from typing import Final, NamedTuple

from letta_bridge.letta.port import TurnMessage
from letta_bridge.request_queue.missed_turns import DeliveryStatus, MissedTurn, cut
from letta_bridge.settings import FallbackSettings

QUOTATION_MEMBER: Final = "quoted_user_message"
"""The only member of a quotation, a JSON object that cannot be mistaken for a present message of the user."""


class _Note(NamedTuple):
    """A fixed sentence to an agent."""

    english: str
    chinese: str


_OMITTED_NOTE: Final = _Note(
    english="(While you were away, the short-term memory answered {count} earlier messages that are not shown here.)",
    chinese="(在你不在的时候,短期记忆还回答了用户更早的 {count} 条消息,内容未附上。)",
)
_QUOTATION_NOTE: Final = _Note(
    english="(The next message quotes what the user said while you were away. You may have it in your history already. "
    "It is no new request. Where the short-term memory answered it, its answer follows.)",
    chinese="(下一条消息引述用户在你不在时说过的话,你的历史中可能已有这句话。"
    "它不是新的请求。若短期记忆回答过,其回答紧随其后。)",
)
_ANSWER_NOTE: Final = _Note(
    english="(The next message is what the short-term memory answered to an earlier message of the user.)",
    chinese="(下一条消息是短期记忆对用户较早一条消息的回答。)",
)

_NOTES: Final = re.compile(
    "|".join(
        rf"[(（]?{re.escape(sentence[1:-1]).replace(re.escape('{count}'), '[0-9]+')}[)）]?"
        for note in (_OMITTED_NOTE, _QUOTATION_NOTE, _ANSWER_NOTE)
        for sentence in note
    )
)
_IN_EVERY_NOTE: Final = ("short-term memory", "短期记忆")


def without_notes(text: str) -> str:
    """An agent's answer without notes that its model repeated, as small models do; may be empty."""
    if not any(words in text for words in _IN_EVERY_NOTE):
        return text
    said = _NOTES.sub("", text)
    return text if said == text else said.strip()


def catch_up_messages(
    turns: Sequence[MissedTurn], agent_id: str, language: str | None, settings: FallbackSettings
) -> list[TurnMessage]:
    """The catch-up messages about some missed turns, in order.

    The newest turns are repeated in full, within the configured limits; of older ones only the number is given. For a
    stored turn only memory-python's answer is sent. A turn that may be stored is quoted, so that the history does not
    contain the user's message twice if Letta stores it later. Canned sentences and turns without an answer are left
    out.
    """
    worth = [
        turn for turn in turns if turn.is_worth_remembering and not (turn.canned and turn.fate is DeliveryStatus.STORED)
    ]
    told = _newest(worth, settings)
    messages: list[TurnMessage] = []
    if len(told) < len(worth):
        messages.append(_note(_OMITTED_NOTE, str(uuid.uuid4()), language, count=len(worth) - len(told)))
    for turn in told:
        messages += _messages_of(turn, agent_id, language, settings.catch_up_max_characters)
    return messages


def _newest(turns: Sequence[MissedTurn], settings: FallbackSettings) -> list[MissedTurn]:
    """The newest turns that the settings allow, oldest first, at least one."""
    chosen: list[MissedTurn] = []
    characters = 0
    for turn in reversed(turns):
        characters += len(turn.content) + len(turn.response_text or "")
        if len(chosen) == settings.catch_up_max_turns or (chosen and characters > settings.catch_up_max_characters):
            break
        chosen.append(turn)
    return chosen[::-1]


def _messages_of(turn: MissedTurn, agent_id: str, language: str | None, characters: int) -> list[TurnMessage]:
    otids = turn.otids(agent_id)
    said, answer = _bounded(turn.content, turn.response_text or "", characters)
    if turn.fate is DeliveryStatus.STORED or not said:  # or its content was an upload that is gone
        messages = [_note(_ANSWER_NOTE, otids.answer, language)]
    elif turn.fate is DeliveryStatus.ABSENT:
        messages = [TurnMessage("user", said, otids.copy)]
    else:
        quotation = TurnMessage("user", _quotation(said), str(uuid.uuid4()))
        messages = [_note(_QUOTATION_NOTE, otids.quotation, language), quotation]
    if answer:
        messages.append(TurnMessage("assistant", answer, str(uuid.uuid4())))
    return messages


def _quotation(said: str) -> str:
    return json.dumps({QUOTATION_MEMBER: said}, ensure_ascii=False)


def _note(note: _Note, otid: str, language: str | None, **numbers: int) -> TurnMessage:
    text = note.chinese if (language or "").lower().startswith("zh") else note.english
    return TurnMessage("system", text.format(**numbers), otid)


def _bounded(said: str, answer: str, characters: int) -> tuple[str, str]:
    """Both texts, cut to ``characters`` in total; the shorter one stays complete if possible."""
    half = characters // 2
    said = cut(said, max(half, characters - len(answer)))
    return said, cut(answer, characters - len(said))
