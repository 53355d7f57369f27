"""Findings of checks."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """Severity."""

    OK = "OK"
    WARN = "WARN"
    """Possibly a problem, or not determined."""
    FAIL = "FAIL"
    """The bridge cannot work, or will lose tasks."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report."""

    level: Level
    subject: str
    """Stable name of the check, such as ``redis.eviction``."""
    says: str
    """The finding."""
    advice: str = ""
    """The remedy; empty if no fault was found."""


def ok(subject: str, says: str) -> Finding:
    """All is well."""
    return Finding(Level.OK, subject, says)


def warn(subject: str, says: str, advice: str) -> Finding:
    """Possibly a problem."""
    return Finding(Level.WARN, subject, says, advice)


def fail(subject: str, says: str, advice: str) -> Finding:
    """Broken."""
    return Finding(Level.FAIL, subject, says, advice)
