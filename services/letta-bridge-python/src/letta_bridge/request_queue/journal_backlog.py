"""Answered turns that wait in Redis until the journal's writer has stored them in the database.

``settle.lua`` adds them together with the reply, so a killed bridge loses none. One bridge at a time writes, under a
lease; when the lease expires, the next bridge that asks takes over.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, Protocol, cast

from letta_bridge.request_queue.erasure_ledger import RedisErasureLedger
from letta_bridge.request_queue.keys import Keys
from letta_bridge.request_queue.records import Fault
from letta_bridge.request_queue.scripts import ScriptRunner, read
from shared_utils.batches import PageSize
from shared_utils.redis.connection import RedisClient

WRITER_LEASE_SECONDS: Final = 30.0
"""Lease of the writer. Two bridges that write at once do no harm."""
_ENTRIES_PER_PAGE: Final = 200
_POLL_SECONDS: Final = 0.1
_JOURNAL: Final = read("journal")


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """A waiting turn."""

    id: str
    """``<ms of the Redis server's clock>-<n>``: when it was settled; rises from entry to entry."""
    turn: bytes
    """The settlement's record of the turn, JSON."""
    reply: bytes
    """The reply, JSON."""

    @property
    def settled_ms(self) -> int:
        """Time of its settlement, ms of the Redis server's clock."""
        return int(self.id.partition("-")[0])

    @property
    def size(self) -> int:
        """Bytes, as ``journal_bytes`` counts them."""
        return len(self.turn) + len(self.reply)


@dataclass(frozen=True, slots=True)
class JournalBatch:
    """The result of one call."""

    mine: bool
    """Whether this bridge writes now; where it does not, there are no entries."""
    waiting: int
    """Entries that wait, those of the batch included."""
    dropped: int
    """Turns dropped so far because the backlog was full."""
    entries: Sequence[JournalEntry] = field(default_factory=list)
    """The oldest ones, in the order of their settlement; fewer than requested if they are large."""


class JournalBacklog(Protocol):
    """The backlog of the journal; every method may raise one of ``CONNECTION_ERRORS`` and may be repeated."""

    async def take(
        self, written: Sequence[str], want: int, unreadable: Mapping[str, Fault] = MappingProxyType({})
    ) -> JournalBatch:
        """Remove the entries that are in the database now, and return up to ``want`` others.

        ``unreadable`` entries, by id, become dead letters.
        """
        ...

    async def leave(self, written: Sequence[str]) -> None:
        """Remove the entries that are in the database now, and let another bridge write."""
        ...

    async def erased_since(self, at_ms: int) -> Mapping[str, int]:
        """The users erased since a time: SHA-256 of the id → time of the erasure, ms of the Redis server's clock."""
        ...


class RedisJournalBacklog:
    """The turns of one queue, seen by one bridge."""

    def __init__(self, client: RedisClient, keys: Keys, bridge: str) -> None:
        self._client = client
        self._keys = keys
        self._bridge = bridge
        self._scripts = ScriptRunner(client, keys.script_keys)

    async def take(
        self, written: Sequence[str], want: int, unreadable: Mapping[str, Fault] = MappingProxyType({})
    ) -> JournalBatch:
        """See :class:`JournalBacklog`."""
        mine, waiting, dropped, rows = await self._ask(round(WRITER_LEASE_SECONDS * 1000), want, written, unreadable)
        entries = [JournalEntry(number.decode(), turn, reply) for number, turn, reply in rows]
        return JournalBatch(mine == 1, waiting, int(dropped), entries)

    async def leave(self, written: Sequence[str]) -> None:
        """See :class:`JournalBacklog`."""
        await self._ask(0, 0, written)

    async def erased_since(self, at_ms: int) -> Mapping[str, int]:
        """See :class:`JournalBacklog`."""
        erasures = await RedisErasureLedger(self._client, self._keys).since(at_ms)
        return {erasure.user_hash: erasure.at_ms for erasure in erasures}

    async def entries(self) -> AsyncIterator[JournalEntry]:
        """All waiting turns, oldest first, for a search for a user; changes nothing."""
        last, size = "-", PageSize(_ENTRIES_PER_PAGE)
        while page := cast("list[Any]", await self._client.xrange(self._keys.journal, min=last, count=size.items)):
            found = [
                JournalEntry(number.decode(), fields.get(b"turn", b""), fields.get(b"reply", b""))
                for number, fields in page
            ]
            for entry in found:
                yield entry
            last = f"({found[-1].id}"
            size.learn(len(found), sum(entry.size for entry in found))

    async def looked(self) -> None:
        """Wait until the writer calls again: turns that it took before are then in the database, or never will be.

        For callers that removed entries. If the writer is gone, this waits until its lease expires.
        """
        before = await self._looks()
        while True:
            if await self._looks() != before or not await self._client.exists(self._keys.journal_writer):
                return
            await asyncio.sleep(_POLL_SECONDS)

    async def _looks(self) -> bytes | None:
        return cast("bytes | None", await self._client.hget(self._keys.counters, "journal_looks"))

    async def _ask(
        self, lease_ms: int, want: int, written: Sequence[str], unreadable: Mapping[str, Fault] = MappingProxyType({})
    ) -> Any:
        aside = [word for entry, fault in unreadable.items() for word in (entry, fault.value)]
        return await self._scripts.run(_JOURNAL, self._bridge, lease_ms, want, len(unreadable), *aside, *written)
