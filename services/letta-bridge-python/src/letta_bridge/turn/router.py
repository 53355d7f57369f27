"""Decides who answers a task: the user's Letta agent, or memory-python."""

from __future__ import annotations

from dataclasses import dataclass

from letta_bridge.consent import Verdict
from letta_bridge.settings import LettaSettings, Route
from shared_utils.contracts.messages import Task


@dataclass(slots=True)  # not frozen, as what is made for every turn: see Turn
class Decision:
    """The destination of a task, and the reason."""

    route: Route
    reason: str
    """A configured memory type, or memory_type_unknown, letta_disabled, user_switch, choice_unknown, audio."""
    remember: bool = False
    """Whether the user's agent receives the turn by catch-up, if memory-python answers."""


def route(task: Task, settings: LettaSettings, *, consent: Verdict) -> Decision:
    """Decide by the operator's switches, then the user's own, then the task.

    Args:
        task: a well-formed task.
        settings: ``enabled`` and ``memory_type_routing`` count.
        consent: the user's own choice.
    """
    if task.type == "audio" and not task.content:
        return Decision("memory-python", "audio")
    if consent is not Verdict.ALLOWED:
        return Decision("memory-python", "user_switch" if consent is Verdict.DENIED else "choice_unknown")
    memory_type = task.meta.memory_type or "permanent"
    # Fail closed: an unknown memory type does not request permanent memory. The reason omits the type, because #
    # reasons become metric labels.
    if memory_type != "permanent" and memory_type not in settings.memory_type_routing:
        return Decision("memory-python", "memory_type_unknown")
    target = settings.memory_type_routing.get(memory_type, "letta")
    if target == "memory-python":
        return Decision(target, memory_type)
    if not settings.enabled:
        return Decision("memory-python", "letta_disabled", remember=True)
    return Decision("letta", memory_type)
