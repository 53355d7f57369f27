"""What the suites of the queue share."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from letta_bridge.request_queue import RedisQueue
from letta_bridge.request_queue.admin import QueueAdmin
from letta_bridge.request_queue.calls import TICKET_DIGITS, Calls
from letta_bridge.request_queue.holds import Holds
from letta_bridge.request_queue.keys import Keys
from letta_bridge.request_queue.port import PauseMode, Turn
from letta_bridge.settings import QueueSettings
from letta_bridge.testing.queue_state import InMemoryQueueState
from letta_bridge.testing.request_queue import InMemoryQueue
from shared_utils.config.settings import RedisSettings
from shared_utils.redis.connection import connect


@pytest.fixture
def lose_answer() -> Callable[..., Any]:
    """``lose_answer(calls, turns)``: the answer that handed out these turns never reached the bridge."""

    def lose(calls: Calls, turns: list[Turn]) -> None:
        calls._unanswered.update((turn.receipt[:TICKET_DIGITS], None) for turn in turns)

    return lose


class InMemoryRig:
    """Producers and bridges around a queue in memory."""

    def __init__(self, settings: QueueSettings) -> None:
        self.settings = settings
        self.time = 1_000.0
        self.shelf = InMemoryQueueState(clock=lambda: self.time)

    def bridge(self, name: str) -> InMemoryQueue:
        return InMemoryQueue(self.shelf, self.settings, name)

    async def push(self, *payloads: bytes) -> None:
        for payload in payloads:
            self.shelf.push(payload)

    async def expire_leases(self) -> None:
        self.time += self.settings.lease_seconds + 1

    async def let_time_pass(self) -> None:
        self.time += 1

    async def pause(self, mode: PauseMode) -> None:
        self.shelf.paused = mode

    async def resume(self) -> None:
        self.shelf.paused = None

    async def age(self, seconds: float) -> None:
        self.time += seconds

    async def hold(self, user: str) -> None:
        self.shelf.held[user] = self.time + 60

    async def release(self, user: str) -> None:
        self.shelf.held.pop(user)

    async def end_holds(self) -> None:
        self.time += 61

    async def dead(self) -> list[tuple[dict[str, Any], bytes]]:
        return [(json.loads(reason), payload) for reason, payload in self.shelf.dead]

    async def replies(self) -> list[bytes]:
        return list(self.shelf.replies)

    async def ask(self, message: bytes) -> None:
        """Push a message onto the control list."""
        self.shelf.control.append(message)

    async def listen(self, channel: str) -> None:
        self.channel = channel

    async def heard(self, count: int) -> list[bytes]:
        published = [body for where, body in self.shelf.published if where == self.channel]
        assert len(published) == count
        return published

    async def drop_stream(self, user: str, task_id: str) -> None:
        del self.shelf.streams[user, task_id]

    async def save(self) -> None:
        self.saved = self.shelf.snapshot()

    async def lose_writes(self) -> None:
        self.shelf.roll_back(self.saved)

    async def close(self) -> None:
        pass


class RedisRig:
    """The same around a real one."""

    def __init__(self, settings: QueueSettings, url: str) -> None:
        self.settings = settings
        self.url = url
        self.client = connect(RedisSettings(url=url), name="rig")
        self.bridges: list[Any] = []
        self.pubsub: Any = None

    def bridge(self, name: str) -> RedisQueue:
        settings = RedisSettings(url=self.url)
        queue = RedisQueue(connect(settings, name=name), connect(settings, name=name), self.settings, name)
        self.bridges.append(queue)
        return queue

    @property
    def keys(self) -> Keys:
        return self.bridge("keys").keys

    async def push(self, *payloads: bytes) -> None:
        for payload in payloads:
            await self.client.lpush(self.settings.requests, payload)

    async def expire_leases(self) -> None:
        leases = self.keys.leases
        receipts: list[Any] = await self.client.zrange(leases, 0, -1)
        for receipt in receipts:
            await self.client.zadd(leases, {receipt: 1})

    async def let_time_pass(self) -> None:
        await asyncio.sleep(0.005)

    async def pause(self, mode: PauseMode) -> None:
        await QueueAdmin(self.client, self.settings).pause(mode)

    async def resume(self) -> None:
        await QueueAdmin(self.client, self.settings).resume()

    async def age(self, seconds: float) -> None:
        """Let everything that is taken be older: Redis has no clock to set."""
        tenths = round(seconds * 10)
        for tenth, tasks in (await self.client.hgetall(self.keys.open)).items():
            await self.client.hdel(self.keys.open, tenth)
            await self.client.hset(self.keys.open, str(int(tenth) - tenths), tasks)

        def older(entry: Any) -> Any:
            seq, attempts, rest = entry.split(b" ", 2)
            first_ms, _, payload = rest.partition(b"\n")
            return b"%s %s %d\n%s" % (seq, attempts, int(first_ms) - tenths * 100, payload)

        async for key in self.client.scan_iter(match=f"{{{self.settings.requests}}}:lane:*"):
            entries = await self.client.lrange(key, 0, -1)
            await self.client.delete(key)
            await self.client.rpush(key, *map(older, entries))
        turns: dict[Any, Any] = await self.client.hgetall(self.keys.turns)
        for receipt, record in turns.items():
            taker, lane, entry = record.split(b"\n", 2)
            await self.client.hset(self.keys.turns, receipt, b"\n".join((taker, lane, older(entry))))

    async def hold(self, user: str) -> None:
        assert await Holds(self.client, self.keys).take(user, "holder", "test") == 0

    async def release(self, user: str) -> None:
        assert await Holds(self.client, self.keys).lift(user, "holder")

    async def end_holds(self) -> None:
        held: dict[Any, Any] = await self.client.hgetall(self.keys.held)
        for lane, record in held.items():
            await self.client.hset(self.keys.held, lane, b"1" + record[record.index(b" ") :])

    async def dead(self) -> list[tuple[dict[str, Any], bytes]]:
        letters: list[Any] = await self.client.lrange(self.keys.dead, 0, -1)
        return [(json.loads(letter.partition(b"\n")[0]), letter.partition(b"\n")[2]) for letter in letters]

    async def ask(self, message: bytes) -> None:
        """Push a message onto the control list."""
        await self.client.lpush(self.settings.control_list, message)

    async def listen(self, channel: str) -> None:
        self.pubsub = self.client.pubsub()
        await self.pubsub.subscribe(channel)
        await self.pubsub.get_message(timeout=5)

    async def heard(self, count: int) -> list[bytes]:
        messages: list[Any] = [await self.pubsub.get_message(timeout=5) for _ in range(count)]
        assert await self.pubsub.get_message(timeout=0.01) is None
        return [message["data"] for message in messages]

    async def drop_stream(self, user: str, task_id: str) -> None:
        await self.client.delete(self.keys.stream(user, task_id))

    async def replies(self) -> list[bytes]:
        entries: Any = await self.client.xrange(self.keys.replies)
        return [fields[b"reply"] for _, fields in entries]

    async def save(self) -> None:
        """What a replica has."""
        keys = [key async for key in self.client.scan_iter(match=f"*{self.settings.requests}*")]
        self.saved: dict[Any, Any] = {
            key: (await self.client.dump(key), max(0, await self.client.pttl(key))) for key in keys
        }

    async def lose_writes(self) -> None:
        """The replica becomes the primary."""
        async for key in self.client.scan_iter(match=f"*{self.settings.requests}*"):
            await self.client.delete(key)
        for key, (content, expires_ms) in self.saved.items():
            await self.client.restore(key, expires_ms, content)

    async def close(self) -> None:
        if self.pubsub is not None:
            await self.pubsub.aclose()
        await self.client.aclose()
        for bridge in self.bridges:
            await bridge.close()


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.integration)])
async def rig(request: pytest.FixtureRequest) -> AsyncIterator[Any]:
    settings = QueueSettings(
        requests=(name := f"q-{uuid.uuid4().hex[:8]}"),
        task_stream=f"{name}-stream:",
        max_payload_bytes=1024,
        max_missed_per_user=3,
        missed_bytes=2048,
        dead_bytes=2**20,
    )
    rig: Any
    if request.param == "memory":
        rig = InMemoryRig(settings)
    else:
        rig = RedisRig(settings, request.getfixturevalue("redis_url"))
    yield rig
    await rig.close()


@pytest.fixture
def redis_rig() -> Any:
    """``redis_rig(settings, url)``: a rig of the test's own."""
    return RedisRig
