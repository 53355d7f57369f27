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
from letta_bridge.request_queue.missed_turns import CutShort, DeliveryStatus, MissedTurn, Otids, cut
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

_HEARD_NOTE: Final = _Note(
    english="(The user interrupted you there. Of your answer the user heard only what the message before this one "
    "says; the rest was not said.)",
    chinese="(用户在那里打断了你。你的回答用户只听到上一条消息中的内容,其余没有说出。)",
)
_HEARD_NOTHING_NOTE: Final = _Note(
    english="(The user interrupted you before hearing anything of your answer.)",
    chinese="(用户打断了你,没有听到你的回答。)",
)
_HEARD_UNKNOWN_NOTE: Final = _Note(
    english="(The user interrupted you there. It is not known how much of your answer the user heard.)",
    chinese="(用户在那里打断了你。不知道用户听到了你的回答的多少。)",
)
_HEARD_OF_STORED_NOTE: Final = _Note(
    english="(The user interrupted you in your last answer. The next message is what the user heard of it; the rest "
    "was not said.)",
    chinese="(用户在你上一个回答中打断了你。下一条消息是用户听到的部分,其余没有说出。)",
)
_ALL_NOTES: Final = (
    _OMITTED_NOTE,
    _QUOTATION_NOTE,
    _ANSWER_NOTE,
    _HEARD_NOTE,
    _HEARD_NOTHING_NOTE,
    _HEARD_UNKNOWN_NOTE,
    _HEARD_OF_STORED_NOTE,
)
_OPENING: Final = re.compile("[(（]")
_NOTES: Final = re.compile(
    "|".join(
        rf"[(（]?{re.escape(sentence[1:-1]).replace(re.escape('{count}'), '[0-9]+')}[)）]?"
        for note in _ALL_NOTES
        for sentence in note
    )
)
_IN_EVERY_NOTE: Final = ("short-term memory", "短期记忆", "interrupted you", "打断了你")


def without_notes(text: str) -> str:
    """An agent's answer without notes that its model repeated, as small models do; may be empty."""
    if not any(words in text for words in _IN_EVERY_NOTE):
        return text
    said = _NOTES.sub("", text)
    return text if said == text else said.strip()


class NotesRemoved:
    """:func:`without_notes` for a text that comes in pieces: notes in their parentheses, cut anywhere."""

    def __init__(self) -> None:
        self._held = ""
        self._behind_note = False
        """Blanks are left out until something is said."""

    def add(self, piece: str) -> str:
        """What can be said now: the text up to a parenthesis that may begin a note."""
        if not (self._held or self._behind_note or _OPENING.search(piece)):
            return piece  # nearly every token
        text, self._held = self._without_blanks(self._held + piece), ""
        said: list[str] = []
        while (opening := _OPENING.search(text)) is not None:
            at = opening.start()
            if (note := _NOTES.match(text, at)) is not None and text[note.end() - 1] in ")）":
                said.append(text[:at])
                self._behind_note = True
                text = self._without_blanks(text[note.end() :])
            elif _may_become_note(text[at:]):
                self._held = text[at:]
                text = text[:at]
            else:
                said.append(text[: at + 1])
                text = text[at + 1 :]
        return "".join((*said, text))

    def _without_blanks(self, text: str) -> str:
        if self._behind_note:
            text = text.lstrip()
            self._behind_note = not text
        return text

    def end(self) -> str:
        """The rest."""
        held, self._held = self._held, ""
        return held


def _may_become_note(text: str) -> bool:
    said = text[1:]
    return any(
        sentence[1:].startswith(said[: len(sentence)]) or _counted(sentence, said)
        for note in _ALL_NOTES
        for sentence in note
    )


def _counted(sentence: str, said: str) -> bool:
    """Whether the text is the beginning of a sentence with a number in it."""
    before, found, after = sentence[1:].partition("{count}")
    if not found or not said.startswith(before):
        return False
    rest = said[len(before) :].lstrip("0123456789")
    return after.startswith(rest)


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
    if turn.cut_short is not None:
        return _messages_of_interrupted(turn, said, answer, otids, language)
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


def _messages_of_interrupted(
    turn: MissedTurn, said: str, heard: str, otids: Otids, language: str | None
) -> list[TurnMessage]:
    """A turn that its user interrupted: the agent's own words as far as they were heard, and a note about the rest."""
    heard_message = [TurnMessage("assistant", heard, str(uuid.uuid4()))] if heard else []
    if turn.fate is DeliveryStatus.STORED or not said:
        if turn.cut_short is CutShort.UNKNOWN:
            return [_note(_HEARD_UNKNOWN_NOTE, otids.answer, language)]
        note = _HEARD_OF_STORED_NOTE if heard else _HEARD_NOTHING_NOTE
        return [_note(note, otids.answer, language), *heard_message]
    if turn.fate is DeliveryStatus.ABSENT:
        messages = [TurnMessage("user", said, otids.copy)]
    else:
        quotation = TurnMessage("user", _quotation(said), str(uuid.uuid4()))
        messages = [_note(_QUOTATION_NOTE, otids.quotation, language), quotation]
    if not heard:
        note = _HEARD_NOTHING_NOTE
    else:
        note = _HEARD_NOTE if turn.cut_short is CutShort.HEARD else _HEARD_UNKNOWN_NOTE
    return [*messages, *heard_message, _note(note, str(uuid.uuid4()), language)]


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
