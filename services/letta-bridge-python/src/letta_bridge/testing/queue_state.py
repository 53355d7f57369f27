"""What Redis holds of one queue, as plain Python: the state on which the in-memory adapters work."""

from __future__ import annotations

import asyncio
import json
from collections import Counter, deque
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field, fields, replace

from letta_bridge.request_queue.interrupts import InterruptRequest
from letta_bridge.request_queue.keys import user_lane
from letta_bridge.request_queue.port import FULL_LANE, Capacity, PauseMode
from letta_bridge.request_queue.records import Fault, parts_of_number
from shared_utils.contracts.messages import json_object


@dataclass(slots=True)
class Entry:
    """A task in a lane."""

    seq: int
    first_ms: int
    payload: bytes
    attempts: int = 0
    supposed: bool = False
    fault: Fault | None = None
    """Set if the record is damaged or newer; ``payload`` is the whole record then."""


@dataclass(slots=True)
class TaskOrder:
    """The hash ``order`` and the sorted set ``opt_ins``: which tasks were pushed before an opt-in."""

    tasks: int = 0
    newest_ms: int = 0
    opted_in_ms: int = 0
    waiting: dict[str, int] = field(default_factory=dict)
    """User key → ``tasks`` at which the user's opt-in applies."""

    def stamp(self, now_ms: int) -> int:
        """``first_ms`` of the task that is taken now."""
        self.tasks += 1
        first_ms = max(now_ms, self.opted_in_ms + 1)
        self.newest_ms = max(self.newest_ms, first_ms)
        return first_ms

    def opt_in(self, key: str, untaken: int, now_ms: int) -> str:
        """The time up to which an opt-in that is made now does not apply; ``+`` while older tasks are not taken."""
        if untaken:
            self.waiting[key] = self.tasks + untaken
            return "+"
        self.waiting.pop(key, None)
        self.opted_in_ms = max(now_ms, self.newest_ms, self.opted_in_ms)
        return str(self.opted_in_ms)

    def apply(self, choices: dict[str, bytes], now_ms: int, *, all_taken: bool) -> None:
        """Write the times of the opt-ins that wait for no task any more."""
        for key in [key for key, tasks in self.waiting.items() if all_taken or tasks <= self.tasks]:
            state, chosen_ms, *rest = choices.get(key, b"0 0").split()
            if (state, rest) == (b"1", [b"+"]):
                choices[key] = b"1 %b %b" % (chosen_ms, self.opt_in(key, 0, now_ms).encode())
            self.waiting.pop(key, None)


@dataclass(slots=True)
class InFlight:
    """A turn that some bridge works on."""

    bridge: str
    lane: str
    entry: Entry
    deadline: float


@dataclass(slots=True)
class StreamEntry:
    """An event in a task's stream."""

    event: bytes
    receipt: str
    count: int


@dataclass(slots=True)
class InterruptEntry:
    """An interrupt that is kept."""

    request: InterruptRequest
    number: str | None
    """Of the task that it breaks off; None before that is handed out, and of a task that had ended."""
    over: bool = False
    late: bool = False
    """The task had ended, and what was heard of it is not noted yet."""


@dataclass(slots=True)
class InMemoryQueueState:
    """What several bridges share: the state of one queue. Times are seconds of ``clock``."""

    clock: Callable[[], float]
    requests: deque[bytes] = field(default_factory=deque)
    lanes: dict[str, deque[Entry]] = field(default_factory=dict)
    ready: deque[str] = field(default_factory=deque)
    turns: dict[str, InFlight] = field(default_factory=dict)
    busy: dict[str, str] = field(default_factory=dict)
    kept: dict[tuple[str, str], bytes] = field(default_factory=dict)
    missed: dict[str, list[bytes]] = field(default_factory=dict)
    replies: list[bytes] = field(default_factory=list)
    published: list[tuple[str, bytes]] = field(default_factory=list)
    dead: list[tuple[bytes, bytes]] = field(default_factory=list)
    counters: Counter[str] = field(default_factory=Counter)
    tallies: Counter[tuple[int, str]] = field(default_factory=Counter)
    """(Minute, word) → turns."""
    bridges: set[str] = field(default_factory=set)
    paused: PauseMode | None = None
    held: dict[str, float] = field(default_factory=dict)
    """Lane → until when no turn of it begins."""
    erasures: dict[str, int] = field(default_factory=dict)
    """SHA-256 of a user's id → when the user was erased, ms."""
    journal: list[tuple[str, bytes, bytes]] = field(default_factory=list)
    """Id, what the settlement says, reply."""
    journal_writer: tuple[str, float] = ("", 0.0)
    """Who writes the journal, and until when."""
    capacity: Capacity = field(default_factory=lambda: Capacity(used_bytes=0, limit_bytes=0, saves=True))
    choices: dict[str, bytes] = field(default_factory=dict)
    """Fields of the hash ``choices``."""
    order: TaskOrder = field(default_factory=TaskOrder)
    calls: dict[str, str] = field(default_factory=dict)
    """Taker → ticket of its last hand-out call."""
    streams: dict[tuple[str, str], list[StreamEntry]] = field(default_factory=dict)
    """User and task id → the events of the task's stream."""
    control: list[bytes] = field(default_factory=list)
    """The control list."""
    interrupts: dict[tuple[str, str], InterruptEntry] = field(default_factory=dict)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)

    def push(self, payload: bytes) -> None:
        """What a producer's LPUSH does."""
        self.requests.append(payload)
        self.arrived.set()

    def retry(self, place: int) -> str | None:
        """Requeue the task of a dead letter, the newest being 0; its lane, or None if the letter names no number."""
        line, payload = self.dead[place]
        about = json.loads(line)
        number = parts_of_number(about.get("number"))
        lane = about.get("lane")
        if str(lane).startswith(FULL_LANE) and about.get("user_id"):
            lane = user_lane(about["user_id"])
        if number is None or lane is None:
            return None
        del self.dead[place]
        kept_under, key = (str(about.get("user_id")), str(about.get("task_id"))), about.get("idempotency_key")
        kept = json_object(self.kept.get(kept_under, b"{}"))
        if not kept or (kept.get("error") is True and kept.get("idempotency_key", key) in {key, None}):
            self.kept.pop(kept_under, None)
            if key not in {None, about["number"]}:
                self.kept[kept_under] = json.dumps({"error": True, "retryable": True, **about}).encode()
        self.counters["taken"] += 1
        self.enqueue(lane, Entry(int(number[0]), int(number[1]), payload, attempts=1, supposed=True))
        return str(lane)

    def enqueue(self, lane: str, entry: Entry) -> None:
        """Add a task at the tail of a lane."""
        waiting = self.lanes.setdefault(lane, deque())
        waiting.append(entry)
        if len(waiting) == 1 and lane not in self.busy:
            self.ready.append(lane)

    def snapshot(self) -> InMemoryQueueState:
        """A copy, such as a lagging replica has."""
        return replace(self, **{name: deepcopy(getattr(self, name)) for name in self._state()})

    def roll_back(self, earlier: InMemoryQueueState) -> None:
        """Lose all writes since the snapshot."""
        for name in self._state():
            setattr(self, name, deepcopy(getattr(earlier, name)))

    def _state(self) -> list[str]:
        return [one.name for one in fields(self) if one.name not in {"clock", "arrived"}]
