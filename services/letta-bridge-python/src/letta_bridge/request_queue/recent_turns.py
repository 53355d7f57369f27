"""Outcomes of the turns of the last minutes, across all bridges of a queue, which reveal silent failures.

A wrong key of the model causes no error: every turn falls back, and every user gets an answer. Therefore each
settlement counts its turn under a few words, per minute of the Redis server's clock.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from letta_bridge.former_codes import present_code
from letta_bridge.request_queue import failure_causes

RECENT_MINUTES: Final = 10
_TROUBLE_SHARE: Final = 0.2
_CAUSE: Final = "cause:"
_LIMIT_PREFIX: Final = "guard:"

BY_AGENT: Final = "agent"
"""The user's agent answered."""
BY_MEMORY: Final = "memory"
"""memory-python answered, for whatever reason."""
FELL_BACK: Final = "fallback"
"""memory-python answered in the agent's place, because the agent could not."""
UNANSWERED: Final = "unanswered"
"""An error reply: neither could."""
CANNED: Final = "canned"
"""memory-python answered with its configured sentence, because no model answered."""
INTERRUPTED: Final = "interrupted"
"""Its user broke it off."""
TURNED_AWAY: Final = "turned_away"
"""A limit of the operator's refused the task before an agent was asked."""


def because(cause: str) -> str:
    """The word for why an agent did not answer."""
    return _CAUSE + cause


def by_limit(code: str) -> str:
    """The word for the limit that refused a task."""
    return _LIMIT_PREFIX + code


@dataclass(frozen=True, slots=True)
class RecentTurns:
    """Turns of the last ten minutes. Those of a bridge of the previous release are not counted."""

    by_agent: int = 0
    by_memory: int = 0
    """Every answer of memory-python, including those routed to it."""
    fell_back: int = 0
    """Answers in place of an agent that could not answer."""
    unanswered: int = 0
    canned: int = 0
    """Answers of memory-python's that no model gave."""
    causes: Mapping[str, int] = field(default_factory=dict)
    """Why turns fell back or were not answered, the most frequent first."""
    turned_away: int = 0
    """Tasks that a limit refused, which are no turns."""
    guards: Mapping[str, int] = field(default_factory=dict)
    """The limits that refused them, the most frequent first."""

    @classmethod
    def of(cls, tally: Mapping[str, int]) -> RecentTurns:
        """From the words of the settlements and their counts."""
        return cls(
            by_agent=tally.get(BY_AGENT, 0),
            by_memory=tally.get(BY_MEMORY, 0),
            fell_back=tally.get(FELL_BACK, 0),
            unanswered=tally.get(UNANSWERED, 0),
            canned=tally.get(CANNED, 0),
            causes=_ranked(tally, _CAUSE),
            turned_away=tally.get(TURNED_AWAY, 0),
            guards=_ranked(tally, _LIMIT_PREFIX),
        )

    @property
    def for_agents(self) -> int:
        """Turns that were meant for agents."""
        return self.by_agent + self.fell_back + self.unanswered

    @property
    def failed_share(self) -> float:
        """The part of them that no agent answered, between 0 and 1; 0 without any turn."""
        return (self.fell_back + self.unanswered) / self.for_agents if self.for_agents else 0.0

    @property
    def main_cause(self) -> str | None:
        """The most frequent cause among them."""
        return next(iter(self.causes), None)

    @property
    def in_trouble(self) -> bool:
        """Whether their share is so large that an operator should act."""
        return self.failed_share >= _TROUBLE_SHARE

    @property
    def sentence(self) -> str:
        """The outcomes of the turns and, if an operator should act, the remedy."""
        return f"{self}; {self.advice}" if self.in_trouble else str(self)

    @property
    def advice(self) -> str:
        """The remedy for the main cause."""
        return failure_causes.advice(self.main_cause)

    def __str__(self) -> str:
        """For people, as a clause."""
        within = f"in the last {RECENT_MINUTES} minutes"
        failed = self.fell_back + self.unanswered
        if not self.for_agents:
            parts = [f"no agent was asked {within}"]
        elif not failed:
            parts = [f"agents answered all {self.for_agents} turns {within}"]
        else:
            parts = [f"agents did not answer {failed} of {self.for_agents} turns {within} ({self.failed_share:.0%})"]
            parts += [f"mostly because {failure_causes.meaning(self.main_cause)}"] if self.main_cause else []
            parts += [f"canned sentences instead of a model's answer: {self.canned}"] if self.canned else []
            parts += [f"error replies: {self.unanswered}"] if self.unanswered else []
        if self.turned_away:
            parts.append(f"tasks refused by limits: {self.turned_away}, mostly {next(iter(self.guards), '?')}")
        return ", ".join(parts)


def _ranked(tally: Mapping[str, int], prefix: str) -> dict[str, int]:
    """Count by what follows the prefix, the most frequent first. Bridges of the last release count former codes."""
    found: Counter[str] = Counter()
    for word, count in tally.items():
        if word.startswith(prefix):
            found[present_code(word.removeprefix(prefix))] += count
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))
