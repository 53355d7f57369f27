"""The report of an erasure: found, removed and left, by place, and the data that no erasure reaches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

BEYOND_REACH: Final = (
    "logs: user ids stand there as a hash, unless logs.user_ids is on; delete them as they age",
    "backups and exports: delete them, or erase the user again after a restore",
    "what was published: replies in the hands of their receivers, and what other programs made of them",
    "the model's provider: what agents and memory-python sent there, by its own rules",
    "files of Redis and of the databases: the append-only file until BGREWRITEAOF, tables until VACUUM, logs, replicas",
    "a host whose bridge is stopped: its session file and its uploads go when it starts, within 400 days",
)
"""Places that no erasure reaches, for people."""


@dataclass(slots=True)
class PlaceReport:
    """One kind of thing."""

    found: int | None = None
    """Before anything was erased; None where it could not be counted."""
    removed: int = 0
    """In this run and in earlier ones that broke off."""
    left: int | None = None
    """At the end; None where it could not be counted."""


@dataclass(slots=True)
class ErasureReport:
    """One erasure."""

    places: dict[str, PlaceReport] = field(default_factory=dict)
    """By the names of the counts: ``agents``, ``kept_replies`` …"""
    unreachable: dict[str, str] = field(default_factory=dict)
    """Name of a place → why it could not be reached."""
    elsewhere: list[str] = field(default_factory=list)
    """Redis keys in which the user is still named."""
    arrived_since: int = 0
    """Tasks that arrived after the last refusal; they count as those of a new user."""
    behind: list[str] = field(default_factory=list)
    """Live bridges that have not confirmed the erasure yet."""

    @property
    def complete(self) -> bool:
        """Whether nothing of the user is left that this installation can reach."""
        return not (self.unreachable or self.elsewhere) and not any(place.left for place in self.places.values())

    def place(self, name: str) -> PlaceReport:
        """The report of one kind of thing."""
        return self.places.setdefault(name, PlaceReport())

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "complete": self.complete,
            "removed": {name: place.removed for name, place in self.places.items()},
            "found": {name: place.found for name, place in self.places.items()},
            "left": {name: place.left for name, place in self.places.items()},
            "unreachable": self.unreachable,
            "elsewhere": self.elsewhere,
            "arrived_since": self.arrived_since,
            "bridges_behind": self.behind,
            "beyond_reach": list(BEYOND_REACH),
        }


def counted(report: ErasureReport, counts: Mapping[str, int], *, left: bool) -> None:
    """Note what a count found: before the erasure, or ``left`` after it."""
    for name, count in counts.items():
        place = report.place(name)
        if left:
            place.left = count
        else:
            place.found = count
