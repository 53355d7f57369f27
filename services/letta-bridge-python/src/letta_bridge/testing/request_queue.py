"""The request queue in memory: for tests, and a readable model of what the Lua scripts do."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter, deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from itertools import chain

from letta_bridge.request_queue.calls import TICKET_DIGITS, Calls, receipt
from letta_bridge.request_queue.interrupts import Interrupted, Interruption, InterruptOutcome, InterruptRequest
from letta_bridge.request_queue.keys import user_lane, user_of
from letta_bridge.request_queue.port import (
    FULL_LANE,
    FULL_LANES,
    UNCONDITIONAL,
    FetchResult,
    HeldChoice,
    Outcome,
    PauseMode,
    QueueStatus,
    Refusal,
    Settlement,
    StreamRefusal,
    TaskEvents,
    Turn,
    fingerprint,
    is_full,
    restored_lane,
    user_of_restored,
)
from letta_bridge.request_queue.recent_turns import RECENT_MINUTES, RecentTurns
from letta_bridge.settings import QueueSettings
from letta_bridge.testing.queue_state import Entry, InFlight, InMemoryQueueState, InterruptEntry, StreamEntry
from shared_utils.contracts.messages import json_object, parse_task
from shared_utils.errors import MalformedMessage
from shared_utils.persistence.choices.port import user_key


class InMemoryQueue:
    """One bridge's view of a :class:`InMemoryQueueState`."""

    def __init__(self, shelf: InMemoryQueueState, settings: QueueSettings, bridge: str) -> None:
        self.shelf = shelf
        self._settings = settings
        self._bridge = bridge
        self.passes = Calls("-")
        self.waits = Calls("+")
        self._writes_lost = False
        self.max_lane = 0
        """Tasks that may wait in a lane, 0 for any number; those beyond go to lanes of their own (FULL_LANE)."""
        self.journal_bound = 100_000
        self.journal_bytes = 268_435_456
        """Turns that may wait for the journal; those beyond are not journalled, but counted."""
        self.barge_in = False
        """Call :attr:`on_barge_in` with a user who writes while a turn of theirs is in flight, and its receipt."""
        self.on_barge_in: Callable[[str, str], object] = lambda _user, _receipt: None

    @property
    def writes_lost(self) -> bool:
        """See :class:`RequestQueue`."""
        return self._writes_lost

    async def settle_and_fetch(self, settlements: Sequence[Settlement], limit: int) -> FetchResult:
        """See :class:`RequestQueue`."""
        fetched = FetchResult()
        for settlement in settlements:
            refusal = self._settle(settlement)
            fetched.settled.append(refusal is None)
            if isinstance(refusal, Refusal):
                fetched.refused[settlement.receipt] = refusal
            elif isinstance(refusal, InterruptRequest):
                fetched.interrupted[settlement.receipt] = refusal
        if settlements and not limit:
            fetched.more = bool(self.shelf.ready)
        else:
            fetched.turns = self._dispatch(limit, self.passes)
        return fetched

    async def wait_and_fetch(self, limit: int, timeout: float) -> list[Turn]:
        """See :class:`RequestQueue`."""
        if not self.shelf.requests or self.shelf.paused is not None:
            self.shelf.arrived.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.shelf.arrived.wait(), timeout)
        return [] if self.shelf.paused is not None else self._dispatch(limit, self.waits)

    async def renew(self, receipts: Collection[str]) -> set[str]:
        """See :class:`RequestQueue`."""
        deadline = self.shelf.clock() + self._settings.lease_seconds
        lost = set()
        for one in receipts:
            if (turn := self._mine(one)) is not None:
                turn.deadline = deadline
            elif one not in self.shelf.turns and self._forgotten(one):
                self._writes_lost = True
            else:
                lost.add(one)
        return lost

    async def restore(self, turns: Collection[Turn]) -> set[str]:
        """See :class:`RequestQueue`."""
        lost = {turn.receipt for turn in turns if not self._restore(turn)}
        self._writes_lost = False
        self.passes.start_again()
        self.waits.start_again()
        return lost

    async def release(self, receipts: Collection[str]) -> None:
        """See :class:`RequestQueue`."""
        for one in receipts:
            if (turn := self._mine(one)) is not None:
                turn.entry.attempts = max(0, turn.entry.attempts - 1)
                self._give_back(one)

    async def release_orphans(self, known: Collection[str], *, from_idle: bool = False) -> int:
        """See :class:`RequestQueue`."""
        calls = self.waits if from_idle else self.passes
        orphans = [one for one in self.shelf.turns if calls.lost(one) and one not in known]
        await self.release(orphans)
        return len(orphans)

    async def missed(self, user_id: str) -> list[bytes]:
        """See :class:`RequestQueue`."""
        return list(self.shelf.missed.get(user_id, []))

    async def append(self, streams: Sequence[TaskEvents]) -> list[StreamRefusal | None]:
        """See :class:`RequestQueue`."""
        return [self._append(stream) for stream in streams]

    async def events(self, user_id: str, task_id: str) -> list[bytes]:
        """See :class:`RequestQueue`."""
        return [entry.event for entry in self.shelf.streams.get((user_id, task_id), [])]

    async def correct(self, user_id: str, task_id: str, record: bytes) -> None:
        """See :class:`RequestQueue`."""
        found = self.shelf.interrupts.get((user_id, task_id))
        if found is None or (found.over and not found.late):
            return
        self.shelf.interrupts[user_id, task_id] = replace(found, over=True, late=False)
        if record:
            self._change_missed(Settlement("", Outcome.LETTA, user_id=user_id, missed=(record,)))

    async def interrupt(self, request: InterruptRequest, message: bytes | None = None) -> Interrupted:
        """See :class:`RequestQueue`."""
        if message is not None and not request.task_id:
            if message not in self.shelf.control:
                return Interrupted(InterruptOutcome.TAKEN)
            self.shelf.control.remove(message)
        return self._interrupt(request)

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
            held=sum(until > shelf.clock() for until in shelf.held.values()),
            recent=await self.recent(),
            capacity=shelf.capacity,
            unjournalled_age=shelf.clock() - int(shelf.journal[0][0].partition("-")[0]) / 1000
            if shelf.journal
            else 0.0,
        )

    async def recent(self) -> RecentTurns:
        """See :class:`RequestQueue`."""
        minute, words = int(self.shelf.clock() // 60), Counter[str]()
        for (tallied, word), count in self.shelf.tallies.items():
            if minute - RECENT_MINUTES < tallied <= minute:
                words[word] += count
        return RecentTurns.of(words)

    async def close(self) -> None:
        """See :class:`RequestQueue`."""

    def _interrupt(self, request: InterruptRequest) -> Interrupted:
        shelf, user = self.shelf, request.user_id
        one = shelf.busy.get(user_lane(user), "")
        turn, running, number = shelf.turns.get(one), "", ""
        if turn is not None and turn.entry.fault is None:
            number = f"{turn.entry.seq}-{turn.entry.first_ms}"
            running = self._task_id(turn.entry)
        stream = shelf.streams.get((user, running))
        is_streaming = stream and json_object(stream[-1].event).get("type") not in {"end", "error"}
        if not request.task_id and request.hand_out and not (one == request.hand_out and is_streaming):
            running = ""
        if not request.task_id and not running:
            return Interrupted(InterruptOutcome.NOTHING)
        task_id = request.task_id or running
        kept, before = shelf.kept.get((user, task_id)), shelf.interrupts.get((user, task_id))
        if before is not None and (running != task_id or before.number == number):
            if before.late and kept is not None:
                return Interrupted(InterruptOutcome.OVER, task_id, kept_reply=kept)
            return Interrupted(InterruptOutcome.REPEATED, task_id)
        if running == task_id:
            shelf.interrupts[user, task_id] = InterruptEntry(request, number)
            self._publish_interrupted(request, task_id)
            return Interrupted(InterruptOutcome.INTERRUPTED, task_id, one)
        shelf.interrupts[user, task_id] = InterruptEntry(request, None, over=kept is not None, late=kept is not None)
        if kept is not None:
            return Interrupted(InterruptOutcome.OVER, task_id, kept_reply=kept)
        return Interrupted(InterruptOutcome.WAITING, task_id)

    def _dispatch(self, limit: int, calls: Calls) -> list[Turn]:
        shelf = self.shelf
        ticket = calls.begin()
        shelf.bridges.add(self._bridge)
        for one in [one for one, turn in shelf.turns.items() if turn.deadline <= shelf.clock()]:
            self._give_back(one)
            shelf.counters["redelivered"] += 1
        if shelf.calls.get(self._taker(calls.mark), "") < calls.last_answered:
            self._doubt_heads()
            calls.refused(ticket)
            self._writes_lost = True
            return []
        shelf.calls[self._taker(calls.mark)] = ticket
        while shelf.requests and shelf.paused is None:
            self._route(shelf.requests.popleft(), ticket)
            shelf.order.apply(shelf.choices, int(shelf.clock() * 1000), all_taken=not shelf.requests)
        turns: list[Turn] = []
        passed_over: list[str] = []
        while shelf.paused is not PauseMode.ALL and shelf.ready and not is_full(turns, limit):
            lane = shelf.ready.popleft()
            if self._is_held(lane):
                passed_over.append(lane)
            elif self._set_unreadable_aside(lane):
                turns.append(self._hand_out(lane, receipt(ticket, calls.mark, len(turns) + 1)))
        shelf.ready.extend(passed_over)
        calls.answered(ticket)
        return turns

    def _is_held(self, lane: str) -> bool:
        held = self.shelf.held
        return any(held.get(one, 0.0) > self.shelf.clock() for one in (lane, user_of_restored(lane)))

    def _doubt_heads(self) -> None:
        for lane in self.shelf.ready:
            head = self.shelf.lanes[lane][0]
            if head.attempts == 0:
                head.attempts, head.supposed = 1, True

    def _route(self, payload: bytes, ticket: str) -> None:
        shelf = self.shelf
        shelf.counters["taken"] += 1
        place, first_ms = shelf.counters["taken"], shelf.order.stamp(int(shelf.clock() * 1000))
        try:
            lane = user_lane(parse_task(payload, self._settings.limits).user_id)
        except MalformedMessage:
            lane = f"~{place % 64}"
        if self.max_lane and len(shelf.lanes.get(lane, ())) >= self.max_lane:
            lane = f"{FULL_LANE}{place % FULL_LANES}"
        user = user_of(lane)
        if self.barge_in and user is not None and lane in shelf.busy and not self._runs_in(lane, payload):
            self.on_barge_in(user, shelf.busy[lane])
        shelf.enqueue(lane, Entry(int(f"{place}{ticket}"), first_ms, payload))

    def _runs_in(self, lane: str, payload: bytes) -> bool:
        """Whether the turn in flight in a lane is of the same task."""
        task_id = json_object(payload).get("task_id")
        running = self.shelf.turns[self.shelf.busy[lane]].entry.payload
        return bool(task_id) and json_object(running).get("task_id") == task_id

    def _set_unreadable_aside(self, lane: str) -> bool:
        """Returns whether a readable entry is left."""
        waiting = self.shelf.lanes[lane]
        while waiting and waiting[0].fault is not None:
            self._bury(waiting.popleft(), "entry", lane)
        if not waiting:
            del self.shelf.lanes[lane]
        return bool(waiting)

    def _bury(self, entry: Entry, kind: str, lane: str) -> None:
        about = {"v": 2, "record": kind, "code": entry.fault, "lane": lane, "user_id": user_of(lane)}
        self.shelf.dead.insert(0, (json.dumps(about).encode(), entry.payload))
        self.shelf.counters["settled:dead"] += 1

    def _hand_out(self, lane: str, one: str) -> Turn:
        shelf = self.shelf
        entry = shelf.lanes[lane].popleft()
        if not shelf.lanes[lane]:
            del shelf.lanes[lane]
        entry.attempts += 1
        shelf.counters["handed_out"] += 1
        self._fly(one, lane, entry)
        kept, missed, choice = self._known_of(entry.payload)
        cut = entry.payload[: self._settings.max_payload_bytes + 1]
        in_lane = max(0.0, shelf.clock() - entry.first_ms / 1000)
        seq, first_ms = entry.seq, entry.first_ms
        supposed = entry.supposed
        interruption = Interruption(self._interrupt_at_hand_out(entry))
        return Turn(
            one, lane, entry.attempts, seq, first_ms, cut, kept, in_lane, missed, choice, supposed, interruption
        )

    def _task_id(self, entry: Entry) -> str:
        task_id = json_object(entry.payload).get("task_id")
        return str(task_id) if task_id else f"{self._settings.requests}-{entry.first_ms}-{entry.seq}"

    def _interrupt_at_hand_out(self, entry: Entry) -> InterruptRequest | None:
        try:
            user = parse_task(entry.payload, self._settings.limits).user_id
        except MalformedMessage:
            return None
        number = f"{entry.seq}-{entry.first_ms}"
        found = self.shelf.interrupts.get((user, self._task_id(entry)))
        if found is not None and found.number is None and not found.over:
            found.number = number
        return found.request if found is not None and found.number == number else None

    def _append(self, stream: TaskEvents) -> StreamRefusal | None:
        turn = self._mine(stream.receipt)
        if turn is None:
            if stream.receipt not in self.shelf.turns and self._forgotten(stream.receipt):
                self._writes_lost = True
                return StreamRefusal.FORGOTTEN
            return StreamRefusal.TAKEN_OVER
        if self._interrupt_of(stream.user_id, stream.task_id, turn.entry) is not None:
            stream.interrupt = self._interrupt_of(stream.user_id, stream.task_id, turn.entry)
            return StreamRefusal.INTERRUPTED
        self._add_events(stream)
        return None

    def _add_events(self, stream: TaskEvents) -> bool:
        """False, and nothing added, if the shelf has lost earlier events."""
        kept = self.shelf.streams.setdefault((stream.user_id, stream.task_id), [])
        there = kept[-1].count if kept and kept[-1].receipt == stream.receipt else 0
        if stream.stored == UNCONDITIONAL:
            there = 0
        elif there < stream.stored:
            stream.stored = there
            return False
        for count in range(there, len(stream.events)):
            self._add_event(stream.user_id, stream.task_id, stream.events[count], stream.receipt, count + 1)
        stream.stored = len(stream.events)
        return True

    def _add_event(self, user_id: str, task_id: str, event: bytes, one: str, count: int) -> None:
        kept = self.shelf.streams.setdefault((user_id, task_id), [])
        event = b'{"v":1,"seq":%d,' % len(kept) + event[1:]
        kept.append(StreamEntry(event, one, count))
        self.shelf.published.append((self._settings.task_stream + task_id, event))

    def _unsaid(self, stream: TaskEvents) -> list[bytes]:
        """Of the last events of an interrupted turn: that it was interrupted, unless that is known, and the end."""
        kept = self.shelf.streams.get((stream.user_id, stream.task_id), [])
        is_known = bool(kept) and json_object(kept[-1].event).get("type") == "interrupted"
        if json_object(stream.events[0]).get("type") == "interrupted" and not is_known:
            return stream.events
        return stream.events[-1:]

    def _publish_interrupted(self, request: InterruptRequest, task_id: str) -> None:
        kept = self.shelf.streams.get((request.user_id, task_id))
        if not kept or json_object(kept[-1].event).get("type") in {"end", "error"}:
            return
        heard = None if request.heard is None else request.heard.model_dump(exclude_none=True)
        attempt = json_object(kept[-1].event).get("attempt", 1)
        about = {"task_id": task_id, "user_id": request.user_id, "attempt": attempt}
        event = json.dumps(about | {"type": "interrupted", "heard": heard}).encode()
        self._add_event(request.user_id, task_id, event, kept[-1].receipt, kept[-1].count)

    def _fly(self, one: str, lane: str, entry: Entry) -> None:
        deadline = self.shelf.clock() + self._settings.lease_seconds
        self.shelf.turns[one] = InFlight(self._bridge, lane, entry, deadline)
        self.shelf.busy[lane] = one

    def _restore(self, turn: Turn) -> bool:
        shelf = self.shelf
        if turn.receipt in shelf.turns or not self._forgotten(turn.receipt):
            return self._mine(turn.receipt) is not None
        lane = turn.lane
        waiting = [entry for entry in shelf.lanes.get(lane, ()) if entry.seq == turn.seq and entry.fault is None]
        whole = 0 < len(turn.payload) <= self._settings.max_payload_bytes
        runs_there = lane in shelf.busy and shelf.turns[shelf.busy[lane]].entry.seq == turn.seq
        if waiting:
            self._take_out(lane, waiting[0])
        elif runs_there or not whole:
            return False
        else:
            self._take_back(turn.payload)
            shelf.counters["taken"] += 1
            shelf.order.newest_ms = max(shelf.order.newest_ms, turn.first_ms)
        if lane in shelf.busy:
            lane = restored_lane(lane, turn.receipt)
        elif lane in shelf.ready:
            shelf.ready.remove(lane)
        payload = waiting[0].payload if waiting else turn.payload
        self._fly(turn.receipt, lane, Entry(turn.seq, turn.first_ms, payload, turn.attempts, turn.supposed))
        shelf.counters["restored"] += 1
        return True

    def _take_back(self, payload: bytes) -> None:
        task_id = json_object(payload).get("task_id")
        named = (isinstance(task_id, str) and task_id != "") or type(task_id) in {int, float}
        if named and payload in self.shelf.requests:
            self.shelf.requests.remove(payload)

    def _take_out(self, lane: str, entry: Entry) -> None:
        shelf = self.shelf
        shelf.lanes[lane].remove(entry)
        if not shelf.lanes[lane]:
            del shelf.lanes[lane]
            if lane in shelf.ready:
                shelf.ready.remove(lane)

    def _taker(self, mark: str) -> str:
        return self._bridge + ("+" if mark == "+" else "")

    def _forgotten(self, one: str) -> bool:
        """Whether the shelf has lost this hand-out."""
        last = self.shelf.calls.get(self._taker(one[TICKET_DIGITS : TICKET_DIGITS + 1]), "")
        return len(one) > TICKET_DIGITS and last < one[:TICKET_DIGITS]

    def _mine(self, one: str) -> InFlight | None:
        turn = self.shelf.turns.get(one)
        return turn if turn is not None and turn.bridge == self._bridge and turn.entry.fault is None else None

    def _known_of(self, payload: bytes) -> tuple[bytes | None, int, HeldChoice | None]:
        shelf = self.shelf
        try:
            task = parse_task(payload, self._settings.limits)
        except MalformedMessage:
            return None, 0, None
        fields = ("complete", "generation", "changes", user_key(task.user_id))
        choice = HeldChoice(task.user_id, *map(shelf.choices.get, fields))
        return shelf.kept.get((task.user_id, task.task_id)), len(shelf.missed.get(task.user_id, [])), choice

    def _settle(self, end: Settlement) -> Refusal | InterruptRequest | bool | None:
        """None if it counts, True if it has to be repeated: after the turn is restored, or with all events."""
        shelf = self.shelf
        turn = self._mine(end.receipt)
        if turn is None:
            return self._refusal(end)
        request = self._interrupt_of(end.user_id, end.task_id, turn.entry)
        if request is not None and end.when_interrupted is not None:
            if end.stream is not None:
                kept = shelf.streams.get((end.stream.user_id, end.stream.task_id), [])
                end.stream.stored = kept[-1].count if kept and kept[-1].receipt == end.receipt else 0
            return request
        if end.stream is not None and not self._end_stream(end.stream, request):
            return True
        if end.repeated_event is not None:
            shelf.published.append((self._settings.task_stream + end.task_id, end.repeated_event))
        self._publish(end)
        self._change_missed(end)
        self._journalise(end)
        if end.dead is not None:
            self._keep_letter(end.dead, turn.entry.payload)
        shelf.counters[f"settled:{end.outcome}"] += 1
        shelf.tallies.update((int(shelf.clock() // 60), word) for word in end.tally)
        self._close(end.receipt)
        if turn.lane in shelf.lanes:
            shelf.ready.append(turn.lane)
        return None

    def _publish(self, end: Settlement) -> None:
        shelf = self.shelf
        if end.reply is not None:
            if end.user_id and end.task_id:
                if end.replaces_kept:
                    shelf.kept.pop((end.user_id, end.task_id), None)
                shelf.kept.setdefault((end.user_id, end.task_id), _as_kept(end.reply, end.mark))
            if end.outcome is not Outcome.REPEATED:
                shelf.replies.append(end.reply)
            if end.publish:
                shelf.published.append((self._settings.responses, end.reply))
        if end.task_response is not None and end.publish and end.task_id:
            shelf.published.append((self._settings.task_response + end.task_id, end.task_response))

    def _interrupt_of(self, user_id: str, task_id: str, entry: Entry) -> InterruptRequest | None:
        found = self.shelf.interrupts.get((user_id, task_id))
        if found is None or found.over or found.number not in {None, f"{entry.seq}-{entry.first_ms}"}:
            return None
        return found.request

    def _end_stream(self, stream: TaskEvents, request: InterruptRequest | None) -> bool:
        if request is None:
            return self._add_events(stream)
        return self._add_events(replace(stream, events=self._unsaid(stream), stored=UNCONDITIONAL))

    def _refusal(self, end: Settlement) -> Refusal | bool:
        if end.receipt not in self.shelf.turns and self._forgotten(end.receipt):
            self._writes_lost = True
            return True
        if end.reply is None:
            return Refusal.TAKEN_OVER
        kept = self.shelf.kept.get((end.user_id, end.task_id)) if end.user_id and end.task_id else None
        if kept == _as_kept(end.reply, end.mark):
            return Refusal.REPEATED
        self.shelf.counters["answers_refused"] += 1
        return Refusal.TAKEN_OVER

    def _keep_letter(self, line: bytes, payload: bytes) -> None:
        shelf = self.shelf
        json.loads(line)
        shelf.dead.insert(0, (line, payload))
        while len(shelf.dead) > 1 and sum(map(len, chain(*shelf.dead))) > self._settings.dead_bytes:
            shelf.dead.pop()
            shelf.counters["dead_dropped"] += 1

    def _change_missed(self, end: Settlement) -> None:
        shelf = self.shelf
        before = shelf.missed.get(end.user_id, [])
        after = [record for record in before if fingerprint(record) not in end.caught_up]
        for missed in end.missed:
            after.append(missed)
            same = [record for record in after if _persona(record) == _persona(missed)]
            while len(same) > 1 and (
                len(same) > self._settings.max_missed_per_user or sum(map(len, same)) > self._settings.missed_bytes
            ):
                after.remove(same.pop(0))
                shelf.counters["missed_dropped"] += 1
        shelf.missed[end.user_id] = after
        if not after:
            del shelf.missed[end.user_id]
        shelf.counters["missed_pending"] += len(after) - len(before)

    def _journalise(self, end: Settlement) -> None:
        shelf = self.shelf
        if end.journal is None:
            return
        size = len(end.journal) + len(end.reply or b"")
        waiting = sum(len(turn) + len(reply) for _, turn, reply in shelf.journal)
        if shelf.journal and (len(shelf.journal) >= self.journal_bound or waiting + size > self.journal_bytes):
            shelf.counters["journal_dropped"] += 1
            return
        shelf.counters["journalled"] += 1
        number = f"{int(shelf.clock() * 1000)}-{shelf.counters['journalled']}"
        shelf.journal.append((number, end.journal, end.reply or b""))

    def _close(self, one: str) -> InFlight:
        turn = self.shelf.turns.pop(one)
        del self.shelf.busy[turn.lane]
        return turn

    def _give_back(self, one: str) -> None:
        turn = self._close(one)
        if turn.entry.fault is not None:
            self._bury(turn.entry, "turn", turn.lane)
            if turn.lane in self.shelf.lanes:
                self.shelf.ready.append(turn.lane)
            return
        self.shelf.lanes.setdefault(turn.lane, deque()).appendleft(turn.entry)
        self.shelf.ready.appendleft(turn.lane)


def _as_kept(reply: bytes, mark: bytes) -> bytes:
    """A reply with the members at its end that are not published."""
    return reply[:-1] + b"," + mark + b"}" if mark else reply


def _persona(record: bytes) -> str:
    """The persona of a missed turn; records of the previous release have none."""
    return str(json_object(record).get("persona", "default"))
