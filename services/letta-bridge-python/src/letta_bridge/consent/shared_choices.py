"""The replica of all choices that the bridges of one queue share in Redis.

Two adapters pass one contract suite: ``redis_choices.py`` (the real one) and ``testing/shared_choices.py`` (for
tests). Each hand-out carries its user's entry, so a turn needs no round trip of its own.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Protocol, Self

from letta_bridge.request_queue.port import HeldChoice
from shared_utils.persistence.choices.port import UNDATED_MS, Choice, user_key

CHOICE_ENTRY: Final = re.compile(rb"([01]) (\d{1,16})(?: (\d{1,16}|\+))?")
COMPLETE, GENERATION, CHANGES = "complete", "generation", "changes"
STATE_FIELDS: Final = (COMPLETE, GENERATION, CHANGES)
"""Fields that belong to no user."""


@dataclass(frozen=True, slots=True)
class ReplicaState:
    """The state of the shared replica at one moment."""

    complete: bool
    """The completeness marker: a user without an entry has made no choice."""
    generation: str
    """Random id of the replica; another id means that it was lost and created again. Empty if there is none."""
    changes: int
    """Number of writes; fewer than before in the same generation mean that Redis lost some."""

    @classmethod
    @lru_cache(maxsize=16)  # between two choices of users, every hand-out carries the same state
    def of(cls, complete: bytes | None, generation: bytes | None, changes: bytes | None) -> Self:
        """Parse the fields' values; an unreadable value counts as missing."""
        counted = int(changes) if changes and changes.isdigit() else 0
        readable = generation is not None and (changes is None or changes.isdigit())
        return cls(complete is not None and readable, (generation or b"").decode(errors="replace"), counted)

    def follows(self, earlier: ReplicaState) -> bool:
        """Whether no write was lost since ``earlier``."""
        return self.generation == earlier.generation and self.changes >= earlier.changes


def parse_entry(user: str, entry: bytes | None) -> Choice | None:
    """The choice in a user's entry; None without an entry, or if this release cannot read it."""
    found = CHOICE_ENTRY.match(entry) if entry is not None else None
    return None if found is None else Choice(user, found[1] == b"1", int(found[2]))


def strict_entry(user: str, entry: bytes | None) -> Choice | None:
    """Like :func:`parse_entry`, but an unreadable entry is an opt-out that no other replica's choice overrides."""
    if entry is None:
        return None
    return parse_entry(user, entry) or Choice(user, permanent_memory=False, chosen_ms=UNDATED_MS)


def applies_to(entry: bytes | None, first_ms: int) -> bool:
    """Whether the opt-in in an entry applies to a task, because the task was pushed after it.

    Args:
        entry: a user's entry; without an opt-in in it, or a time up to which it does not apply, nothing does.
        first_ms: when the task was taken from the request list.
    """
    found = CHOICE_ENTRY.match(entry) if entry is not None else None
    if found is None or found[1] != b"1" or found[3] == b"+":
        return False
    return first_ms > int(found[3] or found[2])


class SharedChoices(Protocol):
    """The replica of one queue. Every method may raise one of ``CONNECTION_ERRORS`` and may be retried."""

    async def read(self, user_id: str) -> HeldChoice:
        """A user's entry together with the replica's state."""
        ...

    async def state(self) -> ReplicaState:
        """The replica's state."""
        ...

    async def choose(self, choice: Choice) -> Choice:
        """Store a choice that is made now.

        Args:
            choice: ``chosen_ms`` is the latest time known from other replicas, or 0.

        Returns:
            The choice with its timestamp: not before the Redis server's clock, later than ``chosen_ms`` and than the
            user's entry.
        """
        ...

    async def timestamped(self, choice: Choice) -> Choice:
        """The same timestamp as :meth:`choose` would give, without storing anything."""
        ...

    async def merge(self, choices: Sequence[Choice], *, chosen: bool = False, repeated: bool = False) -> ReplicaState:
        """Store choices of other replicas where they win. An opt-in applies to tasks that are pushed from now on.

        Args:
            choices: each with its timestamp.
            chosen: the user has just made this choice, so it also replaces an unreadable entry.
            repeated: the same, and it repeats the opt-in of the user's entry: it applies to the same tasks as that one.
        """
        ...

    def entries(self) -> AsyncIterator[Choice]:
        """All readable entries; one that is written meanwhile may be missing or listed twice."""
        ...

    async def mark_complete(self, seen: ReplicaState) -> bool:
        """Set the completeness marker; False if writes were lost since the loader saw the state ``seen``."""
        ...

    async def mark_incomplete(self) -> None:
        """Remove the completeness marker."""
        ...

    async def begin_generation(self) -> None:
        """Have every bridge merge all replicas again, as after a loss; no entry is removed."""
        ...


def held_choice(fields: dict[str, bytes], user_id: str) -> HeldChoice:
    """What a hand-out carries, read from the hash's fields."""
    return HeldChoice(user_id, *map(fields.get, (*STATE_FIELDS, user_key(user_id))))
