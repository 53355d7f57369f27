"""The queue on a Cluster, and through a Sentinel failover."""

from __future__ import annotations

import asyncio
import contextlib
import json

import pytest
from redis import Redis

from letta_bridge.fallback import MemoryPython
from letta_bridge.request_queue import Outcome, RedisQueue, Settlement
from letta_bridge.request_queue.journal_backlog import RedisJournalBacklog
from letta_bridge.settings import FallbackSettings, QueueSettings
from local_stack.ports import free_port
from local_stack.valkey import Sentinel, Valkey
from shared_utils.messages import Task
from shared_utils.redis_connection import CONNECTION_ERRORS, connect
from shared_utils.settings import RedisSettings

pytestmark = pytest.mark.integration


@pytest.fixture
def start():
    with contextlib.ExitStack() as running:

        def start_process(process):
            process.start()
            running.callback(process.kill)
            process.wait_ready()
            return process

        yield start_process


@pytest.fixture
async def queue_at():
    async with contextlib.AsyncExitStack() as open_queues:

        def make(url):
            redis = RedisSettings(url=url)
            queue = RedisQueue(connect(redis, name="a"), connect(redis, name="a"), QueueSettings(), "a")
            open_queues.push_async_callback(queue.close)
            return queue

        yield make


@pytest.fixture
async def cluster(start, tmp_path):
    # The cluster's own port is the server's plus 10 000 where nobody says otherwise, which may be too high.
    options = {"cluster-enabled": "yes", "cluster-port": str(free_port()), "appendonly": "no"}
    server = start(Valkey(tmp_path / "node", options=options))
    with Redis(host="127.0.0.1", port=server.port) as node:
        node.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        async with asyncio.timeout(20):
            while b"cluster_state:ok" not in node.execute_command("CLUSTER", "INFO", NEVER_DECODE=True):
                await asyncio.sleep(0.02)
    return f"redis+cluster://127.0.0.1:{server.port}"


async def test_every_call_of_the_queue_works_on_a_cluster(cluster, queue_at, lose_answer):
    queue = queue_at(cluster)
    client = connect(RedisSettings(url=cluster), name="producer")
    for number in range(3):
        await client.lpush("letta_requests", json.dumps({"user_id": f"u{number}", "task_id": str(number)}))
    kept, *others = await queue.take(2, 0.05)
    lose_answer(queue.waits, others)
    assert await queue.release_strays({kept.receipt}, waited=True) == len(others) == 1
    assert await queue.renew([kept.receipt]) == set()
    end = Settlement(kept.receipt, Outcome.LETTA, user_id="u0", task_id="0", reply=b"{}", missed=b"{}", journal=b"{}")
    exchange = await queue.exchange([end], 5)
    assert (exchange.settled, len(exchange.turns)) == ([True], 2)
    assert await queue.missed("u0") == [b"{}"]
    backlog = RedisJournalBacklog(client, queue.keys, "a")
    (entry,) = (await backlog.take([], 10)).entries
    assert [waiting async for waiting in backlog.entries()] == [entry]
    await backlog.leave([entry.id])
    status = await queue.status()
    assert status.unjournalled == 0
    assert (status.in_flight, status.counters["taken"]) == (2, 3)
    await client.aclose()


async def test_a_turn_is_handed_over_on_a_cluster(cluster, queue_at):
    keys = queue_at(cluster).keys
    redis = RedisSettings(url=cluster)
    fallback = MemoryPython(
        connect(redis, name="a"), connect(redis, name="b"), keys, FallbackSettings(timeout=20), QueueSettings()
    )
    client = connect(redis, name="memory")
    answering = asyncio.create_task(fallback.answer(Task(task_id="t1", user_id="ada", content="你好"), "1-1", "test"))
    async with asyncio.timeout(20):
        while not await client.llen("user_input_queue"):
            await asyncio.sleep(0.01)
    reply = {"task_id": "t1", "user_id": "ada", "response_text": "在", "memory_updated": False}
    await client.set(keys.fallback("1-1"), json.dumps({**reply, "source": "memory-python", "timestamp": 1.0}), nx=True)
    assert (await asyncio.wait_for(answering, 20)).text == "在"
    await fallback.close()
    await client.aclose()


async def test_the_queue_follows_a_failover(start, tmp_path, queue_at):
    primary = start(Valkey(tmp_path / "primary"))
    replica = start(Valkey(tmp_path / "replica", options={"replicaof": f"127.0.0.1 {primary.port}"}))
    queue = queue_at(start(Sentinel(tmp_path / "sentinel", primary)).url)
    with Redis(host="127.0.0.1", port=primary.port) as client:
        client.lpush("letta_requests", b'{"user_id":"ada","task_id":"1"}', b'{"user_id":"ada","task_id":"2"}')
        (turn,) = (await queue.exchange([], 1)).turns
        assert client.wait(1, 10_000) == 1
    primary.kill()
    end = Settlement(turn.receipt, Outcome.LETTA, user_id="ada", task_id="1", reply=b"{}")
    async with asyncio.timeout(60):
        while True:
            try:
                exchange = await queue.exchange([end], 1)
                break
            except CONNECTION_ERRORS:
                await asyncio.sleep(0.1)
    assert exchange.settled == [True]
    assert [json.loads(turn.payload)["task_id"] for turn in exchange.turns] == ["2"]
    assert replica.running
