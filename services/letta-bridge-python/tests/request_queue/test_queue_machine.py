"""The scripts on a real Redis, step for step beside the plain model of them, along paths no one would think of.

Redis also loses its last writes, records are damaged, and operators retry dead letters and erase users meanwhile.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from hypothesis.stateful import run_state_machine_as_test as run_machine

from letta_bridge.request_queue import Outcome, PauseMode, RedisQueue, Settlement
from letta_bridge.request_queue.admin import DeadLetter, QueueAdmin
from letta_bridge.request_queue.calls import TICKET_DIGITS, Calls
from letta_bridge.request_queue.holds import Holds
from letta_bridge.request_queue.keys import user_lane
from letta_bridge.request_queue.port import Turn, fingerprint
from letta_bridge.request_queue.records import Fault
from letta_bridge.request_queue.scripts import ScriptRunner, read
from letta_bridge.settings import QueueSettings
from letta_bridge.testing.queue_state import Entry, InMemoryQueueState
from letta_bridge.testing.request_queue import InMemoryQueue
from shared_utils.config.settings import RedisSettings
from shared_utils.contracts.limits import Limits
from shared_utils.contracts.messages import parse_task
from shared_utils.errors import MalformedMessage
from shared_utils.redis.connection import connect

pytestmark = pytest.mark.integration

USERS = ("ada", "b:o", "100%", "小明", "~7", "1234567890123456789")
BRIDGES = ("one", "two")
ODD = (
    *(b"", b"null", b"[1]", b"x" * 2000, b'{"user_id":[]}', b'{"user_id":7,"task_id":7}', b'{"user_id":"a\\nb"}'),
    b'{"user_id":1234567890123456789,"task_id":1234567890123456788}',
    b'\xef\xbb\xbf{"user_id":"ada","task_id":"half a pair \\ud83d"}',
)
ENDS = st.sampled_from(["letta", "told", "memory", "error", "repeated", "dead"])
DAMAGE = ((b"\x00\xff garbage", Fault.UNREADABLE), (b"v2 {}\n{}", Fault.NEWER), (b"", Fault.UNREADABLE))


class QueueMachine(RuleBasedStateMachine):
    """Both queues, driven alike; whatever can be seen of them must be the same after each step."""

    url = ""

    def __init__(self) -> None:
        super().__init__()
        self.settings = QueueSettings(
            requests=f"q-{uuid.uuid4().hex[:8]}", max_payload_bytes=1024, max_missed_per_user=2, lease_seconds=3600
        )
        self.shelf = InMemoryQueueState(clock=lambda: 1_000.0)
        self.models = {name: InMemoryQueue(self.shelf, self.settings, name) for name in BRIDGES}
        self.runner: Any = asyncio.Runner()
        self.runner.run(self.connect())
        self.held: dict[str, dict[str, Any]] = {name: {} for name in BRIDGES}
        """Bridge → receipt → turn and the model's turn, those whose lease it lost included: it does not know."""
        self.handed: dict[str, Any] = {}
        """Lane → numbers of its tasks in the order they were first handed out; since the last loss of writes."""
        self.restored: set[Any] = set()
        """Numbers of restored turns: they belong to a history that Redis lost, and are in no order with others."""
        self.payloads: dict[str, Any] = {}
        """Number of a task → its payload, for ever."""
        self.pushed = 0
        self.ended: set[bytes] = set()
        """Payloads that had an outcome."""
        self.alive: set[bytes] = set()
        """Payloads that were pushed, as far as Redis knows."""
        self.saved: Any = None

    async def connect(self) -> None:
        redis = RedisSettings(url=self.url)
        self.client = connect(redis, name="machine")
        self.queues = {name: RedisQueue(self.client, self.client, self.settings, name) for name in BRIDGES}
        self.keys = self.queues["one"].keys
        self.admin = QueueAdmin(self.client, self.settings)
        self.scripts = ScriptRunner(self.client, self.keys.script_keys)
        for number, bridge in enumerate(BRIDGES):
            for queue in (self.queues[bridge], self.models[bridge]):
                queue.passes = Calls("-", first=2 * number)
                queue.waits = Calls("+", first=2 * number + 1)

    def both(self, bridge: str, call: Callable[..., Any]) -> tuple[Any, ...]:
        """The same call to the model and to Redis; the results of both."""
        real = self.runner.run(call(self.queues[bridge]))
        model = self.runner.run(call(self.models[bridge]))
        assert self.queues[bridge].writes_lost == self.models[bridge].writes_lost
        return real, model

    def state_of(self, receipt: str) -> Entry | None:
        flying = self.shelf.turns.get(receipt)
        return flying.entry if flying is not None else None

    @initialize(max_lane=st.sampled_from([0, 0, 3]), journal_bound=st.sampled_from([3, 1000]))
    def choose_bounds(self, max_lane: int, journal_bound: int) -> None:
        queues: list[Any] = [*self.models.values(), *self.queues.values()]
        for queue in queues:
            queue.max_lane, queue.journal_bound = max_lane, journal_bound

    @rule(users=st.lists(st.sampled_from(USERS), min_size=1, max_size=4), again=st.booleans())
    def push(self, users: list[Any], again: bool) -> None:
        for user in users:
            self.pushed += 1
            task_id = f"t{self.pushed // 2 if again else self.pushed}"
            task = {"user_id": user, "task_id": task_id, "content": f"你好 {self.pushed}"}
            self.push_payload(json.dumps(task).encode())

    @rule(user=st.sampled_from(USERS), begins=st.booleans())
    def hold(self, user: str, begins: bool) -> None:
        holds = Holds(self.client, self.keys)
        if begins:
            self.shelf.held[user] = float("inf")
            self.runner.run(holds.take(user, "holder", "test"))
        else:
            self.shelf.held.pop(user, None)
            self.runner.run(holds.lift(user))

    @rule(payload=st.sampled_from(ODD))
    def push_payload(self, payload: Any) -> None:
        self.alive.add(payload)
        self.ended.discard(payload)
        self.shelf.push(payload)
        self.runner.run(self.client.lpush(self.settings.requests, payload))

    @rule(bridge=st.sampled_from(BRIDGES), limit=st.integers(1, 4))
    def take(self, bridge: str, limit: int) -> None:
        if self.shelf.requests and self.shelf.paused is None and not self.queues[bridge]._paused:
            real, model = self.both(bridge, lambda queue: queue.wait_and_fetch(limit, 0.05))
            self.handed_out(bridge, real, model)

    @rule(bridge=st.sampled_from(BRIDGES), limit=st.integers(0, 4), ends=st.lists(ENDS, max_size=3), data=st.data())
    def settle_and_fetch(self, bridge: str, limit: int, ends: list[Any], data: Any) -> None:
        receipts = sorted(self.held[bridge])
        chosen = data.draw(st.lists(st.sampled_from(receipts), max_size=len(ends))) if receipts else []
        known = sorted({fingerprint(record) for records in self.shelf.missed.values() for record in records})
        told = data.draw(st.sets(st.sampled_from(known))) if known else set()
        self.settle(bridge, [(receipt, end) for receipt, end in zip(chosen, ends, strict=False)], limit, told)

    def settle(
        self, bridge: str, ends: list[Any], limit: int, caught_up: frozenset[Any] | set[Any] = frozenset()
    ) -> None:
        settlements = [settlement(self.held[bridge][receipt][0], end, caught_up) for receipt, end in ends]
        before: dict[str, Any] = {receipt: self.state_of(receipt) for receipt, _ in ends}
        real, model = self.both(bridge, lambda queue: queue.settle_and_fetch(settlements, limit))
        assert (real.settled, real.refused, real.more) == (model.settled, model.refused, model.more)
        for (receipt, _), counted in zip(ends, real.settled, strict=True):
            if counted:
                turn, _ = self.held[bridge].pop(receipt)
                assert before[receipt].seq == turn.seq, "a settlement ended another task"
                self.ended.add(before[receipt].payload)
            elif receipt in real.refused:
                self.held[bridge].pop(receipt, None)
        self.handed_out(bridge, real.turns, model.turns)

    def handed_out(self, bridge: str, real: list[Any], model: list[Any]) -> None:
        assert [seen(turn) for turn in real] == [seen(turn) for turn in model]
        for turn, modelled in zip(real, model, strict=True):
            assert all(turn.receipt not in held for held in self.held.values()), "a receipt was given twice"
            assert self.payloads.setdefault(turn.number, turn.payload) == turn.payload, "a number was given twice"
            self.held[bridge][turn.receipt] = (turn, modelled)
            if turn.seq in self.restored:
                continue
            numbers = self.handed.setdefault(turn.lane, [])
            assert turn.attempts > 1 or turn.seq in numbers or not numbers or turn.seq > numbers[-1], "out of order"
            if turn.attempts == 1:  # one handed out first before a loss of writes says nothing of the order after it
                numbers.append(turn.seq)

    @rule(bridge=st.sampled_from(BRIDGES))
    def renew(self, bridge: str) -> None:
        real, model = self.both(bridge, lambda queue: queue.renew(sorted(self.held[bridge])))
        assert real == model

    @rule(bridge=st.sampled_from(BRIDGES), data=st.data())
    def release(self, bridge: str, data: Any) -> None:
        receipts = sorted(self.held[bridge])
        chosen = data.draw(st.lists(st.sampled_from(receipts), unique=True)) if receipts else []
        self.both(bridge, lambda queue: queue.release(chosen))
        for receipt in chosen:
            del self.held[bridge][receipt]

    @rule(bridge=st.sampled_from(BRIDGES), other=st.sampled_from(BRIDGES), data=st.data())
    def meddle(self, bridge: str, other: str, data: Any) -> None:
        """A bridge names a receipt of another one."""
        if bridge == other or not self.held[other]:
            return
        receipt = data.draw(st.sampled_from(sorted(self.held[other])))
        turn, _ = self.held[other][receipt]
        if self.state_of(receipt) is None:
            return
        assert self.both(bridge, lambda queue: queue.renew([receipt])) == ({receipt}, {receipt})
        self.both(bridge, lambda queue: queue.release([receipt]))
        real, model = self.both(bridge, lambda queue: queue.settle_and_fetch([settlement(turn, "letta", ())], 0))
        assert real.settled == model.settled == [False]

    @rule(bridge=st.sampled_from(BRIDGES), from_idle=st.booleans(), data=st.data())
    def lose_answer(self, bridge: str, from_idle: bool, data: Any) -> None:
        """An answer of Redis does not arrive: the bridge does not know of the turns it was given."""
        mark = "+" if from_idle else "-"
        mine = sorted(receipt for receipt in self.held[bridge] if receipt[TICKET_DIGITS] == mark)
        if not mine:
            return
        ticket = data.draw(st.sampled_from(mine))[:TICKET_DIGITS]
        given = [receipt for receipt in self.shelf.turns if receipt.startswith(ticket)]
        if len(given) > 1:
            return  # which of two orphans returns first is nobody's promise
        for queue in (self.queues[bridge], self.models[bridge]):
            (queue.waits if from_idle else queue.passes)._unanswered[ticket] = None
        for receipt in [receipt for receipt in mine if receipt.startswith(ticket)]:
            del self.held[bridge][receipt]
        real, model = self.both(
            bridge, lambda queue: queue.release_orphans(set(self.held[bridge]), from_idle=from_idle)
        )
        assert real == model

    @rule(bridge=st.sampled_from(BRIDGES), data=st.data())
    def expire(self, bridge: str, data: Any) -> None:
        """Leases run out; whichever bridge looks next gives those turns back."""
        flying = list(self.shelf.turns)
        chosen = data.draw(st.sets(st.sampled_from(flying))) if flying else set()
        self.run_out(chosen)
        self.both(bridge, lambda queue: queue.settle_and_fetch([], 0))

    def run_out(self, chosen: set[Any]) -> None:
        for place, receipt in enumerate(list(self.shelf.turns)):
            if receipt in chosen:
                self.note_buried([self.shelf.turns[receipt].entry])
                self.shelf.turns[receipt].deadline = 0.0
                self.runner.run(self.client.zadd(self.keys.leases, {receipt: place + 1}))

    @rule(mode=st.sampled_from([None, *PauseMode]))
    def pause(self, mode: PauseMode | None) -> None:
        self.runner.run(self.admin.pause(mode) if mode else self.admin.resume())
        self.shelf.paused = mode
        for bridge in BRIDGES:
            self.both(bridge, lambda queue: queue.settle_and_fetch([], 0))

    # Redis loses its last writes

    @rule()
    def save(self) -> None:
        self.saved = self.runner.run(self.dump()), self.shelf.snapshot(), set(self.alive)

    @precondition(lambda self: self.saved is not None)
    @rule()
    def roll_back(self) -> None:
        keys, shelf, alive = self.saved
        self.runner.run(self.restore_keys(keys))
        self.shelf.roll_back(shelf)
        self.alive = set(alive)
        self.handed.clear()

    @rule(
        users=st.lists(st.sampled_from(USERS), max_size=4),
        routed=st.booleans(),
        lost=st.lists(st.tuples(st.sampled_from(BRIDGES), st.integers(0, 3), ENDS), min_size=1, max_size=3),
        first=st.sampled_from(BRIDGES),
        takes_over=st.booleans(),
    )
    def lose_hand_outs(
        self, users: list[Any], routed: bool, lost: list[tuple[str, int, str]], first: str, takes_over: bool
    ) -> None:
        """The bridges work on what Redis then knows nothing of; one of them comes back first, and goes on."""
        self.push(users, again=False)
        if routed:
            self.settle("one", [], 0)
        self.save()
        for bridge, limit, end in lost:
            newest = sorted(self.held[bridge])[-1:]
            self.settle(bridge, [(receipt, end) for receipt in newest], limit)
        self.roll_back()
        self.settle(first, [], 2)
        self.restore(first)
        if takes_over:
            self.settle(first, [], 2)

    @rule(bridge=st.sampled_from(BRIDGES))
    def restore(self, bridge: str) -> None:
        if not self.models[bridge].writes_lost:
            return
        held = self.held[bridge]
        known = set(self.shelf.turns)
        real = self.runner.run(self.queues[bridge].restore([turn for turn, _ in held.values()]))
        model = self.runner.run(self.models[bridge].restore([modelled for _, modelled in held.values()]))
        assert real == model
        for receipt in real:
            del held[receipt]
        entries = [self.shelf.turns[receipt].entry for receipt in self.shelf.turns.keys() - known]
        self.alive |= {entry.payload for entry in entries}
        self.restored |= {entry.seq for entry in entries}

    async def dump(self) -> dict[Any, Any]:
        found = {}
        async for key in self.client.scan_iter(match="*", count=1000):
            found[key] = (await self.client.dump(key), max(0, await self.client.pttl(key)))
        return found

    async def restore_keys(self, keys: dict[str, Any]) -> None:
        await self.client.flushdb()
        for key, (content, expires_ms) in keys.items():
            await self.client.restore(key, expires_ms, content)

    # Damage

    @rule(damage=st.sampled_from(DAMAGE), data=st.data())
    def damage_entry(self, damage: tuple[bytes, Fault], data: Any) -> None:
        lanes = sorted(lane for lane, entries in self.shelf.lanes.items() if entries)
        if not lanes:
            return
        lane = data.draw(st.sampled_from(lanes))
        entries = self.shelf.lanes[lane]
        place = data.draw(st.integers(0, len(entries) - 1))
        self.alive.discard(entries[place].payload)
        raw: Any
        raw, fault = damage
        entries[place] = Entry(0, entries[place].first_ms, raw, fault=fault)
        self.runner.run(self.client.lset(self.keys.lane_prefix + lane, -1 - place, raw))

    @rule(damage=st.sampled_from(DAMAGE), data=st.data())
    def damage_turn(self, damage: tuple[bytes, Fault], data: Any) -> None:
        if not self.shelf.turns:
            return
        receipt = data.draw(st.sampled_from(sorted(self.shelf.turns)))
        raw, fault = damage
        self.alive.discard(self.shelf.turns[receipt].entry.payload)
        self.shelf.turns[receipt].entry = Entry(0, 0, raw, fault=fault)
        self.runner.run(self.client.hset(self.keys.turns, receipt, raw))

    # Operators

    @rule(bridge=st.sampled_from(BRIDGES), data=st.data())
    def retry_dead(self, bridge: str, data: Any) -> None:
        self.settle(bridge, [(receipt, "dead") for receipt in sorted(self.held[bridge])[:1]], 1)
        if not self.shelf.dead:
            return
        place = data.draw(st.integers(0, len(self.shelf.dead) - 1))
        letter = self.runner.run(self.letters())[place]
        _, payload = self.shelf.dead[place]
        lane = self.shelf.retry(place)
        assert self.runner.run(self.admin.retry(letter)) == (lane is not None)
        if lane is not None:
            self.ended.discard(payload)
            self.alive.add(payload)
            self.handed.pop(lane, None)

    async def letters(self) -> list[DeadLetter]:
        return [letter async for letter in self.admin.dead()]

    @rule(user=st.sampled_from(USERS), most=st.integers(1, 5))
    def forget_user(self, user: str, most: int) -> None:
        shelf, lane = self.shelf, user_lane(user)
        waiting = shelf.lanes.get(lane, deque())
        gone = [waiting.popleft() for _ in range(min(most, len(waiting)))]
        dropped = self.runner.run(self.scripts.run(read("erase_user"), lane, most, "erased"))
        assert [told(entry) for entry in dropped] == [modelled(entry) for entry in gone]
        self.ended |= {entry.payload for entry in gone}
        if gone and not waiting:
            del shelf.lanes[lane]
            if lane in shelf.ready:
                shelf.ready.remove(lane)
        shelf.counters["settled:erased"] += len(gone)
        missed = self.runner.run(self.scripts.run(read("erase_missed"), user))
        assert missed == len(shelf.missed.pop(user, []))
        shelf.counters["missed_pending"] -= missed

    # What must hold

    @invariant()
    def looks_alike(self) -> None:
        real, model = self.runner.run(self.picture()), self.model_picture()
        assert real == model

    @invariant()
    def adds_up(self) -> None:
        shelf = self.shelf
        settled = sum(count for name, count in shelf.counters.items() if name.startswith("settled:"))
        waiting = sum(map(len, shelf.lanes.values()))
        assert shelf.counters["taken"] == settled + waiting + len(shelf.turns)
        assert len(set(shelf.ready)) == len(shelf.ready)
        assert set(shelf.ready) == shelf.lanes.keys() - shelf.busy.keys()

    @invariant()
    def counts_every_open_task(self) -> None:
        unsettled = sum(map(len, self.shelf.lanes.values())) + len(self.shelf.turns)
        assert self.runner.run(self.open_tasks()) == unsettled

    async def open_tasks(self) -> int:
        """Tasks taken and not settled, once the status has dropped the surplus that damaged records leave."""
        await self.queues["one"].status()
        return sum(map(int, await self.client.hvals(self.keys.open)))

    def note_buried(self, entries: list[Entry]) -> None:
        self.ended |= {entry.payload for entry in entries if entry.fault is not None}

    def everything_ends(self) -> None:
        """One bridge that goes on alone gives every task that Redis knows an outcome."""
        self.runner.run(self.admin.resume())
        self.shelf.paused = None
        self.runner.run(self.client.delete(self.keys.held))
        self.shelf.held.clear()
        self.held["two"].clear()
        for _ in range(1_000):
            self.restore("one")
            self.settle("one", [(receipt, "letta") for receipt in sorted(self.held["one"])], 4)
            self.run_out(set(self.shelf.turns) - self.held["one"].keys())
            if not (self.shelf.requests or self.shelf.lanes or self.shelf.turns):
                break
        assert self.runner.run(self.unfinished()) == (0, 0, 0)
        assert self.alive <= self.ended

    async def unfinished(self) -> tuple[int, int, int]:
        return (*await self.admin.unfinished(), await self.client.llen(self.settings.requests))

    async def picture(self) -> dict[str, Any]:
        keys = self.keys
        client: Any = self.client
        counters = {name.decode(): int(count) for name, count in (await client.hgetall(keys.counters)).items()}
        lanes, calls = {}, {}
        async for key in client.scan_iter(match=f"{keys.lane_prefix}*", count=1000):
            entries = await client.lrange(key, 0, -1)
            name = key.decode().removeprefix(keys.lane_prefix)
            lanes[name] = [told(entry) for entry in reversed(entries)]
        async for key in client.scan_iter(match=f"{keys.call_prefix}*", count=1000):
            calls[key.decode().removeprefix(keys.call_prefix)] = (await client.get(key)).decode()
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
            "calls": calls,
        }

    def model_picture(self) -> dict[str, Any]:
        shelf = self.shelf
        journal_bytes = {"journal_bytes": sum(len(turn) + len(reply) for _, turn, reply in shelf.journal)}
        return {
            "counters": {
                name: count
                for name, count in (shelf.counters | journal_bytes).items()
                if count and name != "journalled"
            },
            "untaken": len(shelf.requests),
            "lanes": {lane: list(map(modelled, entries)) for lane, entries in shelf.lanes.items() if entries},
            "ready": list(shelf.ready),
            "busy": shelf.busy,
            "turns": shelf.turns.keys(),
            "leases": shelf.turns.keys(),
            "replies": shelf.replies,
            "journal": len(shelf.journal),
            "dead": [payload for _, payload in shelf.dead],
            "missed": {user: shelf.missed.get(user, []) for user in USERS},
            "calls": shelf.calls,
        }

    def teardown(self) -> None:
        try:
            self.everything_ends()
        finally:
            self.runner.run(self.close())
            self.runner.close()

    async def close(self) -> None:
        await self.client.flushall()
        await self.client.aclose()


def told(entry: Any) -> Any:
    """What an entry in Redis says; clocks differ."""
    head, _, payload = entry.partition(b"\n")
    words = head.split(b" ")
    if len(words) != 3 or not all(word.isdigit() for word in words):
        return entry
    return int(words[0]), int(words[1]), words[1] != b"0" and words[1].startswith(b"0"), payload


def modelled(entry: Entry) -> bytes | tuple[int, int, bool, bytes]:
    """The same of the model's."""
    return (entry.seq, entry.attempts, entry.supposed, entry.payload) if entry.fault is None else entry.payload


def seen(turn: Turn) -> tuple[Any, ...]:
    """What both queues say of a turn; clocks differ."""
    known = (turn.kept_reply, turn.missed)
    return (turn.receipt, turn.lane, turn.attempts, turn.deliveries, turn.seq, turn.payload, *known)


def settlement(turn: Turn, end: str, told: Any) -> Settlement:
    """One of the ways in which a turn can end."""
    try:
        task = parse_task(turn.payload, Limits())
        ids: dict[str, Any] = {"user_id": task.user_id, "task_id": task.task_id}
    except MalformedMessage:
        ids = {}
    reply = json.dumps({"to": turn.receipt}).encode() if ids and end != "dead" else None
    outcome = Outcome.LETTA if end == "told" else Outcome(end)
    letter = {"code": "test", "number": turn.number, "lane": turn.lane, "user_id": ids.get("user_id")}
    return Settlement(
        turn.receipt,
        outcome,
        **ids,
        reply=reply,
        replaces_kept=end != "error",
        mark=b'"key":1' if reply else b"",
        caught_up=frozenset(told if end in {"told", "memory"} and ids else ()),
        missed=tuple(
            b'{"of":"%s","persona":"%d"}' % (turn.receipt.encode(), (turn.seq + more) % 2)
            for more in range(1 + turn.seq % 3 // 2)
        )
        if end == "memory" and ids
        else (),
        dead=json.dumps(letter).encode() if end == "dead" else None,
        journal=b"{}" if end in {"letta", "memory"} and reply else None,
    )


def test_scripts_behave_like_the_model(redis_url: str) -> None:
    class OnRedis(QueueMachine):
        url = redis_url

    run_machine(
        OnRedis,
        settings=settings(
            max_examples=30,
            stateful_step_count=40,
            deadline=None,
            database=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
        ),
    )
