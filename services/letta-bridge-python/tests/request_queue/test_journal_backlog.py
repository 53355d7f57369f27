"""One suite, two queues: answered turns wait for the journal until it has written them."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest

from letta_bridge.request_queue import Outcome, RedisQueue, Settlement
from letta_bridge.request_queue.journal_backlog import WRITER_LEASE_SECONDS, RedisJournalBacklog
from letta_bridge.settings import QueueSettings
from letta_bridge.testing.journal_backlog import InMemoryJournalBacklog
from letta_bridge.testing.queue_state import InMemoryQueueState
from letta_bridge.testing.request_queue import InMemoryQueue
from shared_utils.config.settings import RedisSettings
from shared_utils.redis.connection import connect


class InMemoryRig:
    def __init__(self, settings: QueueSettings) -> None:
        self.time = 1_000.0
        self.shelf = InMemoryQueueState(clock=lambda: self.time)
        self.queue = InMemoryQueue(self.shelf, settings, "a")

    def backlog(self, bridge: str) -> InMemoryJournalBacklog:
        return InMemoryJournalBacklog(self.shelf, bridge)

    async def push(self, payload: bytes) -> None:
        self.shelf.push(payload)

    async def expire_lease(self) -> None:
        self.time += WRITER_LEASE_SECONDS + 1

    async def close(self) -> None:
        pass


class RedisRig:
    def __init__(self, settings: QueueSettings, url: str) -> None:
        redis = RedisSettings(url=url)
        self.client = connect(redis, name="rig")
        self.settings = settings
        self.queue = RedisQueue(connect(redis, name="a"), connect(redis, name="a"), settings, "a")

    def backlog(self, bridge: str) -> RedisJournalBacklog:
        return RedisJournalBacklog(self.client, self.queue.keys, bridge)

    async def push(self, payload: bytes) -> None:
        await self.client.lpush(self.settings.requests, payload)

    async def expire_lease(self) -> None:
        assert 0 < await self.client.pttl(self.queue.keys.journal_writer) <= WRITER_LEASE_SECONDS * 1000
        await self.client.delete(self.queue.keys.journal_writer)

    async def close(self) -> None:
        await self.queue.close()
        await self.client.aclose()


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.integration)])
async def rig(request: pytest.FixtureRequest) -> AsyncIterator[Any]:
    settings = QueueSettings(requests=f"q-{uuid.uuid4().hex[:8]}")
    rig = (
        InMemoryRig(settings) if request.param == "memory" else RedisRig(settings, request.getfixturevalue("redis_url"))
    )
    yield rig
    await rig.close()


async def settled(rig: InMemoryRig | RedisRig, *names: str, **fields: Any) -> None:
    """Tasks of one user, answered one after the other."""
    for name in names:
        await rig.push(json.dumps({"task_id": name, "user_id": "ada"}).encode())
    for name in names:
        (turn,) = (await rig.queue.settle_and_fetch([], 1)).turns
        reply = f'"{name}"'.encode()
        end = Settlement(turn.receipt, Outcome.LETTA, user_id="ada", task_id=name, reply=reply)
        end = Settlement(**{field: getattr(end, field) for field in end.__slots__} | {"journal": reply} | fields)
        assert (await rig.queue.settle_and_fetch([end], 0)).settled == [True]
        assert (await rig.queue.settle_and_fetch([end], 0)).settled == [False]


async def test_turns_wait_in_the_order_they_were_settled_each_once(rig: InMemoryRig | RedisRig) -> None:
    await settled(rig, "1", "2", "3")
    batch = await rig.backlog("a").take([], 10)
    assert (batch.mine, batch.waiting, batch.dropped) == (True, 3, 0)
    assert [(entry.turn, entry.reply) for entry in batch.entries] == [
        (b'"1"', b'"1"'),
        (b'"2"', b'"2"'),
        (b'"3"', b'"3"'),
    ]
    places = [tuple(map(int, entry.id.split("-"))) for entry in batch.entries]
    assert places == sorted(set(places))
    assert (await rig.queue.status()).unjournalled == 3


async def test_a_turn_without_a_record_is_not_kept(rig: InMemoryRig | RedisRig) -> None:
    await settled(rig, "1", journal=None)
    assert (await rig.backlog("a").take([], 10)).waiting == 0


async def test_backlog_returns_entries_again_until_they_are_written(rig: InMemoryRig | RedisRig) -> None:
    await settled(rig, "1", "2", "3")
    backlog = rig.backlog("a")
    first = (await backlog.take([], 2)).entries
    assert (await backlog.take([], 2)).entries == first
    batch = await backlog.take([entry.id for entry in first], 2)
    assert ([entry.turn for entry in batch.entries], batch.waiting) == ([b'"3"'], 1)
    batch = await backlog.take([entry.id for entry in [*first, *batch.entries]], 0)
    assert (batch.entries, batch.waiting) == ([], 0)


async def test_one_bridge_writes_the_journal_until_its_lease_ends(rig: InMemoryRig | RedisRig) -> None:
    await settled(rig, "1", "2")
    first, second = rig.backlog("a"), rig.backlog("b")
    (entry, _) = (await first.take([], 10)).entries
    other = await second.take([], 10)
    assert (other.mine, other.waiting, other.entries) == (False, 2, [])
    await second.leave([])
    assert not (await second.take([], 10)).mine
    await first.leave([entry.id])
    batch = await second.take([], 10)
    assert (batch.mine, [entry.turn for entry in batch.entries]) == (True, [b'"2"'])
    assert not (await first.take([], 10)).mine
    await rig.expire_lease()
    assert (await first.take([], 10)).mine


async def test_full_backlog_drops_and_counts_the_newest_turns(rig: InMemoryRig | RedisRig) -> None:
    rig.queue.journal_bound = 2
    await settled(rig, "1", "2", "3", "4")
    batch = await rig.backlog("a").take([], 10)
    assert ([entry.turn for entry in batch.entries], batch.dropped) == ([b'"1"', b'"2"'], 2)
    status = await rig.queue.status()
    assert (status.unjournalled, status.counters["journal_dropped"], status.counters["settled:letta"]) == (2, 2, 4)


async def test_backlog_drops_and_counts_turns_beyond_its_bytes(rig: InMemoryRig | RedisRig) -> None:
    rig.queue.journal_bytes = 1100
    large = b'"' + b"x" * 500 + b'"'
    await settled(rig, "1", "2", "3", journal=large)
    first = await rig.backlog("a").take([], 10)
    assert (first.waiting, first.dropped) == (2, 1)
    await rig.backlog("a").take([first.entries[0].id, first.entries[0].id], 10)
    await settled(rig, "4", "5", journal=large)
    left = await rig.backlog("a").take([], 10)
    assert (left.waiting, left.dropped) == (2, 2)
    await rig.backlog("a").take([entry.id for entry in left.entries], 10)
    await settled(rig, "6", journal=b'"' + b"x" * 5000 + b'"')
    assert (await rig.backlog("a").take([], 10)).waiting == 1


@pytest.mark.integration
@pytest.mark.parametrize("rig", ["redis"], indirect=True)
async def test_an_empty_stream_resets_the_counted_bytes(rig: Any) -> None:
    await settled(rig, "1")
    (entry,) = (await rig.backlog("a").take([], 10)).entries
    await rig.client.hincrby(rig.queue.keys.counters, "journal_bytes", 10_000)  # what another release removed uncounted
    await rig.backlog("a").take([entry.id], 0)
    await settled(rig, "2")
    (entry,) = (await rig.backlog("a").take([], 10)).entries
    assert int(await rig.client.hget(rig.queue.keys.counters, "journal_bytes")) == entry.size


@pytest.mark.integration
@pytest.mark.parametrize("rig", ["redis"], indirect=True)
async def test_a_batch_ends_behind_its_first_four_megabytes(rig: RedisRig) -> None:
    await settled(rig, *map(str, range(30)), journal=b'"' + b"x" * 1_000_000 + b'"')
    batch = await rig.backlog("a").take([], 100)
    assert (len(batch.entries), batch.waiting) == (20, 30)


@pytest.mark.integration
@pytest.mark.parametrize("rig", ["redis"], indirect=True)
async def test_entries_lists_all_waiting_turns(rig: RedisRig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("letta_bridge.request_queue.journal_backlog._ENTRIES_PER_PAGE", 2)
    await settled(rig, "1", "2", "3", "4")
    backlog = rig.backlog("a")
    found = [entry async for entry in backlog.entries()]
    assert found == (await backlog.take([], 10)).entries


@pytest.mark.integration
@pytest.mark.parametrize("rig", ["redis"], indirect=True)
async def test_looked_waits_for_the_writers_next_call(rig: RedisRig) -> None:
    writer, other = rig.backlog("a"), rig.backlog("other")
    await other.looked()
    await settled(rig, "1")
    (entry,) = (await writer.take([], 10)).entries
    await other.leave([entry.id])
    waiting = asyncio.create_task(other.looked())
    done, _ = await asyncio.wait([waiting], timeout=0.3)
    assert not done
    assert (await writer.take([entry.id], 10)).mine
    await asyncio.wait_for(waiting, 20)
    waiting = asyncio.create_task(other.looked())
    await rig.expire_lease()
    await asyncio.wait_for(waiting, 20)
