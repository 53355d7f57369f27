"""The messages on the queues, in the format of the surrounding stack.

Reading is tolerant: unknown fields are kept, missing ones get their default. Writing is strict: the models below are
the only shapes that leave a service, and fields are only ever added to the ones other programs know. Times are
seconds since 1970 (int or float) unless a field says ISO 8601.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import to_json

from shared_utils.contracts.limits import (
    MAX_ANSWER_TTL,
    MAX_CHANNEL_LENGTH,
    MAX_ID_LENGTH,
    MAX_QUEUE_NAME_LENGTH,
    Limits,
)
from shared_utils.contracts.message_fields import (
    ANONYMOUS,
    LARGEST_EXACT_FLOAT,
    Content,
    FilePath,
    Flag,
    MemoryType,
    Moment,
    PassedOn,
    Source,
    Table,
    TaskId,
    TaskType,
    UserId,
    identifier,
)
from shared_utils.errors import MalformedMessage
from shared_utils.text import clean_text, is_clean, load_json, read_json, read_json_both

_SALVAGED_BYTES: Final = 65_536
_SALVAGED_ID_LENGTH: Final = 256
_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f]")
_ID_KEYS: Final = {
    name: re.compile(rb'(?i)"%s"\s*:' % b"".join(rb"(?:%c|\\u00%02x)" % (char, char) for char in name.encode()))
    for name in ("task_id", "user_id")
}
"""The key of an id, plain or with escapes."""
_READABLE_ID: Final = {
    name: re.compile(rb'"%s"\s*:\s*"([^"\\]{1,256})"' % name.encode()) for name in ("task_id", "user_id")
}


class TaskMeta(BaseModel):
    """A producer's metadata of a task; unknown keys are kept."""

    model_config = ConfigDict(extra="allow", frozen=True)

    memory_type: MemoryType = None
    """``permanent`` (also when absent) or ``temporary``; the router's table may know more."""
    trace_id: PassedOn = None
    lang: PassedOn = None
    persona: PassedOn = None
    """Which of the configured personas answers; absent means the default one."""
    stream: Flag = None
    """Whether the reply is also published in parts, on ``task_stream:{task_id}``; absent: as the bridge is set."""
    deltas: Flag = None
    """With ``stream``: whether the text is also published as the model writes it."""


class Task(BaseModel):
    """One message of a user, on ``letta_requests`` and ``user_input_queue``."""

    model_config = ConfigDict(extra="allow", frozen=True)

    task_id: TaskId = ""
    """The producer's id; if it is empty, the bridge generates one."""
    type: TaskType = "text"
    user_id: UserId = ANONYMOUS
    content: Content = ""
    input_file: FilePath = None
    """Path below the upload root, read only where ``content`` is empty."""
    source: Source = "user"
    timestamp: Moment = None
    meta: Annotated[TaskMeta, Table] = TaskMeta()


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
    """Whether the turn changed the agent's memory: a memory tool succeeded."""
    source: Literal["letta", "memory-python"]
    timestamp: float
    status: Literal["ok", "interrupted"] = "ok"
    """``interrupted``: the user broke the reply off; ``response_text`` is what was published of it until then."""
    agent_id: str | None = None
    usage: Usage | None = None
    """Absent if memory-python answered, and if Letta has no usage of a found answer."""
    attempts: int = 1
    """How many times the task was handed to a bridge."""
    fallback_reason: str | None = None
    """Why memory-python answered, if it did: an error code or a routing rule."""
    fallback_cause: str | None = None
    """The failure, one of a few words: timeout, server_error, unknown_model …"""
    canned: bool | None = None
    """True if no model of memory-python answered, and it replied with its configured sentence, which neither agents nor
    memories receive.
    """
    truncated: bool | None = None
    """True if the model's text reached its length limit."""
    heard_text: str | None = None
    """Of an interrupted reply: the part that the user heard, if that is known."""


class ErrorReply(BaseModel):
    """The answer to a task that could not be answered, on ``letta_responses``."""

    model_config = ConfigDict(frozen=True)

    task_id: str
    user_id: str | None = None
    error: Literal[True] = True
    message: str
    """One sentence for people, with the remedy."""
    source: Literal["letta_bridge"] = "letta_bridge"
    timestamp: float
    status: Literal["error"] = "error"
    code: str = "error"
    """Stable; see docs/architecture.md."""
    former_code: str | None = None
    """The code's name in the last release, if it has a new one; the next release omits it."""
    retryable: bool = False
    attempts: int = 1


class TaskResponse(BaseModel):
    """The message on ``task_response:{task_id}``."""

    model_config = ConfigDict(frozen=True)

    text: str
    source: str
    error: bool | None = None
    user_id: str | None = None
    """With an error: whose task it is, because two users may use the same task id."""
    code: str | None = None
    """With an error: see :class:`ErrorReply`. Some errors are published without being kept as a reply."""
    retryable: bool | None = None
    """With an error: see :class:`ErrorReply`."""
    canned: bool | None = None
    """See :class:`Reply`."""
    truncated: bool | None = None
    """See :class:`Reply`."""
    interrupted: bool | None = None
    """True if the user broke the reply off; see :class:`Reply`."""


HANDOVER_KEY: Final = "letta_bridge"
"""Where in a task's ``meta`` the bridge writes its :class:`Handover`."""


class Handover(BaseModel):
    """The bridge's instructions to memory-python in a task: how and where to answer.

    The task itself carries an id that the bridge made, because a stranger's task id is not unique: programs that know
    nothing of this record answer on ``task_response:{task_id}``, where no other turn listens. Fields with a default may
    be missing: releases before did not write them, and ignore them.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    version: Literal[1, 2] = 1
    """2 if a tenant is named, so that a memory-python without tenants refuses the handover."""
    tenant: str | None = Field(default=None, max_length=64)
    """The user's tenant, None for the default one; a memory-python of another tenant refuses the handover."""
    answer_key: str = Field(min_length=1, max_length=MAX_QUEUE_NAME_LENGTH + 768)
    """Redis key. The first to set it decides the answer: memory-python with a Reply, the bridge with a tombstone."""
    answer_ttl: int = Field(default=600, gt=0, le=MAX_ANSWER_TTL)
    """Seconds the answer is kept."""
    responses_channel: str = Field(default="letta_responses", min_length=1, max_length=MAX_CHANNEL_LENGTH)
    """Where the Reply is published."""
    reason: str = Field(default="fallback", max_length=128)
    """Why Letta did not answer, an error code or the name of a routing rule; becomes ``fallback_reason``."""
    cause: str | None = Field(default=None, max_length=128)
    """The failure; becomes ``fallback_cause``."""
    persona: str | None = Field(default=None, max_length=256)
    """The persona that would have answered; the model sees no messages to other personas."""
    task_id: str | None = Field(default=None, min_length=1, max_length=MAX_ID_LENGTH)
    """The producer's id of the task, which the answer and stored records carry; None: the task's own."""
    response_channel: str | None = Field(default=None, min_length=1, max_length=MAX_CHANNEL_LENGTH + MAX_ID_LENGTH)
    """Where the producer waits for the text; None: ``task_response:`` and the id."""
    taken_ms: int | None = Field(default=None, ge=0)
    """When the task was taken from the request list, ms of the Redis server's clock."""
    parts_channel: str | None = Field(default=None, min_length=1, max_length=MAX_CHANNEL_LENGTH + MAX_ID_LENGTH)
    """Where the bridge hears the pieces of the answer (:class:`AnswerPart`) as the model writes it; None: nowhere."""
    time_limit_seconds: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Seconds in which the answer is of use, counted from when memory-python takes the task; None: its own limit."""


class AnswerPart(BaseModel):
    """A piece of memory-python's answer, before the answer counts. It may be lost, and the answer be another one."""

    model_config = ConfigDict(frozen=True)

    part: str
    at: int = Field(ge=0)
    """Characters of the answer before it; 0 begins an answer."""


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
    """The message on ``memory_updates`` after a message was stored."""

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

    user_id: UserId = ANONYMOUS
    text: Content = ""
    original_message_id: PassedOn = None
    timestamp: Moment = None
    audio_file: FilePath = None


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
        raise _malformed(payload, f"the task has {len(payload)} bytes; the maximum is {limits.payload_bytes}")
    try:
        written, clean = read_json_both(payload)
        _check_ids(written, payload, limits)
        task = Task.model_validate(clean)
    except ValidationError as error:
        raise _malformed(payload, f"the task cannot be read: {_first_problem(error)}") from None
    except (ValueError, RecursionError) as error:
        raise _malformed(payload, f"the task cannot be read: {error}") from None
    if _may_be_deep(payload, limits.depth) and _too_deep(task, limits.depth):
        raise _malformed(payload, f"the task is nested deeper than {limits.depth} levels")
    return task


def dump(message: BaseModel) -> bytes:
    """A message as it goes over the wire: UTF-8 JSON without empty additions."""
    return to_json(message, exclude_none=True)


def salvage_ids(payload: bytes) -> tuple[str | None, str | None]:
    """The task id and user id of a payload that cannot be read as a task, each None where it cannot be told."""
    head = payload[:_SALVAGED_BYTES]
    try:
        parsed = load_json(head)
    except ValueError:
        found = {name: pattern.search(head) for name, pattern in _READABLE_ID.items()}
        parsed = {name: match[1].decode("utf-8", "surrogateescape") for name, match in found.items() if match}
    if not isinstance(parsed, Mapping):
        return None, None
    task_id, user_id = _salvaged_id(parsed.get("task_id")), _salvaged_id(parsed.get("user_id"))
    return task_id and clean_text(task_id), user_id if user_id and is_clean(user_id) else None


def json_object(text: bytes | str) -> dict[str, Any]:
    """What a JSON object holds; empty for any other text."""
    try:
        content = read_json(text)
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _check_ids(raw: object, payload: bytes, limits: Limits) -> None:
    """Check ids as they were written, because cleaning could merge two users.

    Raises:
        ValueError: one of them, or the task as a whole, cannot be read.
    """
    if not isinstance(raw, dict):
        raise ValueError("it is not a JSON object")  # noqa: TRY004  # one kind of error for whatever is wrong
    for name in ("task_id", "user_id"):
        value = raw.get(name)
        if isinstance(value, str) and value.isascii() and value.isprintable() and len(value) <= limits.id_length:
            continue  # none of what follows is found in it
        try:
            text = value if isinstance(value, str) else identifier(value)
        except ValueError as error:
            raise ValueError(f"{name} {error}") from None
        if not isinstance(text, str):
            continue
        if len(text) > limits.id_length:
            raise ValueError(f"{name} has {len(text)} characters; the maximum is {limits.id_length}")
        if not text.isprintable() and _CONTROL.search(text):
            raise ValueError(f"{name} contains control characters")
        if name == "user_id" and not is_clean(text):
            raise ValueError(
                "user_id contains half a surrogate pair, or bytes that are not UTF-8, so it could mean two users"
            )
        # The queue's scripts, whose numbers are floating-point ones, read the digits behind the plain key.
        is_rounded = isinstance(value, int) and abs(value) >= LARGEST_EXACT_FLOAT
        if is_rounded and any(b"\\" in key for key in _ID_KEYS[name].findall(payload)):
            raise ValueError(f"{name} is a large number behind a key with escapes; send it as text")


def _salvaged_id(value: object) -> str | None:
    try:
        text = identifier(value)
    except ValueError:
        return None
    if isinstance(text, str) and 0 < len(text) <= _SALVAGED_ID_LENGTH and not _CONTROL.search(text):
        return text
    return None


def _malformed(payload: bytes, sentence: str) -> MalformedMessage:
    task_id, user_id = salvage_ids(payload)
    return MalformedMessage(sentence, task_id=task_id, user_id=user_id)


def _first_problem(error: ValidationError) -> str:
    # Never the input itself: a log line or dead letter must not quote what a user wrote.
    problem = error.errors(include_input=False, include_context=False, include_url=False)[0]
    where = ".".join(str(part) for part in problem["loc"][:4])
    return f"{where} {problem['msg'].removeprefix('Value error, ')}" if where else problem["msg"]


def _may_be_deep(payload: bytes, limit: int) -> bool:
    """Whether there are enough brackets for more levels; an escape may stand for one, where ``meta`` is a text."""
    return payload.find(rb"\u") >= 0 or payload.count(b"{") + payload.count(b"[") > limit


def _too_deep(task: Task, limit: int) -> bool:
    level: list[Any] = [
        value for extra in (task.model_extra, task.meta.model_extra) if extra for value in extra.values()
    ]
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
