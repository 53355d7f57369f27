"""Users' choices as the bridges of one queue share them, in memory."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable, Sequence

from letta_bridge.consent.shared_choices import (
    CHANGES,
    CHOICE_ENTRY,
    COMPLETE,
    GENERATION,
    STATE_FIELDS,
    ReplicaState,
    held_choice,
    parse_entry,
    strict_entry,
)
from letta_bridge.request_queue.port import HeldChoice
from letta_bridge.testing.queue_state import TaskOrder
from shared_utils.persistence.choices.port import Choice


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
        before = CHOICE_ENTRY.match(self.fields.get(choice.user_key, b""))
        if repeated and before and before[1] == b"1":
            return (before[3] or before[2]).decode()
        return self._order.opt_in(choice.user_key, self._untaken(), round(self._clock() * 1000))

    def _check(self) -> None:
        if self.down:
            raise ConnectionError("Redis is away")
