"""The position of each job, and the lease of the bridge that runs it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from shared_utils.persistence.database.database import Database
from shared_utils.persistence.errors import Conflict
from shared_utils.persistence.statements import statements

_SQL: Final = statements("vector_sync", "shared_utils.persistence")


class SyncState(Protocol):
    """Positions and leases by the name of the part. Every method may raise a PersistenceError."""

    async def claim(self, part: str, owner: str, seconds: float) -> str | None:
        """Take the lease on a job; returns its position ("" at first), or None while another owner has it."""
        ...

    async def save(self, part: str, owner: str, position: str) -> None:
        """Save the position, unless another owner has the job by now."""
        ...

    async def leave(self, part: str, owner: str) -> None:
        """Release the lease."""
        ...


class DatabaseSyncState:
    """See :class:`SyncState`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def claim(self, part: str, owner: str, seconds: float) -> str | None:
        """See :class:`SyncState`."""
        claim = {"part": part, "owner": owner, "seconds": seconds}
        rows = await self._database.fetch(_SQL["claim"], claim)
        if not rows:
            try:
                if not await self._database.execute(_SQL["begin"], {"part": part}):
                    return None
            except Conflict:  # another bridge began it just now
                return None
            rows = await self._database.fetch(_SQL["claim"], claim)
        return str(rows[0]["position"]) if rows else None

    async def save(self, part: str, owner: str, position: str) -> None:
        """See :class:`SyncState`."""
        await self._database.execute(_SQL["save"], {"part": part, "owner": owner, "position": position})

    async def leave(self, part: str, owner: str) -> None:
        """See :class:`SyncState`."""
        await self._database.execute(_SQL["leave"], {"part": part, "owner": owner})


@dataclass(slots=True)
class _Row:
    position: str = ""
    owner: str | None = None
    until: float = 0.0


class InMemorySyncState:
    """A :class:`SyncState` for tests, and for a run of the command line that keeps no position."""

    def __init__(self, clock: Callable[[], float] = lambda: 0.0) -> None:
        self._clock = clock
        self._rows: dict[str, _Row] = {}

    async def claim(self, part: str, owner: str, seconds: float) -> str | None:
        """See :class:`SyncState`."""
        row = self._rows.setdefault(part, _Row())
        if row.owner not in {None, owner} and row.until >= self._clock():
            return None
        row.owner, row.until = owner, self._clock() + seconds
        return row.position

    async def save(self, part: str, owner: str, position: str) -> None:
        """See :class:`SyncState`."""
        row = self._rows.setdefault(part, _Row())
        if row.owner == owner:
            row.position = position

    async def leave(self, part: str, owner: str) -> None:
        """See :class:`SyncState`."""
        row = self._rows.setdefault(part, _Row())
        if row.owner == owner:
            row.owner = None
