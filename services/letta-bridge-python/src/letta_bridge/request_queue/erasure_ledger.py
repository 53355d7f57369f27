"""Who was erased lately, for bridges that keep something of users in files of their own.

A user stands there as the SHA-256 of the id, with the time and not a word. An erasure writes it; a bridge reads it when
it starts and every few seconds, and says how far it has followed. What is older than :data:`KEPT_DAYS` is forgotten.
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
"""For which a replica that lags behind is waited for."""
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
        """Names this erasure: a user who is erased again has another."""
        return f"{self.user_hash}:{self.at_ms}"


class RedisErasureLedger:
    """The ledger of one queue. Every method may raise one of ``CONNECTION_ERRORS``."""

    def __init__(self, client: RedisClient, keys: Keys, *, key: str | None = None) -> None:
        """``key``: another ledger's, kept the same way; by default the bridges'."""
        self._client = client
        self._keys = keys
        self._key = key or keys.erasures

    async def write(self, user_hash: str, at_ms: int) -> None:
        """Note that this user was erased then; bounds what is kept."""
        await self._client.zadd(self._key, {user_hash: at_ms})
        await self._client.zremrangebyscore(self._key, "-inf", at_ms - KEPT_DAYS * _DAY_MS)
        await self._client.zremrangebyrank(self._key, 0, -MAX_KEPT - 1)

    async def since(self, at_ms: int) -> list[LedgerEntry]:
        """The erasures from then on, oldest first."""
        rows = await self._client.zrange(self._key, at_ms, "+inf", byscore=True, withscores=True)
        found = cast("list[tuple[bytes, float]]", rows)
        return [LedgerEntry(user_hash.decode(), int(score)) for user_hash, score in found]

    async def erased_at(self, user_hash: str) -> int | None:
        """When this user was erased last, ms; None where that is not known."""
        score = await self._client.zscore(self._key, user_hash)
        return None if score is None else int(score)

    async def lasts(self, user_hash: str, at_ms: int) -> bool:
        """Whether the note of this erasure still stands, and every connected replica has what was written up to now.

        Waits for replicas up to :data:`_REPLICAS_MS`. Where Redis does not tell how many there are (a Cluster, or an
        account without the right), the note alone counts.
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
        """How many replicas are connected; 0 where that is not told."""
        if isinstance(self._client, RedisCluster):
            return 0
        try:
            told = await self._client.info(section="replication")
        except ResponseError:
            return 0
        return int(told.get("connected_slaves", 0))

    async def follow(self, bridge: str, at_ms: int) -> None:
        """Say that a bridge has followed all erasures up to then; forgets bridges that are gone."""
        await self._client.zadd(self._keys.erasures_followed, {bridge: at_ms})
        known = cast("list[bytes]", await self._client.zrange(self._keys.erasures_followed, 0, -1))
        gone = set(known) - set(cast("list[bytes]", await self._client.zrange(self._keys.bridges, 0, -1)))
        if gone - {bridge.encode()}:
            await self._client.zrem(self._keys.erasures_followed, *(gone - {bridge.encode()}))

    async def behind(self, at_ms: int) -> list[str]:
        """Live bridges that have not followed an erasure of that time yet."""
        now_ms = await self.now_ms()
        live = await self._client.zrange(self._keys.bridges, now_ms - _ALIVE_MS, "+inf", byscore=True)
        followed = await self._client.zrange(self._keys.erasures_followed, at_ms, "+inf", byscore=True)
        return sorted(name.decode() for name in set(cast("list[bytes]", live)) - set(cast("list[bytes]", followed)))

    async def now_ms(self) -> int:
        """Ms of the Redis server's clock."""
        seconds, micros = await self._client.time()
        return int(seconds) * 1000 + int(micros) // 1000
