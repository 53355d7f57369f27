"""Queues the queries of one store for the connection pool, which would reject some of them under load."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from shared_utils.persistence.database.database import Database
from shared_utils.persistence.errors import PoolExhausted

_Result = TypeVar("_Result")


class PoolQueue:
    """Limits the concurrent queries of one store, and retries while the pool is exhausted by others."""

    def __init__(self, database: Database) -> None:
        self._timeout = database.config.connection_timeout
        self._slots = asyncio.Semaphore(database.config.max_connections)
        self._finished = 0.0

    async def run(self, query: Callable[[], Awaitable[_Result]]) -> _Result:
        """Return the query's result.

        Raises:
            PoolExhausted: every connection is in use, and no query of this store finished in ``connection_timeout``.
            PersistenceError: any other error of the query.
        """
        async with self._slots:
            started = time.monotonic()
            while True:
                try:
                    result = await query()
                except PoolExhausted:
                    # While other queries of this store finish, the database is busy rather than unreachable.
                    if time.monotonic() - max(started, self._finished) > self._timeout:
                        raise
                    continue
                self._finished = time.monotonic()
                return result
