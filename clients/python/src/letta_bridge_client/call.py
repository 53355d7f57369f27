"""Which kept or published reply belongs to a call, as task ids are chosen by strangers and may be used twice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from letta_bridge_client.errors import TaskFailed
from letta_bridge_client.reply import Reply
from letta_bridge_client.task import Task


@dataclass(slots=True)
class Call:
    """A call that waits for the reply to one task."""

    user_id: str
    task_id: str
    task: Task | None = None
    """None if it was pushed earlier."""
    awaits_redis: bool = True
    """Whether it waits for Redis, and not for the bridge."""
    before: Mapping[str, Any] = field(default_factory=dict)
    """What was kept under the id when the call began."""

    @property
    def remedy(self) -> str:
        """What to do where Redis did not answer in time."""
        return f"call again with the task id {self.task_id}, the task is not answered twice"

    @property
    def may_have_past(self) -> bool:
        """Whether something may be kept under the id when the call begins."""
        return self.task is None or self.task.is_named

    def outcome(self, kept: Mapping[str, Any]) -> Reply | None:
        """What a kept reply means for the call; None if the call has to wait on."""
        if not kept or self.is_of_another(kept):
            return None  # another text with this id; the bridge refuses one of the two
        reply = Reply.of(kept)
        if kept == self.before and not reply.ok and reply.retryable:
            return None
        return reply

    def is_of_another(self, kept: Mapping[str, Any]) -> bool:
        """Whether a kept reply is that to another text."""
        digest = kept.get("content_digest")
        return self.task is not None and isinstance(digest, str) and digest != self.task.digest

    def unkept(self, said: Mapping[str, Any]) -> Reply | None:
        """The error in a publication whose reply is not kept; None for anything else."""
        if said.get("error") is not True:
            return None
        names_user = "user_id" in said
        if said.get("user_id") != self.user_id if names_user else self.task is None or self.task.is_named:
            return None
        of_task = {"task_id": self.task_id, "user_id": self.user_id, "message": said.get("text")}
        return Reply.of({**said, **of_task})


class InterruptCall(Call):
    """A call that breaks a reply off; without a task id, whichever is being answered."""

    @property
    def remedy(self) -> str:
        """See :class:`Call`."""
        return "interrupt again, if the reply still goes on"


def answer(reply: Reply) -> Reply:
    """The reply.

    Raises:
        TaskFailed: it is an error.
    """
    if not reply.ok:
        raise TaskFailed(reply)
    return reply
