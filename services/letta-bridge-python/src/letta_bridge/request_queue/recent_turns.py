"""What became of the turns of the last minutes, over all bridges of a queue: the figures that show a silent failure.

A wrong key of the model breaks nothing: every turn falls back, and every user gets an answer. Each settlement therefore
tallies its turn under a few words, per minute of the Redis server's clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

RECENT_MINUTES: Final = 10
_TROUBLE_SHARE: Final = 0.2
_CAUSE: Final = "cause:"

BY_AGENT: Final = "agent"
"""The user's agent answered."""
BY_MEMORY: Final = "memory"
"""memory-python answered, for whatever reason."""
FELL_BACK: Final = "fallback"
"""memory-python answered in the agent's place, because the agent could not."""
UNANSWERED: Final = "unanswered"
"""An error reply: neither could."""
CANNED: Final = "canned"
"""memory-python had no model's answer and said its configured sentence."""


def because(cause: str) -> str:
    """The word for why an agent did not answer."""
    return _CAUSE + cause


@dataclass(frozen=True, slots=True)
class RecentTurns:
    """Turns of the last ten minutes. Those of a bridge of the previous release are not counted."""

    by_agent: int = 0
    by_memory: int = 0
    """Every answer of memory-python's, also those it was asked for."""
    fell_back: int = 0
    """Those in the agent's place, because the agent could not answer."""
    unanswered: int = 0
    canned: int = 0
    """Answers of memory-python's that no model gave."""
    causes: Mapping[str, int] = field(default_factory=dict)
    """Why turns fell back or were not answered, the most frequent first."""

    @classmethod
    def of(cls, tally: Mapping[str, int]) -> RecentTurns:
        """From the words of the settlements and their counts."""
        causes = {word.removeprefix(_CAUSE): count for word, count in tally.items() if word.startswith(_CAUSE)}
        return cls(
            by_agent=tally.get(BY_AGENT, 0),
            by_memory=tally.get(BY_MEMORY, 0),
            fell_back=tally.get(FELL_BACK, 0),
            unanswered=tally.get(UNANSWERED, 0),
            canned=tally.get(CANNED, 0),
            causes=dict(sorted(causes.items(), key=lambda item: (-item[1], item[0]))),
        )

    @property
    def for_agents(self) -> int:
        """Turns that agents were to answer."""
        return self.by_agent + self.fell_back + self.unanswered

    @property
    def failed_share(self) -> float:
        """The part of them that no agent answered, between 0 and 1; 0 without any turn."""
        return (self.fell_back + self.unanswered) / self.for_agents if self.for_agents else 0.0

    @property
    def main_cause(self) -> str | None:
        """Why most of these were not."""
        return next(iter(self.causes), None)

    @property
    def in_trouble(self) -> bool:
        """Whether so many were not that somebody should look."""
        return self.failed_share >= _TROUBLE_SHARE

    def __str__(self) -> str:
        """For people, as a clause."""
        within = f"in the last {RECENT_MINUTES} minutes"
        if not self.for_agents:
            return f"no agent was asked {within}"
        failed = self.fell_back + self.unanswered
        if not failed:
            return f"agents answered all {self.for_agents} turns {within}"
        parts = [f"agents did not answer {failed} of {self.for_agents} turns {within} ({self.failed_share:.0%})"]
        parts += [f"mostly {self.main_cause}"] if self.main_cause else []
        parts += [f"{self.canned} users' messages got a canned sentence"] if self.canned else []
        parts += [f"{self.unanswered} got an error"] if self.unanswered else []
        return ", ".join(parts)
