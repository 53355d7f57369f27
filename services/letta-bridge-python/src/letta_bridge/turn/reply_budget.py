"""The time in which a turn gets its reply: Letta has most of it, and the rest is kept for memory-python."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from letta_bridge.settings import FallbackSettings, LettaSettings

_MEMORY_SHARE: Final = 1 / 3
"""Part of the reply deadline that is kept for memory-python at most."""


@dataclass(frozen=True, slots=True)
class ReplyBudget:
    """The time of one turn. Times are the event loop's.

    Attributes:
        began: when the bridge began the turn.
        letta_seconds: after these seconds Letta's answer comes too late.
        memory_seconds: what memory-python has at least, even if the bridge itself was late.
        deadline_seconds: when the user has a reply.
    """

    began: float
    letta_seconds: float
    memory_seconds: float
    deadline_seconds: float

    @classmethod
    def of(cls, letta: LettaSettings, fallback: FallbackSettings, *, began: float) -> ReplyBudget:
        """The budget of a turn that begins."""
        deadline = letta.reply_deadline_seconds
        memory = min(fallback.timeout_seconds, deadline * _MEMORY_SHARE)
        return cls(began, deadline - memory if letta.fallback_to_memory else deadline, memory, deadline)

    @property
    def letta_until(self) -> float:
        """When Letta's time is over."""
        return self.began + self.letta_seconds

    def left_for_memory(self, now: float) -> float:
        """Seconds in which memory-python has to answer, counted from ``now``."""
        return max(self.memory_seconds, self.began + self.deadline_seconds - now)
