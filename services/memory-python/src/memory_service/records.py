"""The records of short-term memory: made from messages, and parsed from Redis."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from shared_utils.contracts.messages import AiResponse, MemoryMetadata, MemoryRecord, MemoryUpdate, Task
from shared_utils.text import read_json

SUMMARY: Final = "memory_summary"
"""The type of a record that summarises older ones."""
_PERSONA_FIELD: Final = "persona"
"""A member of a record's metadata that the surrounding stack does not know."""
_NAMESPACE: Final = uuid.UUID("7e0d3c6a-54a5-4b5e-9d3f-0d1f3f1c9a52")


@dataclass(frozen=True, slots=True)
class Memory:
    """A record, and its announcement, if any."""

    record: MemoryRecord
    update: MemoryUpdate | None = None
    origin_ms: int | None = None
    """When its source reached this stack, ms of the Redis server's clock; a later erasure of the user forbids storing
    it. None if unknown; then ``answers`` decides.
    """
    answers: str | None = None
    """The message that it answers; an answer to an erased message is not stored."""


def of_task(
    task: Task,
    *,
    receipt: str,
    require_ai_response: bool,
    persona: str | None = None,
    origin_ms: int | None = None,
) -> Memory:
    """A user's message. Its id is the same for every delivery of a task, or of a receipt if the task has no id.

    A task id alone does not identify a message, because producers reuse ids.

    Args:
        task: the message.
        receipt: of this claim.
        require_ai_response: whether the chat AI is asked for an answer.
        persona: the addressed one, if the bridge names it.
        origin_ms: when it reached this stack, see :class:`Memory`.
    """
    said = ("file", task.input_file) if task.input_file else ("text", task.content)
    record = MemoryRecord(
        message_id=_id("task", task.user_id, task.task_id, *said) if task.task_id else _id("receipt", receipt),
        user_id=task.user_id,
        type=task.type,
        content=task.content,
        source="user",
        timestamp=_now(),
        require_ai_response=require_ai_response,
        metadata=MemoryMetadata.model_validate(
            {
                "task_id": task.task_id or None,
                "input_file": task.input_file,
                "source": task.source,
                "trace_id": task.meta.trace_id,
                "lang": task.meta.lang,
                **({_PERSONA_FIELD: persona} if persona else {}),
            }
        ),
    )
    update = MemoryUpdate(
        user_id=record.user_id,
        message_id=record.message_id,
        source="user",
        content=record.content,
        require_ai_response=require_ai_response,
        timestamp=record.timestamp,
        task_id=task.task_id or None,
    )
    return Memory(record, update, origin_ms)


def of_ai_response(
    response: AiResponse, *, task_id: str | None = None, persona: str | None = None, origin_ms: int | None = None
) -> Memory:
    """An answer. Its id is the same in every instance that receives it.

    It is not announced on ``memory_updates``, which is for messages of users.
    """
    metadata = {
        "original_message_id": response.original_message_id,
        "audio_file": response.audio_file,
        _PERSONA_FIELD: persona,
    }
    record = MemoryRecord(
        message_id=_id(
            "answer",
            response.user_id,
            response.original_message_id or "",
            str(response.timestamp or ""),
            response.text,
        ),
        user_id=response.user_id,
        type="audio" if response.audio_file else "text",
        content=response.text,
        source="ai",
        timestamp=_now(),
        metadata=MemoryMetadata.model_validate(
            {"task_id": task_id, **{name: value for name, value in metadata.items() if value}}
        ),
    )
    return Memory(record, origin_ms=origin_ms, answers=response.original_message_id)


def dump(message: MemoryRecord | MemoryUpdate) -> bytes:
    """JSON with every field of the contract, null where it is empty."""
    return message.model_dump_json().encode()


def persona_of(record: MemoryRecord) -> str | None:
    """The persona that the user addressed; None if unknown."""
    persona = (record.metadata.model_extra or {}).get(_PERSONA_FIELD)
    return persona if isinstance(persona, str) else None


def is_summary(record: MemoryRecord) -> bool:
    """Whether a record is a summary made by this service; a user's message cannot claim to be one."""
    return record.type == SUMMARY and record.source == "ai"


def read(raw: bytes) -> MemoryRecord | None:
    """A stored record; None if the element is something else."""
    try:
        return MemoryRecord.model_validate(read_json(raw))
    except ValueError:
        return None


def written_at(record: MemoryRecord) -> datetime | None:
    """The time of storing; None if unreadable. Without an offset it is this host's time."""
    try:
        return datetime.fromisoformat(record.timestamp).astimezone(UTC)
    except (ValueError, OverflowError, OSError):
        return None


def summary_id(messages: str, newest: str) -> str:
    """The id of the summary that ends with the message ``newest``."""
    return _id("summary", messages, newest)


def _id(kind: str, *parts: str) -> str:
    return str(uuid.uuid5(_NAMESPACE, "\0".join((kind, *parts))))


def _now() -> str:
    return datetime.now(UTC).isoformat()
