"""The request queue in memory: for tests, and a readable model of what the Lua scripts do."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter, deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from letta_bridge.request_queue.journal_backlog import LEASE, JournalBatch, JournalEntry
from letta_bridge.request_queue.keys import user_lane
from letta_bridge.request_queue.port import (
    FULL_LANE,
    FULL_LANES,
    Exchange,
    Outcome,
    PauseMode,
    QueueStatus,
    Settlement,
    Turn,
)
from letta_bridge.settings import QueueSettings
from shared_utils.errors import MalformedMessage
from shared_utils.messages import parse_task


@dataclass(slots=True)
class _Entry:
    seq: int
    first_ms: int
    payload: bytes
    attempts: int = 0


@dataclass(slots=True)
class _InFlight:
    bridge: str
    waited: bool
    """Taken by an idle bridge that waited for it."""
    lane: str
    entry: _Entry
    deadline: float


@dataclass(slots=True)
class Shelf:
    """What several bridges share: the state of one queue. Times are seconds of ``clock``."""

    clock: Callable[[], float]
    requests: deque[bytes] = field(default_factory=deque)
    lanes: dict[str, deque[_Entry]] = field(default_factory=dict)
    ready: deque[str] = field(default_factory=deque)
    turns: dict[str, _InFlight] = field(default_factory=dict)
    busy: dict[str, str] = field(default_factory=dict)
    kept: dict[tuple[str, str], bytes] = field(default_factory=dict)
    missed: dict[str, list[bytes]] = field(default_factory=dict)
    replies: list[bytes] = field(default_factory=list)
    published: list[tuple[str, bytes]] = field(default_factory=list)
    dead: list[tuple[bytes, bytes]] = field(default_factory=list)
    counters: Counter[str] = field(default_factory=Counter)
    bridges: set[str] = field(default_factory=set)
    paused: PauseMode | None = None
    journal: list[tuple[str, bytes, bytes]] = field(default_factory=list)
    """Id, what the settlement says, reply."""
    journal_writer: tuple[str, float] = ("", 0.0)
    """Who writes the journal, and until when."""
    arrived: asyncio.Event = field(default_factory=asyncio.Event)

    def push(self, payload: bytes) -> None:
        """What a producer's LPUSH does."""
        self.requests.append(payload)
        self.arrived.set()


class InMemoryQueue:
    """One bridge's view of a :class:`Shelf`."""

    def __init__(self, shelf: Shelf, settings: QueueSettings, bridge: str) -> None:
        self.shelf = shelf
        self._settings = settings
        self._bridge = bridge
        self.max_lane = 0
        """Tasks that may wait in a lane, 0 for any number; those beyond go to lanes of their own (FULL_LANE)."""
        self.journal_bound = 100_000
        """Turns that may wait for the journal; those beyond are not journalled, but counted."""

    async def exchange(self, settlements: Sequence[Settlement], want: int) -> Exchange:
        """See :class:`RequestQueue`."""
        settled = [self._settle(one) for one in settlements]
        if settlements and not want:
            return Exchange(settled, more=bool(self.shelf.ready))
        return Exchange(settled, self._dispatch(want, waited=False))

    async def take(self, want: int, timeout: float) -> list[Turn]:
        """See :class:`RequestQueue`."""
        if not self.shelf.requests or self.shelf.paused is not None:
            self.shelf.arrived.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.shelf.arrived.wait(), timeout)
        return [] if self.shelf.paused is not None else self._dispatch(want, waited=True)

    async def renew(self, receipts: Collection[str]) -> set[str]:
        """See :class:`RequestQueue`."""
        deadline = self.shelf.clock() + self._settings.lease
        for receipt in receipts:
            if receipt in self.shelf.turns:
                self.shelf.turns[receipt].deadline = deadline
        return {receipt for receipt in receipts if receipt not in self.shelf.turns}

    async def release(self, receipts: Collection[str]) -> None:
        """See :class:`RequestQueue`."""
        for receipt in receipts:
            if receipt in self.shelf.turns:
                self.shelf.turns[receipt].entry.attempts -= 1
                self._give_back(receipt)

    async def release_strays(self, known: Collection[str], *, waited: bool = False) -> int:
        """See :class:`RequestQueue`."""
        strays = [
            receipt
            for receipt, turn in self.shelf.turns.items()
            if (turn.bridge, turn.waited) == (self._bridge, waited) and receipt not in known
        ]
        await self.release(strays)
        return len(strays)

    async def missed(self, user_id: str) -> list[bytes]:
        """See :class:`RequestQueue`."""
        return list(self.shelf.missed.get(user_id, []))

    async def status(self) -> QueueStatus:
        """See :class:`RequestQueue`."""
        shelf = self.shelf
        taken = [turn.entry.first_ms for turn in shelf.turns.values()]
        oldest = min((*taken, *(lane[0].first_ms for lane in shelf.lanes.values())), default=None)
        return QueueStatus(
            depth=len(shelf.requests),
            waiting=sum(len(lane) for lane in shelf.lanes.values()),
            in_flight=len(shelf.turns),
            ready_lanes=len(shelf.ready),
            dead=len(shelf.dead),
            oldest_age=0 if oldest is None else shelf.clock() - oldest / 1000,
            bridges=len(shelf.bridges),
            counters=dict(shelf.counters),
            paused=shelf.paused,
            unjournalled=len(shelf.journal),
        )

    async def close(self) -> None:
        """See :class:`RequestQueue`."""

    def _dispatch(self, want: int, *, waited: bool) -> list[Turn]:
        shelf = self.shelf
        shelf.bridges.add(self._bridge)
        for receipt in [receipt for receipt, turn in shelf.turns.items() if turn.deadline <= shelf.clock()]:
            self._give_back(receipt)
            shelf.counters["redelivered"] += 1
        while shelf.requests and shelf.paused is None:
            self._route(shelf.requests.popleft())
        turns: list[Turn] = []
        if shelf.paused is PauseMode.ALL:
            return turns
        while len(turns) < want and shelf.ready:
            turns.append(self._hand_out(shelf.ready.popleft(), waited=waited))
        return turns

    def _route(self, payload: bytes) -> None:
        shelf = self.shelf
        shelf.counters["taken"] += 1
        seq = shelf.counters["taken"]
        try:
            lane = user_lane(parse_task(payload, self._settings.limits).user_id)
        except MalformedMessage:
            lane = f"~{seq % 64}"
        if self.max_lane and len(shelf.lanes.get(lane, ())) >= self.max_lane:
            lane = f"{FULL_LANE}{seq % FULL_LANES}"
        waiting = shelf.lanes.setdefault(lane, deque())
        waiting.append(_Entry(seq, int(shelf.clock() * 1000), payload))
        if len(waiting) == 1 and lane not in shelf.busy:
            shelf.ready.append(lane)

    def _hand_out(self, lane: str, *, waited: bool) -> Turn:
        shelf = self.shelf
        entry = shelf.lanes[lane].popleft()
        if not shelf.lanes[lane]:
            del shelf.lanes[lane]
        entry.attempts += 1
        shelf.counters["handed_out"] += 1
        receipt = f"{entry.seq}-{shelf.counters['handed_out']}"
        shelf.turns[receipt] = _InFlight(self._bridge, waited, lane, entry, shelf.clock() + self._settings.lease)
        shelf.busy[lane] = receipt
        kept, missed = self._known_of(entry.payload)
        cut = entry.payload[: self._settings.max_payload_bytes + 1]
        in_lane = shelf.clock() - entry.first_ms / 1000
        return Turn(receipt, lane, entry.attempts, entry.seq, entry.first_ms, cut, kept, in_lane, missed)

    def _known_of(self, payload: bytes) -> tuple[bytes | None, int]:
        try:
            task = parse_task(payload, self._settings.limits)
        except MalformedMessage:
            return None, 0
        return self.shelf.kept.get((task.user_id, task.task_id)), len(self.shelf.missed.get(task.user_id, []))

    def _settle(self, end: Settlement) -> bool:
        shelf = self.shelf
        turn = shelf.turns.get(end.receipt)
        if turn is None:
            return False
        if end.reply is not None:
            if end.user_id and end.task_id:
                shelf.kept[end.user_id, end.task_id] = end.reply
            if end.outcome is not Outcome.REPEATED:
                shelf.replies.append(end.reply)
            if end.publish:
                shelf.published.append((self._settings.responses, end.reply))
        if end.task_response is not None and end.publish and end.task_id:
            shelf.published.append((self._settings.task_response + end.task_id, end.task_response))
        self._change_missed(end)
        self._journalise(end)
        if end.dead is not None:
            json.loads(end.dead)
            shelf.dead.insert(0, (end.dead, turn.entry.payload))
        shelf.counters[f"settled:{end.outcome}"] += 1
        self._close(end.receipt)
        if turn.lane in shelf.lanes:
            shelf.ready.append(turn.lane)
        return True

    def _change_missed(self, end: Settlement) -> None:
        shelf = self.shelf
        before = len(shelf.missed.get(end.user_id, []))
        if end.missed is not None:
            kept = [*shelf.missed.get(end.user_id, []), end.missed]
            shelf.missed[end.user_id] = kept[-self._settings.missed_kept :]
        elif end.told_missed:
            shelf.missed.pop(end.user_id, None)
        shelf.counters["missed_pending"] += len(shelf.missed.get(end.user_id, [])) - before

    def _journalise(self, end: Settlement) -> None:
        shelf = self.shelf
        if end.journal is None:
            return
        if len(shelf.journal) >= self.journal_bound:
            shelf.counters["journal_dropped"] += 1
            return
        shelf.counters["journalled"] += 1
        number = f"{int(shelf.clock() * 1000)}-{shelf.counters['journalled']}"
        shelf.journal.append((number, end.journal, end.reply or b""))

    def _close(self, receipt: str) -> _InFlight:
        turn = self.shelf.turns.pop(receipt)
        del self.shelf.busy[turn.lane]
        return turn

    def _give_back(self, receipt: str) -> None:
        turn = self._close(receipt)
        self.shelf.lanes.setdefault(turn.lane, deque()).appendleft(turn.entry)
        self.shelf.ready.appendleft(turn.lane)


class InMemoryJournalBacklog:
    """The same over a :class:`Shelf`."""

    def __init__(self, shelf: Shelf, bridge: str) -> None:
        self._shelf = shelf
        self._bridge = bridge

    async def take(self, written: Sequence[str], want: int) -> JournalBatch:
        """See :class:`JournalBacklog`."""
        shelf = self._shelf
        self._forget(written)
        writer, until = shelf.journal_writer
        mine = writer in {"", self._bridge} or until <= shelf.clock()
        if mine:
            shelf.journal_writer = (self._bridge, shelf.clock() + LEASE)
        entries = [JournalEntry(*entry) for entry in shelf.journal[:want]] if mine else []
        return JournalBatch(mine, len(shelf.journal), shelf.counters["journal_dropped"], entries)

    async def leave(self, written: Sequence[str]) -> None:
        """See :class:`JournalBacklog`."""
        self._forget(written)
        if self._shelf.journal_writer[0] == self._bridge:
            self._shelf.journal_writer = ("", 0.0)

    def _forget(self, written: Sequence[str]) -> None:
        self._shelf.journal = [entry for entry in self._shelf.journal if entry[0] not in written]
