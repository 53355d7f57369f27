"""Finds other queues on the same Redis with work and no bridge: a renamed request list leaves one behind."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import Any, Final

from redis.asyncio.cluster import RedisCluster
from redis.exceptions import ResponseError

from letta_bridge.request_queue.keys import BRIDGE_TTL_MS, Keys
from shared_utils.observability import logs
from shared_utils.redis.connection import CONNECTION_ERRORS, RedisClient
from shared_utils.text import counted

_log = logs.get(__name__)

_SCANNED_AT_ONCE: Final = 1000
_SCAN_SECONDS: Final = 20.0
"""Time limit of a scan of all keys; a million keys take about two seconds."""
_COUNTERS_SUFFIX: Final = ":counters"
"""End of the key that every queue has which a bridge has ever worked on."""


@dataclass(frozen=True, slots=True)
class LeftBehind:
    """A queue with work and without a bridge."""

    name: str
    """Of its request list."""
    in_flight: int
    """Turns that a bridge had when it ended."""
    lanes: int
    """Users whose tasks wait."""
    not_taken: int
    """Tasks that were not taken from the request list."""

    def __str__(self) -> str:
        """One sentence for the operator, with the remedy."""
        turns, users, tasks = (
            counted(self.in_flight, "turn"),
            counted(self.lanes, "user"),
            counted(self.not_taken, "task"),
        )
        return (
            f"the queue {self.name} on the same Redis has {turns} in flight, {users} waiting and {tasks} not taken, "
            f"and no bridge; if that is a former name of this queue, run a bridge with LETTA_REQUESTS={self.name} "
            "until they are done"
        )


async def left_behind(client: RedisClient, own: str) -> list[LeftBehind]:
    """Every queue but ``own`` with work and no live bridge, as far as this Redis user may read; changes nothing.

    Nodes of a Cluster that are down are left out: a bridge works without those that it does not need.

    Raises:
        RedisError, OSError: Redis is away, or forbids SCAN.
    """
    nodes: list[dict[str, Any]] = [{}]
    out_of_reach: tuple[type[Exception], ...] = ()
    if isinstance(client, RedisCluster):
        await client.initialize()
        nodes = [{"target_nodes": node} for node in client.get_primaries()]
        out_of_reach = CONNECTION_ERRORS
    names: set[str] = set()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_SCAN_SECONDS):
            for node in nodes:
                with contextlib.suppress(*out_of_reach):
                    async for key in client.scan_iter(match=f"{{*}}{_COUNTERS_SUFFIX}", count=_SCANNED_AT_ONCE, **node):
                        names.add(key.decode(errors="replace")[1 : -len(_COUNTERS_SUFFIX) - 1])
    found = []
    for name in sorted(names - {own}):
        # A key of another program that this Redis user may not read, or a key on a node that is down.
        with contextlib.suppress(ResponseError, *out_of_reach):
            if (queue := await _look(client, Keys(name))) is not None:
                found.append(queue)
    return found


async def _look(client: RedisClient, keys: Keys) -> LeftBehind | None:
    seconds, micros = await client.time()
    now_ms = seconds * 1000 + micros // 1000
    if await client.zcount(keys.bridges, now_ms - BRIDGE_TTL_MS, "+inf"):
        return None
    found = LeftBehind(
        keys.requests,
        in_flight=await client.hlen(keys.turns),
        lanes=await client.llen(keys.ready),
        not_taken=await client.llen(keys.incoming) + await client.llen(keys.requests),
    )
    return found if found.in_flight or found.lanes or found.not_taken else None


async def tell_left_behind(client: RedisClient, own: str) -> None:
    """Log the queues left behind, at a bridge's start; failures of the search are ignored."""
    with contextlib.suppress(*CONNECTION_ERRORS):
        for queue in await left_behind(client, own):
            _log.warning(
                "unserved_queue_found",
                queue=queue.name,
                in_flight=queue.in_flight,
                lanes=queue.lanes,
                not_taken=queue.not_taken,
            )
