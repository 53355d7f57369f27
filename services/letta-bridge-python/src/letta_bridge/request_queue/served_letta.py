"""Which Letta the bridges of a queue use: two would give each user two agents that know half of the conversation each.

``{Q}:letta`` holds the id of the queue's note in that Letta (tenant_claim.py), which no other Letta has. It is a lease:
every heartbeat of a bridge renews it. The last bridge to stop ends it; that of killed bridges ends by itself.
"""

from __future__ import annotations

from typing import Final, cast

from letta_bridge.request_queue.keys import BRIDGE_TTL_MS, Keys
from shared_utils.redis_connection import RedisClient

LEASE_SECONDS: Final = 90.0
"""Six heartbeats."""


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
        self._earlier: set[str] = set()
        """Ids that this bridge has held the claim with: a note that was lost and written anew has another id."""

    async def claim(self, note_id: str) -> bool:
        """Renew the claim of the Letta that has this note; False while another Letta holds it.

        Raises:
            One of ``CONNECTION_ERRORS``.
        """
        lease_ms = int(LEASE_SECONDS * 1000)
        await self._client.set(self._key, note_id, px=lease_ms, nx=True)
        kept = await served_with(self._client, self._keys)
        if kept != note_id and kept not in self._earlier:
            return False
        await self._client.set(self._key, note_id, px=lease_ms)
        self._earlier.add(note_id)
        return True

    async def release(self) -> None:
        """End the claim where this bridge holds it and no other bridge of the queue is alive.

        Another one may hold it, too, or wait for it with another Letta: then it lasts until its end.

        Raises:
            One of ``CONNECTION_ERRORS``.
        """
        kept = await served_with(self._client, self._keys)
        seconds, micros = await self._client.time()
        alive = await self._client.zrangebyscore(self._bridges, seconds * 1000 + micros // 1000 - BRIDGE_TTL_MS, "+inf")
        if kept in self._earlier and not set(alive) - {self._bridge.encode()}:
            await self._client.delete(self._key)
