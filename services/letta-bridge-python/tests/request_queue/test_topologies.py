"""The queue on a Cluster, and through a Sentinel failover."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from letta_bridge.request_queue import Outcome, RedisQueue, Settlement
from letta_bridge.request_queue.journal_backlog import RedisJournalBacklog
from letta_bridge.request_queue.keys import Keys
from letta_bridge.settings import BridgeSettings, FallbackSettings, QueueSettings
from letta_bridge.turn.fallback import MemoryPython
from letta_bridge.user_data.lane import UserLane
from letta_bridge.user_data.queue_data import QueueUserData
from letta_bridge.user_data.redis_search import RedisSearch
from letta_bridge.user_data.short_term_data import ShortTermUserData
from local_stack.ports import free_port
from local_stack.valkey import Sentinel, Valkey
from shared_utils.config.settings import RedisSettings
from shared_utils.contracts.messages import Task
from shared_utils.redis.connection import CONNECTION_ERRORS, close, connect

pytestmark = pytest.mark.integration


@pytest.fixture
def start() -> Iterator[Callable[..., Any]]:
    with contextlib.ExitStack() as running:

        def start_process(process: Sentinel | Valkey) -> Sentinel | Valkey:
            process.start()
            running.callback(process.kill)
            process.wait_ready()
            return process

        yield start_process


@pytest.fixture
async def queue_at() -> AsyncIterator[Callable[..., Any]]:
    async with contextlib.AsyncExitStack() as open_queues:

        def make(url: str) -> RedisQueue:
            redis = RedisSettings(url=url)
            queue = RedisQueue(connect(redis, name="a"), connect(redis, name="a"), QueueSettings(), "a")
            open_queues.push_async_callback(queue.close)
            return queue

        yield make


@pytest.fixture
async def cluster(start: Callable[..., Any], tmp_path: Path) -> str:
    # The cluster's own port is the server's plus 10 000 where nobody says otherwise, which may be too high.
    options = {"cluster-enabled": "yes", "cluster-port": str(free_port()), "appendonly": "no"}
    server = start(Valkey(tmp_path / "node", options=options))
    with Redis(host="127.0.0.1", port=server.port) as node:
        node.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        async with asyncio.timeout(20):
            while b"cluster_state:ok" not in node.execute_command("CLUSTER", "INFO", NEVER_DECODE=True):
                await asyncio.sleep(0.02)
    return f"redis+cluster://127.0.0.1:{server.port}"


async def test_every_call_of_the_queue_works_on_a_cluster(
    cluster: str, queue_at: Callable[..., Any], lose_answer: Callable[..., Any]
) -> None:
    queue = queue_at(cluster)
    client = connect(RedisSettings(url=cluster), name="producer")
    for number in range(3):
        await client.lpush("letta_requests", json.dumps({"user_id": f"u{number}", "task_id": str(number)}))
    kept, *others = await queue.wait_and_fetch(2, 0.05)
    lose_answer(queue.waits, others)
    assert await queue.release_orphans({kept.receipt}, from_idle=True) == len(others) == 1
    assert await queue.renew([kept.receipt]) == set()
    end = Settlement(
        kept.receipt, Outcome.LETTA, user_id="u0", task_id="0", reply=b"{}", missed=(b"{}",), journal=b"{}"
    )
    fetched = await queue.settle_and_fetch([end], 5)
    assert (fetched.settled, len(fetched.turns)) == ([True], 2)
    assert await queue.missed("u0") == [b"{}"]
    backlog = RedisJournalBacklog(client, queue.keys, "a")
    (entry,) = (await backlog.take([], 10)).entries
    assert [waiting async for waiting in backlog.entries()] == [entry]
    await backlog.leave([entry.id])
    status = await queue.status()
    assert status.unjournalled == 0
    assert (status.in_flight, status.counters["taken"]) == (2, 3)
    await client.aclose()


async def test_a_turn_is_handed_over_on_a_cluster(cluster: str, queue_at: Callable[..., Any]) -> None:
    keys = queue_at(cluster).keys
    redis = RedisSettings(url=cluster)
    fallback = MemoryPython(
        connect(redis, name="a"), connect(redis, name="b"), keys, FallbackSettings(timeout_seconds=20), QueueSettings()
    )
    client = connect(redis, name="memory")
    answering = asyncio.create_task(
        fallback.answer(Task(task_id="t1", user_id="ada", content="你好"), "1-1", "test", seconds=60)
    )
    async with asyncio.timeout(20):
        while not await client.llen("user_input_queue"):
            await asyncio.sleep(0.01)
    reply = {"task_id": "t1", "user_id": "ada", "response_text": "在", "memory_updated": False}
    await client.set(keys.fallback("1-1"), json.dumps({**reply, "source": "memory-python", "timestamp": 1.0}), nx=True)
    assert (await asyncio.wait_for(answering, 20)).text == "在"
    await fallback.close()
    await client.aclose()


async def test_a_user_is_erased_on_a_cluster(cluster: str, queue_at: Callable[..., Any]) -> None:
    queue = queue_at(cluster)
    client = connect(RedisSettings(url=cluster), name="erasure")
    lane = UserLane(client, QueueSettings(), patience=1)
    traces: list[Any] = [QueueUserData(client, QueueSettings()), ShortTermUserData(client, "user_input_queue")]
    for user in ("ada", "bob"):
        for number in range(2):
            await client.lpush("letta_requests", json.dumps({"user_id": user, "task_id": f"{user}-{number}"}))
        await client.lpush("user_input_queue", json.dumps({"user_id": user, "content": "x"}))
        await client.lpush(f"memory:user_sessions:{user}", json.dumps({"user_id": user, "content": "x"}))
    for turn in (await queue.settle_and_fetch([], 2)).turns:
        reply = json.dumps({"user_id": turn.lane, "response_text": "x"}).encode()
        end = Settlement(turn.receipt, Outcome.LETTA, user_id=turn.lane, task_id="t", reply=reply, missed=(b"{}",))
        await queue.settle_and_fetch([end], 0)
    search = RedisSearch(client, BridgeSettings())
    assert len(await search.find("ada")) >= 4
    async with lane.held("ada"):
        assert [turn.lane for turn in (await queue.settle_and_fetch([], 5)).turns] == ["bob"]
        assert await lane.quiet("ada") == 1
        marked = await lane.mark("ada")
        for trace in traces:
            await trace.erase("ada")
        assert await search.find("ada") == []
        assert await lane.lasts("ada", marked)
        assert not await lane.lasts("bob", marked)
    assert await lane.behind(marked) == ["a"]
    assert {sum((await trace.count("ada")).values()) for trace in traces} == {0}
    assert len(await search.find("bob")) >= 4
    await client.aclose()


@pytest.fixture
async def cluster_with_a_replica(start: Callable[..., Any], tmp_path: Path) -> tuple[str, Valkey]:
    """URL of a Cluster, and the primary of the request list, whose replica takes over when it dies."""
    options = {"cluster-enabled": "yes", "appendonly": "no", "cluster-node-timeout": "1000"}
    options |= {"cluster-replica-validity-factor": "0", "cluster-require-full-coverage": "no"}
    nodes = [
        start(Valkey(tmp_path / f"node{number}", options=options | {"cluster-port": str(free_port())}))
        for number in range(4)
    ]
    with contextlib.ExitStack() as clients:
        asked = [clients.enter_context(Redis(host="127.0.0.1", port=node.port)) for node in nodes]
        slot = asked[0].execute_command("CLUSTER", "KEYSLOT", "letta_requests")
        asked[0].execute_command("CLUSTER", "ADDSLOTSRANGE", slot, slot)
        asked[1].execute_command("CLUSTER", "ADDSLOTSRANGE", 0, slot - 1)
        asked[2].execute_command("CLUSTER", "ADDSLOTSRANGE", slot + 1, 16383)
        for node, client in zip(nodes[1:], asked[1:], strict=True):
            bus = client.config_get("cluster-port")["cluster-port"]
            asked[0].execute_command("CLUSTER", "MEET", "127.0.0.1", node.port, bus)
        async with asyncio.timeout(40):
            while any(client.cluster("INFO")["cluster_known_nodes"] != "4" for client in asked):
                await asyncio.sleep(0.05)
            primary = asked[0].execute_command("CLUSTER", "MYID").decode()
            asked[3].execute_command("CLUSTER", "REPLICATE", primary)
            while asked[3].info("replication").get("master_link_status") != "up":
                await asyncio.sleep(0.05)
            while any(client.cluster("INFO")["cluster_slots_assigned"] != "16384" for client in asked):
                await asyncio.sleep(0.05)
    return "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in nodes[:3]), nodes[0]


async def test_foreign_answer_is_received_after_a_cluster_failover(
    cluster_with_a_replica: tuple[str, Valkey],
) -> None:
    url, primary = cluster_with_a_replica
    redis = RedisSettings(url=url)
    fallback = MemoryPython(
        connect(redis, name="a"),
        connect(redis, name="b"),
        Keys("letta_requests"),
        FallbackSettings(timeout_seconds=60),
        QueueSettings(),
    )
    client = connect(redis, name="chat-ai")

    async def asked_and_answered(number: str) -> str:
        task = Task(task_id=number, content="hi")
        answering = asyncio.create_task(fallback.answer(task, number, "test", seconds=60))
        channel = f"task_response:{await fallback._handed_id(task, number)}"
        async with asyncio.timeout(60):
            while not answering.done():
                with contextlib.suppress(*CONNECTION_ERRORS):
                    await client.publish(channel, json.dumps({"text": f"answer {number}"}))
                await asyncio.sleep(0.2)
        return (await answering).text

    assert await asked_and_answered("1-1") == "answer 1-1"
    primary.kill()
    assert await asked_and_answered("2-1") == "answer 2-1"
    await fallback.close()
    await close(client)


async def test_the_queue_follows_a_failover(
    start: Callable[..., Any], tmp_path: Path, queue_at: Callable[..., Any]
) -> None:
    primary = start(Valkey(tmp_path / "primary"))
    replica = start(Valkey(tmp_path / "replica", options={"replicaof": f"127.0.0.1 {primary.port}"}))
    queue = queue_at(start(Sentinel(tmp_path / "sentinel", primary)).url)
    with Redis(host="127.0.0.1", port=primary.port) as client:
        client.lpush("letta_requests", b'{"user_id":"ada","task_id":"1"}', b'{"user_id":"ada","task_id":"2"}')
        (turn,) = (await queue.settle_and_fetch([], 1)).turns
        assert client.wait(1, 10_000) == 1
    primary.kill()
    end = Settlement(turn.receipt, Outcome.LETTA, user_id="ada", task_id="1", reply=b"{}")
    async with asyncio.timeout(60):
        while True:
            try:
                fetched = await queue.settle_and_fetch([end], 1)
                break
            except CONNECTION_ERRORS:
                await asyncio.sleep(0.1)
    assert fetched.settled == [True]
    assert [json.loads(turn.payload)["task_id"] for turn in fetched.turns] == ["2"]
    assert replica.running
