"""Reads what the bridge adds to a task it wants answered here: ``meta.letta_bridge``."""

from __future__ import annotations

from pydantic import ValidationError

from shared_utils.contracts.messages import HANDOVER_KEY, Handover, Task
from shared_utils.errors import MalformedMessage


def read_handover(task: Task, tenant: str) -> Handover | None:
    """The task's handover; None where an ordinary producer sent it.

    Args:
        task: from the queue.
        tenant: the tenant of this memory-python.

    Raises:
        MalformedMessage: there is one, but it cannot be honoured.
    """
    value = (task.meta.model_extra or {}).get(HANDOVER_KEY)
    if value is None:
        return None
    ids = {"task_id": task.task_id or None, "user_id": task.user_id}
    if not task.task_id:
        raise MalformedMessage(f"meta.{HANDOVER_KEY} asks for an answer, but the task has no task_id", **ids)
    try:
        handover = Handover.model_validate(value, strict=True)
    except ValidationError as error:
        problem = error.errors(include_input=False, include_url=False, include_context=False)[0]
        where = ".".join((f"meta.{HANDOVER_KEY}", *(str(part) for part in problem["loc"])))
        raise MalformedMessage(f"{where}: {problem['msg']}", **ids) from None
    theirs = handover.tenant or ""
    if theirs != tenant:
        raise MalformedMessage(
            f"the handover is of the tenant '{theirs}', but this memory-python serves '{tenant}'; give each tenant "
            "its own memory-python and Redis",
            **ids,
        )
    return handover
