"""Task streams and interrupts on a real Redis, step for step beside the plain model of them."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from hypothesis.stateful import run_state_machine_as_test as run_machine

from letta_bridge.request_queue import Outcome, RedisQueue, Settlement
from letta_bridge.request_queue.calls import Calls
from letta_bridge.request_queue.interrupts import Heard, InterruptOutcome, InterruptRequest
from letta_bridge.request_queue.port import UNCONDITIONAL, TaskEvents
from letta_bridge.settings import QueueSettings
from letta_bridge.testing.queue_state import InMemoryQueueState
from letta_bridge.testing.request_queue import InMemoryQueue
from shared_utils.config.settings import RedisSettings
from shared_utils.redis.connection import connect

pytestmark = pytest.mark.integration

USER = "小明:1"
TASKS = ("t1", "t2")
BRIDGES = ("one", "two")
LEASE = 3600.0


def event(task_id: str, kind: str, text: str = "") -> bytes:
    body = {"task_id": task_id, "user_id": USER, "attempt": 1, "type": kind, "text": text}
    return json.dumps(body, separators=(",", ":")).encode()


class StreamMachine(RuleBasedStateMachine):
    """Both queues, driven alike. Bridges do not know that they lost a lease."""

    url = ""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1_000.0
        self.settings = QueueSettings(requests=f"q-{uuid.uuid4().hex[:8]}", lease_seconds=LEASE)
        self.shelf = InMemoryQueueState(clock=lambda: self.now)
        self.models = {name: InMemoryQueue(self.shelf, self.settings, name) for name in BRIDGES}
        self.runner: Any = asyncio.Runner()
        self.runner.run(self.connect())
        self.held: dict[str, tuple[str, TaskEvents, TaskEvents]] = {}
        """Bridge → task id, and its events for Redis and for the model."""
        self.said = 0

    async def connect(self) -> None:
        self.client = connect(RedisSettings(url=self.url), name="machine")
        self.queues = {name: RedisQueue(self.client, self.client, self.settings, name) for name in BRIDGES}
        for number, bridge in enumerate(BRIDGES):
            for queue in (self.queues[bridge], self.models[bridge]):
                queue.passes = Calls("-", first=2 * number)
                queue.waits = Calls("+", first=2 * number + 1)

    def both(self, bridge: str, call: Callable[[Any], Any]) -> tuple[Any, Any]:
        return self.runner.run(call(self.queues[bridge])), self.runner.run(call(self.models[bridge]))

    @rule(task_id=st.sampled_from(TASKS))
    def push(self, task_id: str) -> None:
        payload = json.dumps({"task_id": task_id, "user_id": USER, "content": "hi"}).encode()
        self.shelf.push(payload)
        self.runner.run(self.client.lpush(self.settings.requests, payload))

    @rule(bridge=st.sampled_from(BRIDGES))
    def take(self, bridge: str) -> None:
        real, model = self.both(bridge, lambda queue: queue.settle_and_fetch([], 1))
        assert [turn.receipt for turn in real.turns] == [turn.receipt for turn in model.turns]
        for turn, other in zip(real.turns, model.turns, strict=True):
            assert turn.interruption.request == other.interruption.request
            task_id = json.loads(turn.payload)["task_id"]
            mine = [TaskEvents(turn.receipt, USER, task_id) for _ in range(2)]
            self.held[bridge] = (task_id, mine[0], mine[1])

    @rule(bridge=st.sampled_from(BRIDGES), count=st.integers(1, 3))
    def say(self, bridge: str, count: int) -> None:
        if bridge not in self.held:
            return
        task_id, real, model = self.held[bridge]
        for _ in range(count):
            self.said += 1
            for stream in (real, model):
                stream.events.append(event(task_id, "sentence", str(self.said)))
        results = (
            self.runner.run(self.queues[bridge].append([real])),
            self.runner.run(self.models[bridge].append([model])),
        )
        assert results[0] == results[1]
        assert real.stored == model.stored

    @rule(bridge=st.sampled_from(BRIDGES), named=st.sampled_from(("", *TASKS)), seq=st.integers(-1, 3))
    def interrupt(self, bridge: str, named: str, seq: int) -> None:
        request = InterruptRequest(type="interrupt", user_id=USER, task_id=named, heard=Heard(seq=seq))
        real, model = self.both(bridge, lambda queue: queue.interrupt(request))
        assert real == model
        if real.outcome is InterruptOutcome.OVER and seq % 2:
            self.both(bridge, lambda queue: queue.correct(USER, real.task_id, b'{"of":"%d"}' % seq))

    @rule(bridge=st.sampled_from(BRIDGES), outcome=st.sampled_from([Outcome.LETTA, Outcome.MEMORY]))
    def settle(self, bridge: str, outcome: Outcome) -> None:
        """A settlement that an interrupt overtook is replaced, as a bridge does it."""
        if bridge not in self.held:
            return
        task_id, *streams = self.held.pop(bridge)
        ends = [self.ending(stream, task_id, outcome) for stream in streams]
        results = self.settled(bridge, ends)
        if streams[0].receipt in results[0].interrupted:
            assert [stream.stored for stream in streams] == [streams[0].stored] * 2
            last = [event(task_id, "interrupted"), event(task_id, "end")]
            streams = [TaskEvents(one.receipt, USER, task_id, list(last), stored=UNCONDITIONAL) for one in streams]
            ends = [
                replace(end, outcome=Outcome.INTERRUPTED, stream=stream, when_interrupted=None)
                for end, stream in zip(ends, streams, strict=True)
            ]
            assert self.settled(bridge, ends)[0].settled == [True]

    def ending(self, stream: TaskEvents, task_id: str, outcome: Outcome) -> Settlement:
        stream.events.append(event(task_id, "end"))
        end = Settlement(
            stream.receipt, outcome, user_id=USER, task_id=task_id, reply=stream.receipt.join('""').encode()
        )
        end.stream = stream
        end.when_interrupted = (lambda _: end) if outcome is Outcome.LETTA else None
        return end

    def settled(self, bridge: str, ends: list[Settlement]) -> list[Any]:
        queues: tuple[Any, Any] = (self.queues[bridge], self.models[bridge])
        results = [self.runner.run(queue.settle_and_fetch([end], 0)) for queue, end in zip(queues, ends, strict=True)]
        assert results[0].settled == results[1].settled
        assert results[0].refused == results[1].refused
        assert results[0].interrupted == results[1].interrupted
        return results

    @rule()
    def expire(self) -> None:
        """All leases end; the bridges go on."""
        self.now += LEASE + 1
        self.runner.run(self.expired())

    async def expired(self) -> None:
        leases = self.queues["one"].keys.leases
        receipts: list[Any] = await self.client.zrange(leases, 0, -1)
        for receipt in receipts:
            await self.client.zadd(leases, {receipt: 1})

    @invariant()
    def streams_are_alike_and_sound(self) -> None:
        for task_id in TASKS:
            real, model = self.both("one", lambda queue, task_id=task_id: queue.events(USER, task_id))  # type: ignore[misc]
            events = [json.loads(one) for one in real]
            assert events == [json.loads(one) for one in model]
            assert [one["seq"] for one in events] == list(range(len(events)))
            texts = [one["text"] for one in events if one["type"] == "sentence"]
            assert len(texts) == len(set(texts)), "nothing is said twice"
        real, model = self.both("one", lambda queue: queue.missed(USER))
        assert real == model

    def teardown(self) -> None:
        self.runner.run(self.close())
        self.runner.close()

    async def close(self) -> None:
        await self.client.flushall()
        await self.client.aclose()


def test_streams_behave_like_the_model(redis_url: str) -> None:
    class OnRedis(StreamMachine):
        url = redis_url

    run_machine(
        OnRedis,
        settings=settings(
            max_examples=40,
            stateful_step_count=30,
            deadline=None,
            database=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        ),
    )
