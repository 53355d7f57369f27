"""What users chose about permanent memory: one record per user, for every persona, whatever becomes of their sessions.

The same record lies in the durable store (database or session file), in each host's session file and in Redis. Copies
are merged, never overwritten: the later choice wins, and of two made in the same millisecond the one that refuses. So
copies may be brought together in any order, any number of times. The record names its user by a digest alone and holds
no words, so that it may outlive an erasure.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Protocol

IMPORTED_MS: Final = 1
"""``chosen_ms`` of a refusal whose time nobody noted: every choice with a time of its own is later."""


@dataclass(frozen=True, slots=True)
class Choice:
    """One user's choice."""

    user_key: str
    """See :func:`user_key`."""
    permanent_memory: bool
    """False: no agent may remember this user."""
    chosen_ms: int
    """When it was made, in ms since 1970 by the Redis server's clock."""

    def beats(self, other: Choice | None) -> bool:
        """Whether this choice replaces ``other``: it is later, or equally late and the stricter one."""
        if other is None or self.chosen_ms != other.chosen_ms:
            return other is None or self.chosen_ms > other.chosen_ms
        return other.permanent_memory and not self.permanent_memory


def user_key(user_id: str) -> str:
    """A user as choices know them: hex SHA-1 of the id, the only digest that Redis's Lua can compute as well."""
    return hashlib.sha1(user_id.encode(errors="surrogatepass"), usedforsecurity=False).hexdigest()


class ChoiceStore(Protocol):
    """Choices that outlive the process. Every method may raise PersistenceError."""

    async def find(self, user_keys: Collection[str]) -> Mapping[str, Choice]:
        """The choices of these users, by their keys; whoever has made none is left out."""
        ...

    async def merge(self, choices: Sequence[Choice]) -> None:
        """Keep the winner of each choice and what is stored for its user, all or none of them."""
        ...

    async def page(self, *, after: str = "", limit: int = 1000) -> Sequence[Choice]:
        """The choices whose keys follow ``after``, in the order of their keys."""
        ...

    async def changed(self, since: datetime | None) -> tuple[Sequence[Choice], datetime]:
        """What was stored after ``since``, and the store's time to ask with next.

        With None nothing is listed: only the time is wanted. A choice may be listed more than once.
        """
        ...

    async def close(self) -> None:
        """Give back what belongs to this store alone."""
        ...


async def pages(store: ChoiceStore, *, size: int = 500) -> AsyncIterator[Sequence[Choice]]:
    """All choices of a store, in parts."""
    after = ""
    while page := await store.page(after=after, limit=size):
        yield page
        after = page[-1].user_key


async def copy_choices(source: ChoiceStore, target: ChoiceStore) -> int:
    """Merge all choices of one store into another; returns how many there are. It may be repeated."""
    copied = 0
    async for page in pages(source):
        await target.merge(page)
        copied += len(page)
    return copied
