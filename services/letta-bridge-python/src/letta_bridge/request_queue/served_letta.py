"""The claim of one Letta on a queue: two Lettas would give each user two agents, each with half of the conversation.

``{Q}:letta`` holds the id of the queue's note in that Letta (agents/tenant_claim.py), which no other Letta has. It is a
lease: every heartbeat of a bridge renews it. The last bridge that stops ends it; after a kill it expires.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import Final, cast

from letta_bridge.request_queue.keys import BRIDGE_TTL_MS, Keys
from shared_utils.redis.connection import RedisClient

LEASE_SECONDS: Final = 90.0
"""Six heartbeats."""
_LEASE_MS: Final = int(LEASE_SECONDS * 1000)


async def served_with(client: RedisClient, keys: Keys) -> str | None:
    """The id of the note of the Letta that the queue is served with; None where no bridge claims it.

    Raises:
        One of ``CONNECTION_ERRORS``.
    """
    kept = cast("bytes | None", await client.get(keys.letta))
    return kept.decode(errors="replace") if kept else None


class ServedLetta:
    """The claim of one Letta on one queue, as the bridge of this name sees it."""

    def __init__(self, client: RedisClient, keys: Keys, bridge: str) -> None:
        self._client = client
        self._keys = keys
        self._key = keys.letta
        self._bridges = keys.bridges
        self._bridge = bridge
        self._held: str | None = None
        """The id this bridge holds the claim with."""
        self._others_until = 0.0
        """When the claim of another Letta ends, as it was when this bridge was refused last; monotonic clock."""
        self._lost: set[str] = set()
        """Ids it held the claim with before: a note that was lost and written anew has another id."""

    async def claim(self, note_id: str) -> bool:
        """Renew the claim of the Letta that has this note; False while another Letta holds it.

        A lost note never reappears while bridges hold the claim with its successor; if it does, it belongs to another
        Letta behind the same address. If the claim of another Letta disappears before its end, Redis lost it, and that
        Letta's bridges renew it within a heartbeat.

        Raises:
            One of ``CONNECTION_ERRORS``.
        """
        served = await served_with(self._client, self._keys)
        if (note_id in self._lost) if served is not None else (time.monotonic() < self._others_until):
            return False
        if not await self._renew(note_id, {note_id, self._held, *self._lost}):
            left_ms = await self._client.pttl(self._key)
            self._others_until = time.monotonic() + max(0, left_ms) / 1000
            return False
        if self._held is not None and self._held != note_id:
            self._lost.add(self._held)
        self._held = note_id
        self._lost.discard(note_id)
        return True

    async def keep(self) -> None:
        """Renew the claim that this bridge holds, while Letta is unavailable.

        Raises:
            One of ``CONNECTION_ERRORS``.
        """
        if self._held is not None:
            await self._renew(self._held, {self._held})

    async def _renew(self, note_id: str, replaces: Collection[str | None]) -> bool:
        """Take the claim for this note if it is free, or held by a note that this one replaces."""
        await self._client.set(self._key, note_id, px=_LEASE_MS, nx=True)
        if await served_with(self._client, self._keys) not in replaces:
            return False
        await self._client.set(self._key, note_id, px=_LEASE_MS)
        return True

    async def release(self) -> None:
        """End the claim if this bridge holds it and no other bridge of the queue is alive.

        If another bridge is alive, with this or another Letta, the claim lasts until it expires.

        Raises:
            One of ``CONNECTION_ERRORS``.
        """
        kept = await served_with(self._client, self._keys)
        seconds, micros = await self._client.time()
        alive = await self._client.zrangebyscore(self._bridges, seconds * 1000 + micros // 1000 - BRIDGE_TTL_MS, "+inf")
        if kept is not None and kept in {self._held, *self._lost} and not set(alive) - {self._bridge.encode()}:
            await self._client.delete(self._key)
