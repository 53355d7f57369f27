"""The replica of all choices that the bridges of one queue share in Redis.

Two adapters pass one contract suite: ``redis_choices.py`` (the real one) and :class:`InMemorySharedChoices` (for
tests). Each hand-out carries its user's entry, so a turn needs no round trip of its own.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, Self

from letta_bridge.request_queue.memory_queue_state import TaskOrder
from letta_bridge.request_queue.port import HeldChoice
from shared_utils.persistence.choices.port import UNDATED_MS, Choice, user_key

_CHOICE_ENTRY: Final = re.compile(rb"([01]) (\d{1,16})(?: (\d{1,16}|\+))?")
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
    found = _CHOICE_ENTRY.match(entry) if entry is not None else None
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
    found = _CHOICE_ENTRY.match(entry) if entry is not None else None
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


class InMemorySharedChoices:
    """See :class:`SharedChoices`.

    Args:
        fields: what the hash in Redis would hold.
        clock: seconds since 1970.
        order: of the queue's tasks.
        untaken: how many tasks wait in the request list.
    """

    def __init__(
        self,
        fields: dict[str, bytes],
        clock: Callable[[], float],
        order: TaskOrder | None = None,
        untaken: Callable[[], int] = lambda: 0,
    ) -> None:
        self.fields = fields
        self._order = order or TaskOrder()
        self._untaken = untaken
        self.down = False
        self._clock = clock

    async def read(self, user_id: str) -> HeldChoice:
        """See :class:`SharedChoices`."""
        self._check()
        return held_choice(self.fields, user_id)

    async def state(self) -> ReplicaState:
        """See :class:`SharedChoices`."""
        self._check()
        return ReplicaState.of(*map(self.fields.get, STATE_FIELDS))

    async def choose(self, choice: Choice) -> Choice:
        """See :class:`SharedChoices`."""
        timestamped = await self.timestamped(choice)
        self._write(timestamped)
        return timestamped

    async def timestamped(self, choice: Choice) -> Choice:
        """See :class:`SharedChoices`."""
        self._check()
        before = parse_entry(choice.user_key, self.fields.get(choice.user_key))
        earliest = max(choice.chosen_ms, before.chosen_ms if before else 0) + 1
        return Choice(choice.user_key, choice.permanent_memory, max(round(self._clock() * 1000), earliest))

    async def merge(self, choices: Sequence[Choice], *, chosen: bool = False, repeated: bool = False) -> ReplicaState:
        """See :class:`SharedChoices`."""
        self._check()
        self.fields.setdefault(GENERATION, secrets.token_hex(8).encode())
        known = parse_entry if chosen or repeated else strict_entry
        for choice in choices:
            if choice.beats(known(choice.user_key, self.fields.get(choice.user_key))):
                self._write(choice, repeated=repeated)
        return await self.state()

    async def entries(self) -> AsyncIterator[Choice]:
        """See :class:`SharedChoices`."""
        self._check()
        for field, entry in list(self.fields.items()):
            if field not in STATE_FIELDS and (choice := parse_entry(field, entry)):
                yield choice

    async def mark_complete(self, seen: ReplicaState) -> bool:
        """See :class:`SharedChoices`."""
        if not seen.generation or not (await self.state()).follows(seen):
            return False
        self.fields[COMPLETE] = b"1"
        return True

    async def mark_incomplete(self) -> None:
        """See :class:`SharedChoices`."""
        self._check()
        self.fields.pop(COMPLETE, None)

    async def begin_generation(self) -> None:
        """See :class:`SharedChoices`."""
        self._check()
        self.fields[GENERATION] = secrets.token_hex(8).encode()
        self.fields.pop(COMPLETE, None)

    def _write(self, choice: Choice, *, repeated: bool = False) -> None:
        self.fields.setdefault(GENERATION, secrets.token_hex(8).encode())
        since = f" {self._since(choice, repeated=repeated)}" if choice.permanent_memory else ""
        self.fields[choice.user_key] = f"{int(choice.permanent_memory)} {choice.chosen_ms}{since}".encode()
        if not choice.permanent_memory:
            self._order.waiting.pop(choice.user_key, None)
        if not self.fields.setdefault(CHANGES, b"0").isdigit():
            self.fields |= {GENERATION: secrets.token_hex(8).encode(), CHANGES: b"0"}
            self.fields.pop(COMPLETE, None)
        self.fields[CHANGES] = str(int(self.fields[CHANGES]) + 1).encode()

    def _since(self, choice: Choice, *, repeated: bool) -> str:
        before = _CHOICE_ENTRY.match(self.fields.get(choice.user_key, b""))
        if repeated and before and before[1] == b"1":
            return (before[3] or before[2]).decode()
        return self._order.opt_in(choice.user_key, self._untaken(), round(self._clock() * 1000))

    def _check(self) -> None:
        if self.down:
            raise ConnectionError("Redis is away")


def held_choice(fields: dict[str, bytes], user_id: str) -> HeldChoice:
    """What a hand-out carries, read from the hash's fields."""
    return HeldChoice(user_id, *map(fields.get, (*STATE_FIELDS, user_key(user_id))))
