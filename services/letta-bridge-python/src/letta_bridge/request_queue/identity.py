"""A random id of the queue: the same for all its bridges, and different from every other queue in any Redis."""

from __future__ import annotations

import secrets
from typing import cast

from letta_bridge.request_queue.keys import Keys
from shared_utils.redis.connection import RedisClient


class QueueIdentity:
    """Reads the id from Redis, and restores it from this process after Redis has lost it."""

    def __init__(self, client: RedisClient, keys: Keys) -> None:
        self._client = client
        self._key = keys.identity
        self._known = secrets.token_hex(16)

    async def __call__(self) -> str:
        """Return the id, 32 hex digits. Raises one of ``CONNECTION_ERRORS``."""
        await self._client.set(self._key, self._known, nx=True)
        self._known = await self.kept() or self._known
        return self._known

    async def kept(self) -> str | None:
        """Return the id; None where no bridge has served the queue. Changes nothing."""
        kept = cast("bytes | None", await self._client.get(self._key))
        return kept.decode(errors="replace") if kept else None
