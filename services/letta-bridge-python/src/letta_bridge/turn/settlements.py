"""Builds the settlement of each outcome: its published and stored replies, missed turns and journal entry."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import replace

from pydantic_core import to_json

from letta_bridge.errors import LimitReached, TaskIdReused
from letta_bridge.former_codes import former_code
from letta_bridge.request_queue import recent_turns
from letta_bridge.request_queue.idempotency import Identity, KeptReply
from letta_bridge.request_queue.port import Outcome, Settlement, Turn
from letta_bridge.turn.delivery import Delivered
from letta_bridge.turn.fallback import FallbackAnswer
from shared_utils.contracts.messages import ErrorReply, Reply, Task, TaskResponse, dump, now
from shared_utils.errors import ServiceError


def by_letta(
    turn: Turn, task: Task, identity: Identity, delivered: Delivered, caught_up: Collection[str] = ()
) -> Settlement:
    """The user's agent answered. ``caught_up``: the missed turns that it has received, by fingerprint."""
    answer, usage = delivered.answer, delivered.answer.usage
    task_id, user_id = task.task_id, task.user_id
    # The fields of Reply and TaskResponse, without the models: those cost a tenth of what a turn does.
    reply: dict[str, object] = {
        "task_id": task_id,
        "user_id": user_id,
        "response_text": answer.text,
        "memory_updated": answer.memory_updated,
        "source": "letta",
        "timestamp": now(),
        "status": "ok",
        "agent_id": delivered.agent_id,
    }
    if usage is not None:
        reply["usage"] = {
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "total_tokens": usage.total_tokens,
        }
    reply["attempts"] = turn.attempts
    response: dict[str, object] = {"text": answer.text, "source": "letta"}
    if answer.truncated:
        reply["truncated"] = response["truncated"] = True
    return Settlement(
        turn.receipt,
        Outcome.LETTA,
        user_id=user_id,
        task_id=task_id,
        reply=to_json(reply),
        task_response=to_json(response),
        mark=identity.mark(),
        caught_up=frozenset(caught_up),
        tally=(recent_turns.BY_AGENT,),
    )


def by_memory(
    turn: Turn,
    task: Task,
    identity: Identity,
    answer: FallbackAnswer,
    *,
    reason: str,
    cause: str | None = None,
    in_place_of_agent: bool = False,
    missed: tuple[bytes, ...] = (),
    caught_up: Collection[str] = (),
) -> Settlement:
    """memory-python answered. It published its reply itself; a foreign memory-python answered only the bridge.

    Args:
        turn: the turn.
        task: its task.
        identity: the identity under which the task may have been sent.
        answer: memory-python's.
        reason: for the answer, as in ``fallback_reason``.
        cause: the failure, as in ``fallback_cause``.
        in_place_of_agent: an agent should have answered, but could not.
        missed: records of the turn for catch-up or lookup; empty if no agent may learn of it.
        caught_up: missed turns that the agent has received, by fingerprint.
    """
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
            fallback_cause=cause,
            canned=answer.canned or None,
        )
    )
    return Settlement(
        turn.receipt,
        Outcome.MEMORY,
        user_id=task.user_id,
        task_id=task.task_id,
        reply=reply,
        task_response=answer.response,
        publish=answer.reply is None,
        mark=identity.mark(),
        missed=missed,
        caught_up=frozenset(caught_up),
        tally=(
            recent_turns.BY_MEMORY,
            *((recent_turns.FELL_BACK, recent_turns.because(cause or reason)) if in_place_of_agent else ()),
            *((recent_turns.CANNED,) if answer.canned else ()),
        ),
    )


def interrupted(
    turn: Turn,
    task: Task,
    identity: Identity,
    text: str,
    *,
    heard: str | None,
    source: str = "letta",
    agent_id: str | None = None,
    missed: tuple[bytes, ...] = (),
    caught_up: Collection[str] = (),
) -> Settlement:
    """The user broke the turn off.

    Args:
        turn: the turn.
        task: its task.
        identity: the identity under which the task may have been sent.
        text: what was published of the reply until then.
        heard: the part of it that the user heard; None if that is not known.
        source: whose reply it was.
        agent_id: of the agent whose reply it was; None if no agent had begun it.
        missed: as in :func:`by_memory`.
        caught_up: as in :func:`by_memory`.
    """
    reply = Reply(
        task_id=task.task_id,
        user_id=task.user_id,
        response_text=text,
        memory_updated=False,
        source=source,
        timestamp=now(),
        status="interrupted",
        agent_id=agent_id,
        attempts=turn.attempts,
        heard_text=heard,
    )
    return Settlement(
        turn.receipt,
        Outcome.INTERRUPTED,
        user_id=task.user_id,
        task_id=task.task_id,
        reply=dump(reply),
        task_response=dump(TaskResponse(text=text, source=source, interrupted=True)),
        mark=identity.mark(),
        missed=missed,
        caught_up=frozenset(caught_up),
        tally=(recent_turns.INTERRUPTED,),
    )


def repeated(turn: Turn, task: Task, kept: KeptReply) -> Settlement:
    """The same task again: the same reply again, and no second turn."""
    content = kept.content
    response = TaskResponse(
        text=str(content.get("response_text") or content.get("message") or ""),
        source=str(content.get("source", "letta")),
        canned=True if content.get("canned") is True else None,
        truncated=True if content.get("truncated") is True else None,
        interrupted=True if content.get("status") == "interrupted" else None,
    )
    if content.get("error"):  # a retryable error is no outcome to repeat
        of = {"error": True, "user_id": task.user_id, "code": str(content.get("code", "error")), "retryable": False}
        response = response.model_copy(update=of)
    return Settlement(
        turn.receipt,
        Outcome.REPEATED,
        user_id=task.user_id,
        task_id=task.task_id,
        reply=kept.reply,
        task_response=dump(response),
        mark=kept.mark,
    )


def refused(
    turn: Turn,
    task: Task,
    identity: Identity | None,
    error: ServiceError,
    *,
    missed: tuple[bytes, ...] = (),
    caught_up: Collection[str] = (),
    cause: str | None = None,
    replaces_kept: bool = True,
) -> Settlement:
    """No service answered; the error reply gives the reason.

    Args:
        turn: the turn.
        task: its task.
        identity: the identity under which the task may have been sent; None stores the reply without one.
        error: the reason.
        missed: as in :func:`by_memory`.
        caught_up: as in :func:`by_memory`.
        cause: the failure that prevented an answer.
        replaces_kept: see :class:`Settlement`.
    """
    return Settlement(
        turn.receipt,
        Outcome.ERROR,
        user_id=task.user_id,
        task_id=task.task_id,
        reply=_error_reply(turn, error, error.code, task.task_id, task.user_id),
        task_response=_error_response(error, error.code, task.user_id),
        replaces_kept=replaces_kept,
        mark=identity.mark() if identity else b"",
        missed=missed,
        caught_up=frozenset(caught_up),
        code=error.code,
        tally=(recent_turns.UNANSWERED, recent_turns.because(cause)) if cause else (),
    )


def turned_away(turn: Turn, task: Task, hit: LimitReached) -> Settlement:
    """A limit of the operator refused the task before it was processed.

    The refusal is stored only if no reply is stored under this id: it must not replace the reply to an earlier task
    with the id, nor block one that is still in flight.
    """
    settlement = refused(turn, task, None, hit, replaces_kept=False)
    return replace(settlement, tally=(recent_turns.TURNED_AWAY, recent_turns.by_limit(hit.code)))


def reused(turn: Turn, task: Task, identity: Identity) -> Settlement:
    """The task's id belongs to an earlier task, whose reply stays stored; this task is not processed."""
    return refused(turn, task, identity, TaskIdReused(), replaces_kept=False)


def dead_lettered(
    turn: Turn,
    error: ServiceError,
    code: str,
    identity: Identity,
    *,
    task_id: str | None,
    user_id: str | None,
    missed: tuple[bytes, ...] = (),
    replaces_kept: bool = False,
) -> Settlement:
    """The task cannot be processed: a dead letter, and an error reply if its id is readable.

    The letter contains the identity under which the task may have been sent, so that a retry searches Letta for it.
    ``replaces_kept``: the reply stored under the task's id belongs to this task.
    """
    letter = {
        "code": code,
        "reason": str(error),
        "attempts": turn.attempts,
        "time": now(),
        "task_id": task_id,
        "user_id": user_id,
        **identity.fields(),
        "number": turn.number,
        "lane": turn.lane,
    }
    return Settlement(
        turn.receipt,
        Outcome.DEAD,
        user_id=user_id or "",
        task_id=task_id or "",
        reply=_error_reply(turn, error, code, task_id, user_id) if task_id else None,
        task_response=_error_response(error, code, user_id) if task_id else None,
        replaces_kept=replaces_kept,
        mark=identity.mark(),
        missed=missed if user_id else (),
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
            former_code=former_code(code),
            retryable=error.retryable,
            attempts=turn.attempts,
        )
    )


def _error_response(error: ServiceError, code: str, user_id: str | None) -> bytes:
    return dump(
        TaskResponse(
            text=str(error), source="letta_bridge", error=True, user_id=user_id, code=code, retryable=error.retryable
        )
    )
