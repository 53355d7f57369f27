"""A user's choice about permanent memory: one record per user, for all personas, independent of sessions.

The record is replicated in the durable store (database or session file), in the session file of each host, and in
Redis. It is a last-writer-wins register: the later choice wins, and an opt-out wins a tie, so replicas converge in
whatever order and however often they are merged. The record contains a digest of the user id and no text of the user,
so it may outlive an erasure.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Protocol

IMPORTED_MS: Final = 1
"""``chosen_ms`` of an opt-out imported without a timestamp; earlier than every real one."""
UNDATED_MS: Final = 2**62
"""``chosen_ms`` of an opt-out whose time is unknown and that no other choice may override."""


@dataclass(frozen=True, slots=True)
class Choice:
    """One user's choice."""

    user_key: str
    """See :func:`user_key`."""
    permanent_memory: bool
    """False: no agent may remember this user."""
    chosen_ms: int
    """Timestamp in ms since 1970, by the clock of the Redis server."""

    def beats(self, other: Choice | None) -> bool:
        """Whether this choice replaces ``other``: it is later, or an opt-out with the same timestamp."""
        if other is None or self.chosen_ms != other.chosen_ms:
            return other is None or self.chosen_ms > other.chosen_ms
        return other.permanent_memory and not self.permanent_memory


def user_key(user_id: str) -> str:
    """Key of a user's choice: hex SHA-1 of the user id, the only digest available to Lua in Redis."""
    return hashlib.sha1(user_id.encode(errors="surrogatepass"), usedforsecurity=False).hexdigest()


def imported_opt_out(user_id: str) -> Choice:
    """The choice of a user whose sessions hold an opt-out in the form of earlier releases."""
    return Choice(user_key(user_id), permanent_memory=False, chosen_ms=IMPORTED_MS)


class ChoiceStore(Protocol):
    """A durable store of choices. Every method may raise PersistenceError."""

    async def find(self, user_keys: Collection[str]) -> Mapping[str, Choice]:
        """The choices of these users by user key; users without a choice are left out."""
        ...

    async def merge(self, choices: Sequence[Choice]) -> None:
        """Store each choice that beats the stored one of its user, in one transaction. Idempotent."""
        ...

    async def page(self, *, after: str = "", limit: int = 1000) -> Sequence[Choice]:
        """Up to ``limit`` choices whose keys follow ``after``, in key order."""
        ...

    async def changed(self, since: datetime | None) -> tuple[Sequence[Choice], datetime]:
        """The choices stored after ``since``, and the position for the next call.

        None lists no choices and only returns the position. A choice may be listed more than once.
        """
        ...

    async def close(self) -> None:
        """Release the resources that this store owns."""
        ...


async def pages(store: ChoiceStore, *, size: int = 500) -> AsyncIterator[Sequence[Choice]]:
    """All choices of a store, in batches of up to ``size``."""
    after = ""
    while page := await store.page(after=after, limit=size):
        yield page
        after = page[-1].user_key


async def copy_choices(source: ChoiceStore, target: ChoiceStore) -> int:
    """Merge all choices of one store into another; returns their number. Idempotent."""
    copied = 0
    async for page in pages(source):
        await target.merge(page)
        copied += len(page)
    return copied
