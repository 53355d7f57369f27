"""The settlement of each outcome: what is published, kept and remembered when a turn ends that way."""

from __future__ import annotations

import json

from letta_bridge.delivery import Delivered
from letta_bridge.errors import GUARD_CODES
from letta_bridge.fallback import FallbackAnswer
from letta_bridge.request_queue.port import Outcome, Settlement, Turn
from shared_utils.errors import ServiceError
from shared_utils.messages import ErrorReply, Reply, Task, TaskResponse, Usage, dump, json_object, now


def by_letta(turn: Turn, task: Task, delivered: Delivered) -> Settlement:
    """The user's agent answered; it now also knows every turn it had missed."""
    answer = delivered.answer
    reply = Reply(
        task_id=task.task_id,
        user_id=task.user_id,
        response_text=answer.text,
        memory_updated=True,
        source="letta",
        timestamp=now(),
        agent_id=delivered.agent_id,
        usage=Usage(
            prompt_tokens=answer.usage.prompt_tokens,
            completion_tokens=answer.usage.completion_tokens,
            total_tokens=answer.usage.total_tokens,
        ),
        attempts=turn.attempts,
    )
    return Settlement(
        turn.receipt,
        Outcome.LETTA,
        user_id=task.user_id,
        task_id=task.task_id,
        reply=dump(reply),
        task_response=dump(TaskResponse(text=answer.text, source="letta")),
        told_missed=True,
    )


def by_memory(turn: Turn, task: Task, answer: FallbackAnswer, reason: str, missed: bytes | None) -> Settlement:
    """memory-python answered. It published its reply itself; somebody else's chat AI published the text only."""
    reply = answer.reply or dump(
        Reply(
            task_id=task.task_id,
            user_id=task.user_id,
            response_text=answer.text,
            memory_updated=False,
            source="memory-python",
            timestamp=now(),
            attempts=turn.attempts,
            fallback_reason=reason,
        )
    )
    return Settlement(
        turn.receipt,
        Outcome.MEMORY,
        user_id=task.user_id,
        task_id=task.task_id,
        reply=reply,
        publish=answer.reply is None,
        missed=missed,
    )


def repeated(turn: Turn, task: Task, kept: bytes) -> Settlement:
    """The same task again: the same reply again, and no second turn."""
    content = json_object(kept)
    response = TaskResponse(
        text=str(content.get("response_text") or content.get("message") or ""),
        source=str(content.get("source", "letta")),
        error=True if content.get("error") else None,
    )
    return Settlement(
        turn.receipt,
        Outcome.REPEATED,
        user_id=task.user_id,
        task_id=task.task_id,
        reply=kept,
        task_response=dump(response),
    )


def may_be_tried_again(kept: bytes) -> bool:
    """Whether a kept reply is an error that a second try may mend."""
    content = json_object(kept)
    return bool(content.get("error") and content.get("retryable"))


def may_have_been_sent(kept: bytes) -> bool:
    """Whether a kept error reply leaves open that Letta has the turn. A guard's does not."""
    return json_object(kept).get("code") not in GUARD_CODES


def refused(
    turn: Turn, task: Task, error: ServiceError, missed: bytes | None, *, told_missed: bool = False
) -> Settlement:
    """Nobody could answer; an error reply says why. ``told_missed``: the agent got what it had missed all the same."""
    return Settlement(
        turn.receipt,
        Outcome.ERROR,
        user_id=task.user_id,
        task_id=task.task_id,
        reply=_error_reply(turn, error, error.code, task.task_id, task.user_id),
        task_response=_error_response(error),
        missed=missed,
        told_missed=told_missed,
        code=error.code,
    )


def buried(turn: Turn, error: ServiceError, code: str, task_id: str | None, user_id: str | None) -> Settlement:
    """The task can never be worked off: a dead letter, and an error reply where its id can be read."""
    letter = {
        "code": code,
        "reason": str(error),
        "attempts": turn.attempts,
        "time": now(),
        "task_id": task_id,
        "user_id": user_id,
        "number": turn.number,
        "lane": turn.lane,
    }
    return Settlement(
        turn.receipt,
        Outcome.DEAD,
        user_id=user_id or "",
        task_id=task_id or "",
        reply=_error_reply(turn, error, code, task_id, user_id) if task_id else None,
        task_response=_error_response(error) if task_id else None,
        dead=json.dumps(letter, ensure_ascii=False).encode(),
        code=code,
    )


def _error_reply(turn: Turn, error: ServiceError, code: str, task_id: str, user_id: str | None) -> bytes:
    return dump(
        ErrorReply(
            task_id=task_id,
            user_id=user_id,
            message=str(error),
            timestamp=now(),
            code=code,
            retryable=error.retryable,
            attempts=turn.attempts,
        )
    )


def _error_response(error: ServiceError) -> bytes:
    return dump(TaskResponse(text=str(error), source="letta_bridge", error=True))
