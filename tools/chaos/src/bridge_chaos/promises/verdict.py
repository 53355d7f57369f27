"""Broken promises as findings: the promise, the place, and the affected user."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from bridge_chaos.load import Task

PROMISES: Final[Mapping[str, str]] = {
    "lost": "lost",
    "buried": "buried",
    "repeated_replies": "replies twice",
    "repeated_messages": "messages twice",
    "out_of_order": "out of order",
    "forgotten": "forgotten",
    "untold": "untold",
    "left_out": "only counted",
    "strangers": "strangers",
    "overlaps": "overlaps",
    "accounts": "accounts",
    "journal": "journal",
    "consent": "consent",
    "erased": "erased",
    "unclear": "unclear",
    "spoken_twice": "spoken twice",
    "skipped": "skipped",
    "unended": "streams without an end",
    "after_end": "events after an end",
    "seq_holes": "holes in seq",
}
"""Promise → its column in reports."""
STREAMS: Final = frozenset({"spoken_twice", "skipped", "unended", "after_end", "seq_holes"})
"""The promises of streamed replies."""
ALWAYS: Final[Mapping[str, str]] = {
    "left_out": "Of its missed turns, an agent receives the newest `fallback.catch_up_max_turns` in full, within "
    "`fallback.catch_up_max_characters`, and of older ones only the number.",
}
"""Promise → the window in which it lies under every fault: what was seen there is counted, and is not broken."""


@dataclass(frozen=True)
class Finding:
    """One broken promise.

    Attributes:
        promise: a key of `PROMISES`.
        text: what was seen.
        subject: the task or user it concerns; None where it concerns nobody in particular.
    """

    promise: str
    text: str
    subject: Task | str | None = None


@dataclass
class Verdict:
    """How the tasks of a run ended, and which promises were broken."""

    tasks: int = 0
    sources: Counter[str] = field(default_factory=Counter)
    """How tasks ended: letta, memory-python, letta_bridge (an error), dead."""
    findings: list[Finding] = field(default_factory=list)
    checked: set[str] = field(default_factory=lambda: set(PROMISES) - {"erased", "consent", "unclear", *STREAMS})
    """Promises that this run put to the test; of another one it says nothing."""

    def add(self, promise: str, text: str, subject: Task | str | None = None) -> None:
        self.findings.append(Finding(promise, text, subject))

    def counts(self) -> Counter[str]:
        """Promise → how often it was broken, where it was."""
        return count(self.findings)


def count(findings: Iterable[Finding]) -> Counter[str]:
    """Promise → findings."""
    return Counter(finding.promise for finding in findings)
