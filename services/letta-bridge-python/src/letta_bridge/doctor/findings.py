"""Findings of checks."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """Severity."""

    OK = "OK"
    WARN = "WARN"
    """It works, and will not always; or it could not be told."""
    FAIL = "FAIL"
    """The bridge cannot do its work, or will lose some."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report."""

    level: Level
    subject: str
    """Stable name of the check, such as ``redis.eviction``."""
    says: str
    """What is so."""
    advice: str = ""
    """What to do about it; empty where it is fine."""


def ok(subject: str, says: str) -> Finding:
    """All is well."""
    return Finding(Level.OK, subject, says)


def warn(subject: str, says: str, advice: str) -> Finding:
    """Possibly a problem."""
    return Finding(Level.WARN, subject, says, advice)


def fail(subject: str, says: str, advice: str) -> Finding:
    """Broken."""
    return Finding(Level.FAIL, subject, says, advice)
