"""Choices as all bridges of a queue share them: who refuses, and whether the absence of an entry means anything.

Two adapters pass one contract suite: ``redis_choices.py`` (the real one) and :class:`InMemorySharedChoices` (for
tests). A hand-out brings the entry of its user along, so that a turn needs no question of its own.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, Self

from letta_bridge.request_queue.port import HeldChoice
from shared_utils.persistence.choices import Choice, user_key

_ENTRY: Final = re.compile(rb"([01]) (\d{1,16})")
COMPLETE, BORN, CHANGES = "complete", "born", "changes"
STATE_FIELDS: Final = (COMPLETE, BORN, CHANGES)
"""Fields that are no user's."""
_NEVER_LATER: Final = 2**62


@dataclass(frozen=True, slots=True)
class Sighting:
    """The state of the shared copy, seen at one moment."""

    complete: bool
    """Every choice of the durable store was entered: who has no entry has made no choice."""
    born: str
    """Names the copy; another name means that it was lost and made anew. Empty where there is none."""
    changes: int
    """Counts writes; fewer than before under the same name mean that Redis lost some."""

    @classmethod
    def of(cls, complete: bytes | None, born: bytes | None, changes: bytes | None) -> Self:
        """From the fields' values; whatever cannot be read is as good as missing."""
        counted = int(changes) if changes and changes.isdigit() else 0
        readable = born is not None and (changes is None or changes.isdigit())
        return cls(complete is not None and readable, (born or b"").decode(errors="replace"), counted)

    def follows(self, earlier: Sighting) -> bool:
        """Whether nothing that was there at ``earlier`` was lost since."""
        return self.born == earlier.born and self.changes >= earlier.changes


def read_entry(user: str, entry: bytes | None) -> Choice | None:
    """The choice in a user's entry; None where there is none, or none that this release can read."""
    found = _ENTRY.match(entry) if entry is not None else None
    return None if found is None else Choice(user, found[1] == b"1", int(found[2]))


def entered(user: str, entry: bytes | None) -> Choice | None:
    """The same, but what cannot be read is a refusal that no other copy's choice replaces."""
    if entry is None:
        return None
    return read_entry(user, entry) or Choice(user, permanent_memory=False, chosen_ms=_NEVER_LATER)


class SharedChoices(Protocol):
    """The copy of one queue. Every method may raise one of ``CONNECTION_ERRORS``, and may be repeated."""

    async def read(self, user_id: str) -> HeldChoice:
        """A user's entry, and the state of the copy."""
        ...

    async def sighting(self) -> Sighting:
        """The state of the copy."""
        ...

    async def choose(self, choice: Choice) -> Choice:
        """Enter what somebody chooses now; the choice with its time.

        Args:
            choice: its ``chosen_ms`` is what is known from elsewhere, 0 for nothing; the new time is later than that,
                later than the entry's, and not before the Redis server's now.
        """
        ...

    async def date(self, choice: Choice) -> Choice:
        """The same, but nothing is entered."""
        ...

    async def learn(self, choices: Sequence[Choice], *, chosen: bool = False) -> Sighting:
        """Enter choices known from elsewhere, where they win.

        Args:
            choices: each with its time.
            chosen: somebody has chosen them just now, so they also replace an entry that cannot be read.
        """
        ...

    def entries(self) -> AsyncIterator[Choice]:
        """All entries that can be read; one that is written meanwhile may be missing or come twice."""
        ...

    async def vouch(self, seen: Sighting) -> bool:
        """Declare the copy complete; False where it does not follow what the loader saw last."""
        ...

    async def doubt(self) -> None:
        """Declare that the copy may lack something."""
        ...


class InMemorySharedChoices:
    """See :class:`SharedChoices`. ``fields`` are what the hash in Redis would hold."""

    def __init__(self, fields: dict[str, bytes], clock: Callable[[], float]) -> None:
        self.fields = fields
        self.down = False
        self._clock = clock

    async def read(self, user_id: str) -> HeldChoice:
        """See :class:`SharedChoices`."""
        self._check()
        return held_choice(self.fields, user_id)

    async def sighting(self) -> Sighting:
        """See :class:`SharedChoices`."""
        self._check()
        return Sighting.of(*map(self.fields.get, STATE_FIELDS))

    async def choose(self, choice: Choice) -> Choice:
        """See :class:`SharedChoices`."""
        dated = await self.date(choice)
        self._write(dated)
        return dated

    async def date(self, choice: Choice) -> Choice:
        """See :class:`SharedChoices`."""
        self._check()
        before = read_entry(choice.user_key, self.fields.get(choice.user_key))
        earliest = max(choice.chosen_ms, before.chosen_ms if before else 0) + 1
        return Choice(choice.user_key, choice.permanent_memory, max(round(self._clock() * 1000), earliest))

    async def learn(self, choices: Sequence[Choice], *, chosen: bool = False) -> Sighting:
        """See :class:`SharedChoices`."""
        self._check()
        self.fields.setdefault(BORN, secrets.token_hex(8).encode())
        known = read_entry if chosen else entered
        for choice in choices:
            if choice.beats(known(choice.user_key, self.fields.get(choice.user_key))):
                self._write(choice)
        return await self.sighting()

    async def entries(self) -> AsyncIterator[Choice]:
        """See :class:`SharedChoices`."""
        self._check()
        for field, entry in list(self.fields.items()):
            if field not in STATE_FIELDS and (choice := read_entry(field, entry)):
                yield choice

    async def vouch(self, seen: Sighting) -> bool:
        """See :class:`SharedChoices`."""
        if not seen.born or not (await self.sighting()).follows(seen):
            return False
        self.fields[COMPLETE] = b"1"
        return True

    async def doubt(self) -> None:
        """See :class:`SharedChoices`."""
        self._check()
        self.fields.pop(COMPLETE, None)

    def _write(self, choice: Choice) -> None:
        self.fields.setdefault(BORN, secrets.token_hex(8).encode())
        self.fields[choice.user_key] = f"{int(choice.permanent_memory)} {choice.chosen_ms}".encode()
        if not self.fields.setdefault(CHANGES, b"0").isdigit():
            self.fields |= {BORN: secrets.token_hex(8).encode(), CHANGES: b"0"}
            self.fields.pop(COMPLETE, None)
        self.fields[CHANGES] = str(int(self.fields[CHANGES]) + 1).encode()

    def _check(self) -> None:
        if self.down:
            raise ConnectionError("Redis is away")


def held_choice(fields: dict[str, bytes], user_id: str) -> HeldChoice:
    """What a hand-out brings along, from the hash's fields."""
    return HeldChoice(user_id, *map(fields.get, (*STATE_FIELDS, user_key(user_id))))
