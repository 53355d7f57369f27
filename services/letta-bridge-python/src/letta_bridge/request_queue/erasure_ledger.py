"""The ledger of recent erasures, for bridges that keep data of users in local files.

An entry contains the SHA-256 of a user's id and a time, no text. Erasures write it; a bridge reads it at its start and
every few seconds, and records how far it has followed. Entries older than :data:`KEPT_DAYS` are dropped.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, cast

from redis.asyncio import RedisCluster
from redis.exceptions import ResponseError

from letta_bridge.request_queue.keys import Keys
from shared_utils.redis.connection import RedisClient

KEPT_DAYS: Final = 400
MAX_KEPT: Final = 100_000
_ALIVE_MS: Final = 15_000
_REPLICAS_MS: Final = 2_000
"""How long to wait for a lagging replica."""
_DAY_MS: Final = 86_400_000


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """One user's latest erasure."""

    user_hash: str
    """Hex SHA-256 of the user's id."""
    at_ms: int
    """Ms of the Redis server's clock."""

    @property
    def id(self) -> str:
        """Identifies this erasure; another erasure of the same user has another id."""
        return f"{self.user_hash}:{self.at_ms}"


class RedisErasureLedger:
    """The ledger of one queue. Every method may raise one of ``CONNECTION_ERRORS``."""

    def __init__(self, client: RedisClient, keys: Keys, *, key: str | None = None) -> None:
        """``key``: of another ledger of the same form; by default that of the bridges."""
        self._client = client
        self._keys = keys
        self._key = key or keys.erasures

    async def write(self, user_hash: str, at_ms: int) -> None:
        """Record the erasure of a user, and drop entries beyond the limits."""
        await self._client.zadd(self._key, {user_hash: at_ms})
        await self._client.zremrangebyscore(self._key, "-inf", at_ms - KEPT_DAYS * _DAY_MS)
        await self._client.zremrangebyrank(self._key, 0, -MAX_KEPT - 1)

    async def since(self, at_ms: int) -> list[LedgerEntry]:
        """The erasures since a time, oldest first."""
        rows = await self._client.zrange(self._key, at_ms, "+inf", byscore=True, withscores=True)
        found = cast("list[tuple[bytes, float]]", rows)
        return [LedgerEntry(user_hash.decode(), int(score)) for user_hash, score in found]

    async def erased_at(self, user_hash: str) -> int | None:
        """The time of this user's last erasure, ms; None if there is no entry."""
        score = await self._client.zscore(self._key, user_hash)
        return None if score is None else int(score)

    async def lasts(self, user_hash: str, at_ms: int) -> bool:
        """Whether the entry of this erasure still exists, and every connected replica has all writes up to now.

        Waits for replicas up to :data:`_REPLICAS_MS`. If their number is unknown (a Cluster, or an account without the
        right), only the entry counts.
        """
        replicas = await self._replicas()
        async with self._client.pipeline(transaction=False) as pipeline:
            pipeline.zscore(self._key, user_hash)
            if replicas:
                # It waits for all that the server had written before the command in front of it on this connection.
                pipeline.execute_command("WAIT", replicas, _REPLICAS_MS)
            score, *reached = await pipeline.execute()
        return score is not None and int(score) >= at_ms and all(count >= replicas for count in reached)

    async def _replicas(self) -> int:
        """How many replicas are connected; 0 if unknown."""
        if isinstance(self._client, RedisCluster):
            return 0
        try:
            told = await self._client.info(section="replication")
        except ResponseError:
            return 0
        return int(told.get("connected_slaves", 0))

    async def follow(self, bridge: str, at_ms: int) -> None:
        """Record that a bridge has followed all erasures up to a time; drops bridges that are gone."""
        await self._client.zadd(self._keys.erasures_followed, {bridge: at_ms})
        known = cast("list[bytes]", await self._client.zrange(self._keys.erasures_followed, 0, -1))
        gone = set(known) - set(cast("list[bytes]", await self._client.zrange(self._keys.bridges, 0, -1)))
        if gone - {bridge.encode()}:
            await self._client.zrem(self._keys.erasures_followed, *(gone - {bridge.encode()}))

    async def behind(self, at_ms: int) -> list[str]:
        """Live bridges that have not followed an erasure of this time yet."""
        now_ms = await self.now_ms()
        live = await self._client.zrange(self._keys.bridges, now_ms - _ALIVE_MS, "+inf", byscore=True)
        followed = await self._client.zrange(self._keys.erasures_followed, at_ms, "+inf", byscore=True)
        return sorted(name.decode() for name in set(cast("list[bytes]", live)) - set(cast("list[bytes]", followed)))

    async def now_ms(self) -> int:
        """Ms of the Redis server's clock."""
        seconds, micros = await self._client.time()
        return int(seconds) * 1000 + int(micros) // 1000
