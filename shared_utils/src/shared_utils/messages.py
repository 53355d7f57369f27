"""The messages on the queues, as the surrounding stack already speaks them.

Reading is tolerant: unknown fields are kept, missing ones get their default. Writing is strict: the models below are
the only shapes that leave a service, and fields are only ever added to the ones other programs know. Times are
seconds since 1970 (int or float) unless a field says ISO 8601.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import to_json

from shared_utils.errors import MalformedMessage

ANONYMOUS: Final = "anonymous"
"""The user of a task that names none."""

MAX_SAFE_INTEGER: Final = 2**53
"""Beyond this a number is not the same in every JSON reader; ids that large must be text."""

_SALVAGED_ID_LENGTH: Final = 256
_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_READABLE_ID = {name: re.compile(rb'"%s"\s*:\s*"([^"\\]{1,256})"' % name.encode()) for name in ("task_id", "user_id")}


@dataclass(frozen=True, slots=True)
class Limits:
    """What a payload may be at most."""

    payload_bytes: int = 262_144
    depth: int = 16
    id_length: int = 256
    """Characters of a task id or user id."""


def _id_text(value: object) -> object:
    # Chat platforms number their users; a number becomes the same text in every service.
    if isinstance(value, bool) or not isinstance(value, int):
        return value
    if abs(value) >= MAX_SAFE_INTEGER:
        raise ValueError("is a number too large to be exact; send it as text")
    return str(value)


def _user_text(value: object) -> object:
    return ANONYMOUS if value is None or value == "" else _id_text(value)


def _text(value: object) -> object:
    return "" if value is None else value


def _mapping(value: object) -> object:
    return {} if value is None else value


class TaskMeta(BaseModel):
    """What a producer may say about a task; unknown keys are kept."""

    model_config = ConfigDict(extra="allow", frozen=True)

    memory_type: str | None = None
    """``permanent`` (also when absent) or ``temporary``; the router's table may know more."""
    trace_id: str | None = None
    lang: str | None = None
    persona: str | None = None
    """Which of the configured personas answers; absent means the default one."""


class Task(BaseModel):
    """One message of a user, on ``letta_requests`` and ``user_input_queue``."""

    model_config = ConfigDict(extra="allow", frozen=True)

    task_id: Annotated[str, BeforeValidator(lambda value: "" if value is None else _id_text(value))] = ""
    """The producer's id. Empty means the producer does not care: the bridge gives it one."""
    type: Annotated[str, BeforeValidator(lambda value: value or "text")] = "text"
    user_id: Annotated[str, BeforeValidator(_user_text)] = ANONYMOUS
    content: Annotated[str, BeforeValidator(_text)] = ""
    input_file: str | None = None
    """Path below the upload root, read only where ``content`` is empty."""
    source: Annotated[str, BeforeValidator(lambda value: value or "user")] = "user"
    timestamp: float | str | None = None
    meta: Annotated[TaskMeta, BeforeValidator(_mapping)] = TaskMeta()


class Usage(BaseModel):
    """Tokens of a turn, as Letta counted them."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0


class Reply(BaseModel):
    """The answer to a task, on ``letta_responses``.

    The first six fields are the contract of the stack; the rest were added by this project and may be ignored.
    """

    model_config = ConfigDict(frozen=True)

    task_id: str
    user_id: str
    response_text: str
    memory_updated: bool
    source: Literal["letta", "memory-python"]
    timestamp: float
    status: Literal["ok"] = "ok"
    agent_id: str | None = None
    usage: Usage | None = None
    attempts: int = 1
    """How many times the task was handed to a bridge."""
    fallback_reason: str | None = None
    """Why memory-python answered, where it did (an error code)."""
    fallback_cause: str | None = None
    """What exactly failed then, in one of few words: timeout, server_error, unknown_model …"""
    canned: bool | None = None
    """True where memory-python had no model's answer and said its configured sentence instead: nobody's words, which
    neither an agent nor a memory is told."""


class ErrorReply(BaseModel):
    """The answer to a task that could not be answered, on ``letta_responses``."""

    model_config = ConfigDict(frozen=True)

    task_id: str
    user_id: str | None = None
    error: Literal[True] = True
    message: str
    """One sentence for the person who can act on it."""
    source: Literal["letta_bridge"] = "letta_bridge"
    timestamp: float
    status: Literal["error"] = "error"
    code: str = "error"
    """Stable; see docs/architecture.md."""
    retryable: bool = False
    attempts: int = 1


class TaskResponse(BaseModel):
    """What whoever waits on ``task_response:{task_id}`` is told."""

    model_config = ConfigDict(frozen=True)

    text: str
    source: str
    error: bool | None = None
    canned: bool | None = None
    """See :class:`Reply`."""


HANDOVER_KEY: Final = "letta_bridge"
"""Where in a task's ``meta`` the bridge writes its :class:`Handover`."""


class Handover(BaseModel):
    """What the bridge writes into a task it wants answered by memory-python: how and where to answer."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    version: Literal[1, 2] = 1
    """2 if a tenant is named, so that a memory-python without tenants refuses the handover."""
    tenant: str | None = Field(default=None, max_length=64)
    """The user's tenant, None for the default one; a memory-python of another tenant refuses the handover."""
    answer_key: str = Field(min_length=1, max_length=1024)
    """Redis key. Whoever sets it first has answered: memory-python with a Reply, the bridge with a tombstone."""
    answer_ttl: int = Field(default=600, gt=0, le=604_800)
    """Seconds the answer is kept."""
    responses_channel: str = Field(default="letta_responses", min_length=1, max_length=512)
    """Where the Reply is published."""
    reason: str = Field(default="fallback", max_length=128)
    """Why Letta did not answer, an error code or the name of a routing rule; becomes ``fallback_reason``."""
    cause: str | None = Field(default=None, max_length=128)
    """What exactly failed; becomes ``fallback_cause``."""
    persona: str | None = Field(default=None, max_length=256)
    """The persona that would have answered: what was said to others is not shown to the model."""


class MemoryMetadata(BaseModel):
    """Where a remembered message came from."""

    model_config = ConfigDict(extra="allow")

    task_id: str | None = None
    input_file: str | None = None
    source: str | None = None
    trace_id: str | None = None
    lang: str | None = None


class MemoryRecord(BaseModel):
    """One remembered message in ``memory:user_sessions:{user_id}`` and ``memory:global_context``."""

    model_config = ConfigDict(extra="allow")

    message_id: str
    user_id: str
    type: str = "text"
    content: str
    source: Literal["user", "ai"]
    timestamp: str
    """ISO 8601 with offset."""
    require_ai_response: bool = False
    metadata: MemoryMetadata = Field(default_factory=MemoryMetadata)


class MemoryUpdate(BaseModel):
    """Told on ``memory_updates`` after a message was remembered."""

    model_config = ConfigDict(extra="allow")

    event_type: Literal["memory_update"] = "memory_update"
    user_id: str
    message_id: str
    source: Literal["user", "ai"]
    content: str
    require_ai_response: bool
    timestamp: str
    task_id: str | None = None


class AiResponse(BaseModel):
    """An answer of the chat AI, on ``ai_responses``."""

    model_config = ConfigDict(extra="allow")

    user_id: Annotated[str, BeforeValidator(_user_text)] = ANONYMOUS
    text: Annotated[str, BeforeValidator(_text)] = ""
    original_message_id: str | None = None
    timestamp: float | str | None = None
    audio_file: str | None = None


def now() -> float:
    """Wall-clock seconds since 1970, as every reply carries them."""
    return time.time()


def parse_task(payload: bytes, limits: Limits) -> Task:
    """Read a task.

    Args:
        payload: the list element as Redis holds it.
        limits: what it may be at most.

    Raises:
        MalformedMessage: with one sentence, and the ids where they can be read.
    """
    if len(payload) > limits.payload_bytes:
        raise _malformed(payload, f"the task has {len(payload)} bytes, {limits.payload_bytes} are allowed")
    try:
        task = Task.model_validate_json(payload)
    except ValidationError as error:
        raise _malformed(payload, f"the task cannot be read: {_first_problem(error)}") from None
    for name, value in (("task_id", task.task_id), ("user_id", task.user_id)):
        if len(value) > limits.id_length:
            raise _malformed(payload, f"{name} has {len(value)} characters, {limits.id_length} are allowed")
        if _CONTROL.search(value):
            raise _malformed(payload, f"{name} holds control characters")
    if _too_deep(task, limits.depth):
        raise _malformed(payload, f"the task is nested deeper than {limits.depth} levels")
    return task


def dump(message: BaseModel) -> bytes:
    """A message as it goes over the wire: UTF-8 JSON without empty additions."""
    return to_json(message, exclude_none=True)


def salvage_ids(payload: bytes) -> tuple[str | None, str | None]:
    """The task id and user id of a payload that cannot be read as a task, each None where it cannot be told."""
    head = payload[:65_536]
    try:
        parsed = json.loads(head)
    except (ValueError, RecursionError):
        parsed = None
    if isinstance(parsed, Mapping):
        return _plain_id(parsed.get("task_id")), _plain_id(parsed.get("user_id"))
    if parsed is not None:
        return None, None
    found = {name: pattern.search(head) for name, pattern in _READABLE_ID.items()}
    return _matched_id(found["task_id"]), _matched_id(found["user_id"])


def _malformed(payload: bytes, sentence: str) -> MalformedMessage:
    task_id, user_id = salvage_ids(payload)
    return MalformedMessage(sentence, task_id=task_id, user_id=user_id)


def _first_problem(error: ValidationError) -> str:
    # Never the input itself: a log line or dead letter must not quote what a user wrote.
    problem = error.errors(include_input=False, include_context=False, include_url=False)[0]
    where = ".".join(str(part) for part in problem["loc"][:4])
    return f"{where}: {problem['msg']}" if where else problem["msg"]


def _too_deep(task: Task, limit: int) -> bool:
    extras: list[Any] = [*(task.model_extra or {}).values(), *(task.meta.model_extra or {}).values()]
    level = extras
    for _ in range(limit):
        level = [
            child
            for value in level
            if isinstance(value, dict | list)
            for child in (value.values() if isinstance(value, dict) else value)
        ]
        if not level:
            return False
    return True


def _plain_id(value: object) -> str | None:
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    return (
        value
        if isinstance(value, str) and 0 < len(value) <= _SALVAGED_ID_LENGTH and not _CONTROL.search(value)
        else None
    )


def _matched_id(match: re.Match[bytes] | None) -> str | None:
    if match is None:
        return None
    try:
        return _plain_id(match.group(1).decode())
    except UnicodeDecodeError:
        return None


def json_object(text: bytes) -> dict[str, Any]:
    """What a JSON object holds; empty for any other text."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
