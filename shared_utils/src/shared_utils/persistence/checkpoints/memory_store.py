"""Checkpoints in memory: for tests."""

from __future__ import annotations

from shared_utils.persistence.checkpoints.base_store import StoredCheckpoints
from shared_utils.persistence.checkpoints.sqlite_transactions import SqliteTransactions


class InMemoryCheckpoints(StoredCheckpoints):
    """Checkpoints that are forgotten when this is closed.

    Args:
        limits: see :class:`StoredCheckpoints`.
    """

    def __init__(self, **limits: int) -> None:
        super().__init__(SqliteTransactions(None), **limits)
