"""The scripts on a real Redis, step for step beside the plain model of them, along ways no one would think of."""

from __future__ import annotations

import asyncio
import json
import uuid

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from letta_bridge.request_queue import Outcome, PauseMode, RedisQueue, Settlement
from letta_bridge.request_queue.admin import QueueAdmin
from letta_bridge.request_queue.memory_queue import InMemoryQueue, Shelf
from letta_bridge.request_queue.scripts import read
from letta_bridge.settings import QueueSettings
from shared_utils.errors import MalformedMessage
from shared_utils.messages import Limits, parse_task
from shared_utils.redis_connection import connect
from shared_utils.settings import RedisSettings

pytestmark = pytest.mark.integration

USERS = ("ada", "b:o", "100%", "小明", "~7", "1234567890123456789")
BRIDGES = ("one", "two")
ODD = (
    *(b"", b"null", b"[1]", b"x" * 2000, b'{"user_id":[]}', b'{"user_id":7,"task_id":7}', b'{"user_id":"a\\nb"}'),
    b'{"user_id":1234567890123456789,"task_id":1234567890123456788}',
    b'\xef\xbb\xbf{"user_id":"ada","task_id":"half a pair \\ud83d"}',
)
ENDS = st.sampled_from(["letta", "told", "memory", "error", "repeated", "dead"])


class QueueMachine(RuleBasedStateMachine):
    """Both queues, driven alike; whatever can be seen of them must be the same after each step."""

    url = ""

    def __init__(self):
        super().__init__()
        self.settings = QueueSettings(
            requests=f"q-{uuid.uuid4().hex[:8]}", max_payload_bytes=1024, missed_kept=2, lease=3600
        )
        self.shelf = Shelf(clock=lambda: 1_000.0)
        self.models = {name: InMemoryQueue(self.shelf, self.settings, name) for name in BRIDGES}
        self.runner = asyncio.Runner()
        self.runner.run(self.connect())
        self.held = {name: {} for name in BRIDGES}
        """Bridge → receipt → turn, those whose lease it lost included: it does not know."""
        self.handed = {}
        """Lane → numbers of its tasks in the order they were first handed out."""
        self.pushed = 0

    async def connect(self):
        redis = RedisSettings(url=self.url)
        self.client = connect(redis, name="machine")
        # A server that does not know `settle` yet runs the dispatch sent with it first: another order than the model's.
        for name in ("settle", "dispatch"):
            await self.client.script_load(read(name).source)
        self.queues = {name: RedisQueue(self.client, self.client, self.settings, name) for name in BRIDGES}
        self.keys = self.queues["one"].keys

    def both(self, bridge, call):
        """The same call to the model and to Redis; its result, which is the same."""
        real = self.runner.run(call(self.queues[bridge]))
        model = self.runner.run(call(self.models[bridge]))
        return real, model

    @initialize(max_lane=st.sampled_from([0, 0, 3]), journal_bound=st.sampled_from([3, 1000]))
    def choose_bounds(self, max_lane, journal_bound):
        for queue in (*self.models.values(), *self.queues.values()):
            queue.max_lane, queue.journal_bound = max_lane, journal_bound

    @rule(users=st.lists(st.sampled_from(USERS), min_size=1, max_size=4), again=st.booleans())
    def push(self, users, again):
        for user in users:
            self.pushed += not again
            self.push_payload(json.dumps({"user_id": user, "task_id": f"t{self.pushed}", "content": "你好"}).encode())

    @rule(payload=st.sampled_from(ODD))
    def push_payload(self, payload):
        self.shelf.push(payload)
        self.runner.run(self.client.lpush(self.settings.requests, payload))

    @rule(bridge=st.sampled_from(BRIDGES), want=st.integers(1, 4))
    def take(self, bridge, want):
        if self.shelf.requests and self.shelf.paused is None:
            real, model = self.both(bridge, lambda queue: queue.take(want, 0.05))
            self.handed_out(bridge, real, model)

    @rule(bridge=st.sampled_from(BRIDGES), want=st.integers(0, 4), ends=st.lists(ENDS, max_size=3), data=st.data())
    def exchange(self, bridge, want, ends, data):
        receipts = sorted(self.held[bridge])
        chosen = data.draw(st.lists(st.sampled_from(receipts), max_size=len(ends))) if receipts else []
        settlements = [settlement(self.held[bridge][receipt], end) for receipt, end in zip(chosen, ends, strict=False)]
        real, model = self.both(bridge, lambda queue: queue.exchange(settlements, want))
        assert real.settled == model.settled
        for receipt in chosen:
            self.held[bridge].pop(receipt, None)
        self.handed_out(bridge, real.turns, model.turns)

    def handed_out(self, bridge, real, model):
        assert [seen(turn) for turn in real] == [seen(turn) for turn in model]
        for turn in real:
            self.held[bridge][turn.receipt] = turn
            numbers = self.handed.setdefault(turn.lane, [])
            assert turn.attempts > 1 or turn.seq in numbers or not numbers or turn.seq > numbers[-1], "out of order"
            numbers.append(turn.seq)

    @rule(bridge=st.sampled_from(BRIDGES))
    def renew(self, bridge):
        real, model = self.both(bridge, lambda queue: queue.renew(sorted(self.held[bridge])))
        assert real == model

    @rule(bridge=st.sampled_from(BRIDGES), data=st.data())
    def release(self, bridge, data):
        receipts = sorted(self.held[bridge])
        chosen = data.draw(st.lists(st.sampled_from(receipts), unique=True)) if receipts else []
        self.both(bridge, lambda queue: queue.release(chosen))
        for receipt in chosen:
            del self.held[bridge][receipt]

    @rule(bridge=st.sampled_from(BRIDGES), waited=st.booleans(), data=st.data())
    def forget(self, bridge, waited, data):
        """An answer of Redis gets lost: the bridge does not know of a turn it has."""
        if not self.held[bridge]:
            return
        del self.held[bridge][data.draw(st.sampled_from(sorted(self.held[bridge])))]
        mine = [receipt for receipt, turn in self.shelf.turns.items() if (turn.bridge, turn.waited) == (bridge, waited)]
        if len([receipt for receipt in mine if receipt not in self.held[bridge]]) > 1:
            return  # which of two strays returns first is nobody's promise
        real, model = self.both(bridge, lambda queue: queue.release_strays(set(self.held[bridge]), waited=waited))
        assert real == model

    @rule(bridge=st.sampled_from(BRIDGES), data=st.data())
    def expire(self, bridge, data):
        """Leases run out; whichever bridge looks next gives those turns back."""
        flying = list(self.shelf.turns)
        chosen = data.draw(st.sets(st.sampled_from(flying))) if flying else set()
        for place, receipt in enumerate(flying):
            if receipt in chosen:
                self.shelf.turns[receipt].deadline = 0.0
                self.runner.run(self.client.zadd(self.keys.leases, {receipt: place + 1}))
        self.both(bridge, lambda queue: queue.exchange([], 0))

    @rule(mode=st.sampled_from([None, *PauseMode]))
    def pause(self, mode):
        admin = QueueAdmin(self.client, self.settings)
        self.runner.run(admin.pause(mode) if mode else admin.resume())
        self.shelf.paused = mode
        for bridge in BRIDGES:
            self.both(bridge, lambda queue: queue.exchange([], 0))

    @invariant()
    def looks_alike(self):
        real, model = self.runner.run(self.picture()), self.model_picture()
        assert real == model

    @invariant()
    def adds_up(self):
        shelf = self.shelf
        settled = sum(count for name, count in shelf.counters.items() if name.startswith("settled:"))
        waiting = sum(map(len, shelf.lanes.values()))
        assert shelf.counters["taken"] == settled + waiting + len(shelf.turns)
        assert len(set(shelf.ready)) == len(shelf.ready)
        assert set(shelf.ready) == shelf.lanes.keys() - shelf.busy.keys()

    async def picture(self):
        keys, client = self.keys, self.client
        counters = {name.decode(): int(count) for name, count in (await client.hgetall(keys.counters)).items()}
        lanes = {}
        async for key in client.scan_iter(match=f"{keys.lane_prefix}*", count=1000):
            entries = await client.lrange(key, 0, -1)
            name = key.decode().removeprefix(keys.lane_prefix)
            lanes[name] = [entry.partition(b"\n")[2] for entry in reversed(entries)]
        return {
            "counters": {name: count for name, count in counters.items() if count},
            "untaken": await client.llen(keys.requests) + await client.llen(keys.incoming),
            "lanes": lanes,
            "ready": [name.decode() for name in await client.lrange(keys.ready, 0, -1)],
            "busy": {lane.decode(): receipt.decode() for lane, receipt in (await client.hgetall(keys.lanes)).items()},
            "turns": {receipt.decode() for receipt in await client.hkeys(keys.turns)},
            "leases": {receipt.decode() for receipt in await client.zrange(keys.leases, 0, -1)},
            "replies": [fields[b"reply"] for _, fields in await client.xrange(keys.replies)],
            "journal": await client.xlen(keys.journal),
            "dead": [letter.partition(b"\n")[2] for letter in await client.lrange(keys.dead, 0, -1)],
            "missed": {user: await client.lrange(keys.missed(user), 0, -1) for user in USERS},
        }

    def model_picture(self):
        shelf = self.shelf
        return {
            "counters": {name: count for name, count in shelf.counters.items() if count and name != "journalled"},
            "untaken": len(shelf.requests),
            "lanes": {lane: [entry.payload for entry in entries] for lane, entries in shelf.lanes.items() if entries},
            "ready": list(shelf.ready),
            "busy": shelf.busy,
            "turns": shelf.turns.keys(),
            "leases": shelf.turns.keys(),
            "replies": shelf.replies,
            "journal": len(shelf.journal),
            "dead": [payload for _, payload in shelf.dead],
            "missed": {user: shelf.missed.get(user, []) for user in USERS},
        }

    def teardown(self):
        self.runner.run(self.close())
        self.runner.close()

    async def close(self):
        await self.client.flushall()
        await self.client.aclose()


def seen(turn):
    """What both queues say of a turn; clocks differ."""
    return (turn.receipt, turn.lane, turn.attempts, turn.seq, turn.payload, turn.kept_reply, turn.missed)


def settlement(turn, end):
    """One of the ways in which a turn can end."""
    try:
        task = parse_task(turn.payload, Limits())
        ids = {"user_id": task.user_id, "task_id": task.task_id}
    except MalformedMessage:
        ids = {}
    reply = json.dumps({"to": turn.receipt}).encode() if ids and end != "dead" else None
    outcome = Outcome.LETTA if end == "told" else Outcome(end)
    return Settlement(
        turn.receipt,
        outcome,
        **ids,
        reply=reply,
        told_missed=end == "told" and bool(ids),
        missed=b'{"of":"%s"}' % turn.receipt.encode() if end == "memory" and ids else None,
        dead=b'{"code":"test"}' if end == "dead" else None,
        journal=b"{}" if end in {"letta", "memory"} and reply else None,
    )


def test_the_scripts_do_what_the_model_says(redis_url):
    class OnRedis(QueueMachine):
        url = redis_url

    run_state_machine_as_test(
        OnRedis,
        settings=settings(
            max_examples=25,
            stateful_step_count=30,
            deadline=None,
            database=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
        ),
    )
