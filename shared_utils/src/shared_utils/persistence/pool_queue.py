"""Many questions at once wait here for a connection; the pool would turn some of them away."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from shared_utils.persistence.database import Database
from shared_utils.persistence.errors import PoolExhausted

_Result = TypeVar("_Result")


class PoolQueue:
    """The questions of one store to a database that others ask as well."""

    def __init__(self, database: Database) -> None:
        self._patience = database.config.connection_timeout
        self._room = asyncio.Semaphore(database.config.max_connections)
        self._answered = 0.0

    async def ask(self, question: Callable[[], Awaitable[_Result]]) -> _Result:
        """What the question comes to.

        Raises:
            PoolExhausted: every connection is in use, and nobody has been answered for long.
            PersistenceError: any other of errors.py.
        """
        async with self._room:
            asked = time.monotonic()
            while True:
                try:
                    result = await question()
                except PoolExhausted:
                    # Busy or away? While others are answered it is busy, and that passes.
                    if time.monotonic() - max(asked, self._answered) > self._patience:
                        raise
                    continue
                self._answered = time.monotonic()
                return result
