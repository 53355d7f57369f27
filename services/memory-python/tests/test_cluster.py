"""The same service on a Redis Cluster: scripts keep to one slot each."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio.cluster import RedisCluster

pytestmark = pytest.mark.integration


@pytest.fixture
async def cluster(start_valkey: Any, free_port: int, tmp_path: Path) -> AsyncIterator[RedisCluster]:
    """One node that owns every slot; it refuses what crosses slots as a large cluster does."""
    # The bus port of its own: the default, 10 000 above the port, may not exist.
    server = start_valkey(tmp_path, "--cluster-enabled", "yes", "--cluster-port", str(free_port))
    server.ask("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
    async with asyncio.timeout(20):
        while b"cluster_state:ok" not in server.ask("CLUSTER", "INFO"):  # nobody tells
            await asyncio.sleep(0.05)
    async with RedisCluster.from_url(server.url) as client:
        yield client


async def test_stores_answers_adopts_counts_and_gives_back(
    *, cluster: RedisCluster, run_service: Any, eventually: Any, handover: Any
) -> None:
    dead = {"task_id": "d", "user_id": "bob", "content": "of a dead instance"}
    await cluster.hset("memory:{user_input_queue}:processing:dead", "0000000000000001-0001-dead", json.dumps(dead))
    await cluster.zadd("memory:{user_input_queue}:instances", {"dead": 1})
    (node,) = cluster.get_primaries()
    async with run_service(url=f"redis+cluster://127.0.0.1:{node.port}"):
        given = handover("t1")
        for number, user in enumerate(("ann", "te{a}m", "odd}")):
            meta = {"letta_bridge": given} if user == "ann" else {}
            task = {"task_id": f"t{number}", "user_id": user, "content": "hello", "meta": meta}
            await cluster.lpush("user_input_queue", json.dumps({**task, "task_id": "t1"} if meta else task))

        async def all_done() -> bool:
            lengths = [await cluster.llen(f"memory:user_sessions:{user}") for user in ("ann", "te{a}m", "bob", "odd}")]
            return lengths == [1, 1, 1, 0] and await cluster.llen("memory:{user_input_queue}:dead") == 1

        await eventually(all_done)
        assert json.loads(await cluster.get(given["answer_key"]) or "")["source"] == "memory-python"
        await eventually(lambda: cluster.exists("memory:survey"))
    assert await cluster.llen("memory:global_context") == 4
    assert await cluster.zcard("memory:{user_input_queue}:instances") == 0
