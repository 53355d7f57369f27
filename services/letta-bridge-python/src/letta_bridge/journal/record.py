"""Builds the journal's rows of a turn: one user message and its answer, in the conversation of user and persona.

All ids derive from the turn, so that writing it again gives the same rows.
"""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final

from pydantic import BaseModel, ConfigDict

from letta_bridge.request_queue.journal_backlog import JournalEntry
from letta_bridge.request_queue.port import Outcome, Settlement, Turn
from letta_bridge.request_queue.records import JSON_VERSION, Fault, fault_of_json
from letta_bridge.settings import JournalSettings
from shared_utils.contracts.messages import Reply, Task, json_object
from shared_utils.persistence.conversations.records import Conversation, Message
from shared_utils.text import read_json

JOURNAL_SOURCE: Final = "letta_bridge"
"""``source`` of the journal's conversations."""

_ANSWERED_OUTCOMES: Final = frozenset({Outcome.LETTA, Outcome.MEMORY, Outcome.INTERRUPTED})
_CONVERSATION_NAMESPACE: Final = uuid.UUID("0b2a3a0e-54a4-4c0f-9d5e-5d1f4d4a6a61")
_MESSAGE_NAMESPACE: Final = uuid.UUID("6f1b0f5a-9b86-4a52-8a3e-2f7a9a3f6c17")
_PER_MS: Final = 1 << 20
"""Ordinals of one millisecond: two for each turn settled in it."""


class _Said(BaseModel):
    """The half of a turn that is not in its reply."""

    model_config = ConfigDict(frozen=True)

    v: int = JSON_VERSION
    user_id: str
    task_id: str
    number: str
    """The task's unique number, the same for all its hand-outs."""
    persona: str
    type: str = "text"
    content: str
    taken_ms: int
    """When it was taken from the request list, by Redis's clock."""


class UnreadableEntry(ValueError):
    """An entry that this release cannot read."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.value)
        self.fault = fault


@dataclass(frozen=True, slots=True)
class JournalRows:
    """One turn as rows."""

    conversation: Conversation
    messages: tuple[Message, ...]
    """The user's message and the answer; only the former if the answer was a canned sentence."""


def conversation_id(user_id: str, persona: str) -> str:
    """The id of a user's journal with one persona."""
    return str(uuid.uuid5(_CONVERSATION_NAMESPACE, json.dumps([user_id, persona])))


def journalled(
    turn: Turn, task: Task, persona: str, end: Settlement, settings: JournalSettings, *, is_remembered: bool
) -> Settlement:
    """The settlement, with the journal's record if the turn was answered and belongs into the journal.

    ``is_remembered``: the user's agent has the turn, or will receive it by catch-up.
    """
    if end.outcome not in _ANSWERED_OUTCOMES or end.reply is None:
        return end
    if not settings.temporary and not is_remembered:
        return end
    said = _Said(
        user_id=task.user_id,
        task_id=task.task_id,
        number=turn.number,
        persona=persona,
        type=task.type,
        content=task.content,
        taken_ms=turn.first_ms,
    )
    return replace(end, journal=said.model_dump_json().encode())


def read_entry(entry: JournalEntry) -> JournalRows:
    """The rows of a turn.

    Raises:
        UnreadableEntry: this release cannot read the entry.
    """
    try:
        said = _Said.model_validate(read_json(entry.turn))
        reply = Reply.model_validate(read_json(entry.reply))
    except ValueError:
        raise UnreadableEntry(fault_of_json(json_object(entry.turn))) from None
    if said.v > JSON_VERSION:
        raise UnreadableEntry(Fault.NEWER)
    settled_ms, _, within = entry.id.partition("-")
    # Settled one after the other, a user's turns have rising ordinals, whichever bridge writes them and when.
    ordinal = int(settled_ms) * _PER_MS + int(within) * 2
    taken, settled = _time(said.taken_ms), _time(int(settled_ms))
    conversation = Conversation(
        id=conversation_id(said.user_id, said.persona),
        user_id=said.user_id,
        source=JOURNAL_SOURCE,
        title=f"{said.user_id} · {said.persona}",
        metadata={"persona": said.persona},
        created_at=taken,
        updated_at=settled,
    )
    question = Message(
        id=_message_id(said.number, "user"),
        conversation_id=conversation.id,
        ordinal=ordinal,
        role="user",
        content=said.content,
        metadata={"task_id": said.task_id, "type": said.type},
        created_at=taken,
    )
    # Of an interrupted reply, what the user heard counts as said.
    said_text = reply.response_text if reply.heard_text is None else reply.heard_text
    if reply.canned or (reply.status == "interrupted" and not said_text):
        # A canned sentence is not stored; the reply's metadata is stored with the user's message.
        about = {"metadata": question.metadata | _about(reply), "created_at": settled}
        alone = question.model_copy(update=about)
        return JournalRows(conversation, (alone,))
    answer = Message(
        id=_message_id(said.number, "assistant"),
        conversation_id=conversation.id,
        ordinal=ordinal + 1,
        role="assistant",
        content=said_text,
        metadata={"task_id": said.task_id} | _about(reply),
        created_at=settled,
    )
    return JournalRows(conversation, (question, answer))


def _message_id(number: str, role: str) -> str:
    return str(uuid.uuid5(_MESSAGE_NAMESPACE, f"{number}:{role}"))


def _about(reply: Reply) -> dict[str, Any]:
    fields = {
        "source",
        "agent_id",
        "fallback_reason",
        "fallback_cause",
        "canned",
        "truncated",
        "attempts",
        "memory_updated",
        "usage",
    }
    if reply.status != "ok":
        fields.add("status")
    return reply.model_dump(include=fields, exclude_none=True)


def _time(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)
