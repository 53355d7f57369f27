"""The journal's backlog in memory: for tests."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from letta_bridge.request_queue.journal_backlog import WRITER_LEASE_SECONDS, JournalBatch, JournalEntry
from letta_bridge.request_queue.records import Fault
from letta_bridge.testing.queue_state import InMemoryQueueState


class InMemoryJournalBacklog:
    """The backlog of a :class:`InMemoryQueueState`, seen by one bridge."""

    def __init__(self, shelf: InMemoryQueueState, bridge: str) -> None:
        self._shelf = shelf
        self._bridge = bridge

    async def take(
        self, written: Sequence[str], want: int, unreadable: Mapping[str, Fault] = MappingProxyType({})
    ) -> JournalBatch:
        """See :class:`JournalBacklog`."""
        shelf = self._shelf
        for entry, turn, reply in shelf.journal:
            if entry in unreadable:
                about = {"v": 2, "record": "journal", "code": unreadable[entry]}
                shelf.dead.insert(0, (json.dumps(about).encode(), turn + b"\n" + reply))
        self._forget([*written, *unreadable])
        writer, until = shelf.journal_writer
        mine = writer in {"", self._bridge} or until <= shelf.clock()
        if mine:
            shelf.journal_writer = (self._bridge, shelf.clock() + WRITER_LEASE_SECONDS)
        entries = [JournalEntry(*entry) for entry in shelf.journal[:want]] if mine else []
        return JournalBatch(mine, len(shelf.journal), shelf.counters["journal_dropped"], entries)

    async def leave(self, written: Sequence[str]) -> None:
        """See :class:`JournalBacklog`."""
        self._forget(written)
        if self._shelf.journal_writer[0] == self._bridge:
            self._shelf.journal_writer = ("", 0.0)

    async def erased_since(self, at_ms: int) -> Mapping[str, int]:
        """See :class:`JournalBacklog`."""
        return {user_hash: at for user_hash, at in self._shelf.erasures.items() if at >= at_ms}

    def _forget(self, written: Sequence[str]) -> None:
        self._shelf.journal = [entry for entry in self._shelf.journal if entry[0] not in written]
