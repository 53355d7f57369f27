"""Who answers a task: its own Letta agent, or memory-python."""

from __future__ import annotations

from dataclasses import dataclass

from letta_bridge.settings import LettaSettings, Route
from shared_utils.messages import Task


@dataclass(frozen=True, slots=True)
class Decision:
    """Where a task goes, and why."""

    route: Route
    reason: str
    """permanent, temporary, letta_disabled, user_switch or audio."""
    agent_is_told: bool = False
    """Whether the user's agent hears of it later, where memory-python answers: not what was meant to be forgotten."""


def route(task: Task, settings: LettaSettings, *, permanent_memory: bool) -> Decision:
    """Decide by the operator's switches, then the user's own, then the task.

    Args:
        task: a well-formed task.
        settings: ``enabled`` and ``memory_type_routing`` count.
        permanent_memory: the user's own switch.
    """
    if task.type == "audio" and not task.content:
        return Decision("memory-python", "audio")
    if not permanent_memory:
        return Decision("memory-python", "user_switch")
    memory_type = task.meta.memory_type or "permanent"
    # A memory type nobody configured is treated like none at all: remembering is what this service is for. It also
    # keeps what a producer wrote out of the reasons, which become labels of metrics.
    if memory_type not in settings.memory_type_routing:
        memory_type = "permanent"
    target = settings.memory_type_routing.get(memory_type, "letta")
    if target == "memory-python":
        return Decision(target, memory_type)
    if not settings.enabled:
        return Decision("memory-python", "letta_disabled", agent_is_told=True)
    return Decision("letta", memory_type)
