"""Redis loses writes while a user is erased: what comes back goes as well, or the erasure is incomplete and says so."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from letta_bridge.request_queue.erasure_ledger import RedisErasureLedger
from letta_bridge.request_queue.holds import Holds
from letta_bridge.request_queue.keys import Keys
from letta_bridge.settings import BridgeSettings, QueueSettings
from letta_bridge.user_data import erasure as erasure_module
from letta_bridge.user_data.erasure import UserData
from letta_bridge.user_data.lane import UserLane
from letta_bridge.user_data.queue_data import QueueUserData
from letta_bridge.user_data.redis_search import RedisSearch
from local_stack.valkey import Valkey
from shared_utils.config.settings import RedisSettings
from shared_utils.contracts.memory_keys import ERASURES
from shared_utils.persistence.erasures.log import FileErasureLog, user_hash
from shared_utils.redis.connection import RedisClient, close, connect

pytestmark = pytest.mark.integration

KEYS = Keys("letta_requests")


class Failover:
    """A place without data. When it is counted for the n-th time, Redis is what it was when this was made."""

    name = "failover"

    def __init__(self, client: Redis, at: int) -> None:
        self._client = client
        self._left = at
        self._snapshot: dict[str, Any] = {}

    async def begin(self) -> None:
        async for key in self._client.scan_iter():
            self._snapshot[key] = await self._client.dump(key)

    async def count(self, _user_id: str) -> dict[str, Any]:
        self._left -= 1
        if self._left == 0:
            await self._client.flushall()
            for key, value in self._snapshot.items():
                await self._client.restore(key, 0, value)
        return {}

    async def erase(self, _user_id: str) -> dict[str, Any]:
        return {}


@pytest.fixture
def user_data(client: RedisClient, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Builds the erasure of one queue's Redis, with a failover at the n-th count: the first is before any erasing."""
    monkeypatch.setattr(erasure_module, "_FOLLOW_PAUSE_SECONDS", 0.0)

    async def build(failover_at: Any, *, redis: Any = client) -> erasure_module.UserData:
        failover = Failover(redis, failover_at)
        await failover.begin()
        lane = UserLane(redis, QueueSettings(), patience=5)
        search = RedisSearch(redis, BridgeSettings())
        traces: Any = (QueueUserData(redis, QueueSettings()), failover)
        return UserData(traces, FileErasureLog(tmp_path / "erasures.jsonl"), lane, search)

    return build


async def marked(client: Any) -> list[bool]:
    """Whether both ledgers have the user."""
    return [await client.zscore(key, user_hash("ada")) is not None for key in (KEYS.erasures, ERASURES)]


async def test_mark_that_redis_lost_is_written_again(client: RedisClient, user_data: Callable[..., Any]) -> None:
    report = await (await user_data(2)).erase("ada")
    assert report.complete
    assert await marked(client) == [True, True]


@pytest.mark.parametrize("failover_at", [1, 2, 3])
async def test_erasure_repeats_after_a_failover_that_restored_data(
    client: Any, user_data: Callable[..., Any], failover_at: int
) -> None:
    await client.lpush(KEYS.missed("ada"), b'{"task_id":"1"}')
    await client.set(KEYS.reply("ada", "1"), b'{"user_id":"ada"}')
    data = await user_data(failover_at)
    report = await data.erase("ada")
    assert report.complete
    assert await data.search.find("ada") == []
    assert await marked(client) == [True, True]
    assert [hold.lane for hold in await Holds(client, KEYS).all()] == []


async def test_failover_after_the_last_pass_leaves_the_erasure_incomplete(
    client: RedisClient, user_data: Callable[..., Any]
) -> None:
    await client.lpush(KEYS.missed("ada"), b'{"task_id":"1"}')
    data = await user_data(0)

    class Search:
        async def find(self, user_id: str) -> list[Any]:
            found = await RedisSearch(client, BridgeSettings()).find(user_id)
            await client.zrem(ERASURES, user_hash(user_id))
            return found

    report = await erasure_module.UserData(data.stores, data.audit, data.lane, Search()).erase("ada")
    assert report.elsewhere == []
    assert not report.complete
    assert "lost writes" in report.unreachable["redis"]
    assert (await data.erase("ada")).complete


async def test_erasure_is_complete_only_when_the_replicas_of_redis_have_it(
    tmp_path: Path, user_data: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("letta_bridge.request_queue.erasure_ledger._REPLICAS_MS", 100)
    async with contextlib.AsyncExitStack() as running:
        primary = Valkey(tmp_path / "primary", options={"repl-diskless-sync-delay": "0"})
        replica = Valkey(tmp_path / "replica", options={"replicaof": f"127.0.0.1 {primary.port}"})
        for server in (primary, replica):
            running.callback(server.kill)
            server.start()
            server.wait_ready()
        client = connect(RedisSettings(url=primary.url), name="test", timeout=10)
        running.push_async_callback(close, client)
        await client.set("some", "key")
        assert await client.wait(1, 30_000) == 1
        data = await user_data(0, redis=client)
        replica.pause()
        report = await data.erase("ada")
        assert not report.complete
        assert "lags behind" in report.unreachable["redis"]
        replica.resume()
        assert await client.wait(1, 30_000) == 1
        assert (await data.erase("ada")).complete
        primary.kill()
        promoted = connect(RedisSettings(url=replica.url), name="test", timeout=10)
        running.push_async_callback(close, promoted)
        assert await RedisErasureLedger(promoted, KEYS).erased_at(user_hash("ada")) is not None
