"""The index by nearness, built when a table has grown large enough for it."""

from __future__ import annotations

from typing import Final

from letta_bridge.vectors.port import Step
from shared_utils.persistence.vectors import PassageStore

_INDEX_CHECK_SECONDS: Final = 600.0


class IndexSyncJob:
    """See :class:`letta_bridge.vectors.port.SyncJob`. A build may outlast the lease; the store allows one."""

    name = "index"

    def __init__(self, store: PassageStore) -> None:
        self._store = store

    async def step(self, position: str) -> Step:
        """See :class:`letta_bridge.vectors.port.SyncJob`."""
        await self._store.ensure_index()
        return Step(position, _INDEX_CHECK_SECONDS)
