"""The request queue on Redis or Valkey. The scripts in ``lua/`` do the work; this module calls them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from typing import Any, Final, cast

from redis.asyncio.cluster import RedisCluster
from redis.exceptions import ResponseError

from letta_bridge.request_queue.calls import Calls
from letta_bridge.request_queue.capacity import capacity_of
from letta_bridge.request_queue.interrupts import (
    Interrupted,
    Interruption,
    InterruptOutcome,
    InterruptRequest,
    stored_request,
)
from letta_bridge.request_queue.keys import BRIDGE_TTL_MS, Keys, per_task
from letta_bridge.request_queue.lease_clock import clock
from letta_bridge.request_queue.port import (
    FULL_LANE,
    FULL_LANES,
    MAX_FETCHED_BYTES,
    FetchResult,
    HeldChoice,
    PauseMode,
    QueueStatus,
    Refusal,
    Settlement,
    StreamRefusal,
    TaskEvents,
    Turn,
)
from letta_bridge.request_queue.recent_turns import RECENT_MINUTES, RecentTurns
from letta_bridge.request_queue.scripts import IDLE_CONSUMER_SUFFIX, ScriptRunner, read
from letta_bridge.settings import QueueSettings
from shared_utils.batches import batches_of
from shared_utils.observability import logs
from shared_utils.redis.connection import RedisClient, close, retry_until_available
from shared_utils.redis.failures import explain, redis_failure
from shared_utils.redis.lua_scripts import Script
from shared_utils.redis.pipeline import Argument

_log = logs.get(__name__)

_MAX_TASKS_PER_DISPATCH: Final = 512
"""Tasks routed per dispatch at most: bounds how long Redis is busy with one call."""
_TURNS_PER_SETTLE: Final = 64
"""Turns settled by one call at most, for the same reason."""
_TURNS_PER_RESTORE: Final = 16
"""Turns restored by one call at most; each carries its payload."""
_TURNS_PER_RELEASE: Final = 16
"""Turns released by one call at most; Redis moves the payload of each."""
_CALL_BYTES: Final = 4_194_304
"""Size limit of a call with turns, which ends after the turn that reaches it."""
_TICKET_SECONDS: Final = 86_400.0
"""How long Redis stores the last ticket of a silent bridge. After that a missing ticket proves nothing."""
_UTF8_BYTES: Final = 4
"""Bytes a character has at most."""

_DISPATCH: Final = read("dispatch")
_SETTLE: Final = read("settle")
_RENEW: Final = read("renew")
_RELEASE: Final = read("release")
_RESTORE: Final = read("restore")
_OLDEST: Final = read("oldest")
_PROBE: Final = read("probe")
_RECENT: Final = read("recent")
_CAPACITY: Final = read("capacity")
_APPEND: Final = read("append")
_INTERRUPT: Final = read("interrupt")
_CORRECT: Final = read("correct")

_SETTLED_NOW, _FORGOTTEN, _EVENTS_LOST = 1, 3, 5
_REFUSALS: Final = {0: Refusal.TAKEN_OVER, 2: Refusal.REPEATED}
"""The codes of ``settle.lua``."""
_STREAM_REFUSALS: Final = {-1: StreamRefusal.TAKEN_OVER, -2: StreamRefusal.FORGOTTEN}
"""The codes of ``append.lua``."""
_INTERRUPTS: Final = 10_000
"""Interrupts kept at most."""


class RedisQueue:
    """One queue, seen by one bridge.

    Args:
        client: for scripts.
        blocking: for the blocking pop; a client of its own, whose timeout is longer than any of :meth:`wait_and_fetch`.
        settings: names, lease and limits.
        bridge: this bridge's name, unique among all bridges.
        keys: of the queue; by default those that ``settings`` names.
    """

    def __init__(
        self,
        client: RedisClient,
        blocking: RedisClient,
        settings: QueueSettings,
        bridge: str,
        *,
        keys: Keys | None = None,
    ) -> None:
        self._client = client
        self._blocking = blocking
        self._settings = settings
        self._bridge = bridge
        self.keys = keys or Keys(settings.requests)
        self._scripts = ScriptRunner(client, self.keys.script_keys)
        self._blocking_scripts = ScriptRunner(blocking, self.keys.script_keys)
        self._lease_ms = int(settings.lease_seconds * 1000)
        self._paused = False
        self.passes = Calls("-")
        self.waits = Calls("+")
        self._writes_lost = False
        self._answered_at = clock()
        self.max_lane = 0
        """Tasks that may wait in a lane, 0 for any number; those beyond go to lanes of their own (FULL_LANE)."""
        self.journal_bound = 100_000
        """Turns that may wait for the journal; those beyond are not journalled, but counted."""
        self.journal_bytes = 268_435_456
        """The same in bytes."""
        self.barge_in = False
        """Call :attr:`on_barge_in` with a user who writes while a turn of theirs is in flight, and its receipt."""
        self.on_barge_in: Callable[[str, str], object] = _ignore

    @property
    def writes_lost(self) -> bool:
        """See :class:`RequestQueue`."""
        return self._writes_lost

    async def settle_and_fetch(self, settlements: Sequence[Settlement], limit: int) -> FetchResult:
        """See :class:`RequestQueue`."""
        calls: list[tuple[Script, Sequence[Argument]]] = [
            (_SETTLE, self._settle_args(some))
            for some in batches_of(settlements, _TURNS_PER_SETTLE, _CALL_BYTES, _size_of_end)
        ]
        ticket = ""
        if limit > 0 or not settlements:
            ticket = self.passes.begin()
            calls.append((_DISPATCH, self._dispatch_args(limit, self.passes, ticket)))
        try:
            batches = await self._scripts.run_all(calls)
        except ResponseError as error:
            raise await self._naming_the_key(error) from error
        turns = self._handed_out(self.passes, ticket, batches.pop()) if ticket else []
        results = [result for *results, _ in batches for result in results]
        for result in results:
            if isinstance(result, Exception):
                raise result
        left = 0 if ticket else batches[-1][-1]
        fetched = FetchResult([result == _SETTLED_NOW for result in results], turns, left > 0)
        for settlement, result in zip(settlements, results, strict=True):
            if isinstance(result, list):
                fetched.interrupted[settlement.receipt] = stored_request(result[1])
                if settlement.stream is not None:
                    settlement.stream.stored = int(result[2])
            elif result in _REFUSALS:
                fetched.refused[settlement.receipt] = _REFUSALS[result]
            elif result == _EVENTS_LOST and settlement.stream is not None:
                settlement.stream.stored = 0
        self._writes_lost = self._writes_lost or _FORGOTTEN in results
        return fetched

    async def _naming_the_key(self, error: ResponseError) -> ResponseError:
        """For an error about a key of the wrong type: an error that also names the key, which Redis does not."""
        if redis_failure(error).code != "wrongtype":
            return error
        try:
            await self._scripts.run(_PROBE)
        except ResponseError as named:
            return named
        return error

    async def wait_and_fetch(self, limit: int, timeout: float) -> list[Turn]:
        """See :class:`RequestQueue`."""
        if self._paused:
            # A blocking pop would move the list's tasks one by one, although none may be routed.
            await asyncio.sleep(timeout)
            return []
        arrival = ("BLMOVE", self.keys.requests, self.keys.incoming, "RIGHT", "LEFT", timeout)
        ticket = self.waits.begin()
        args = self._dispatch_args(limit, self.waits, ticket)
        return self._handed_out(self.waits, ticket, await self._blocking_scripts.run_behind(arrival, _DISPATCH, *args))

    async def renew(self, receipts: Collection[str]) -> set[str]:
        """See :class:`RequestQueue`."""
        if not receipts:
            return set()
        lost, forgotten = await self._scripts.run(_RENEW, self._lease_ms, self._bridge, *receipts)
        self._writes_lost = self._writes_lost or bool(forgotten)
        return {receipt.decode() for receipt in lost}

    async def restore(self, turns: Collection[Turn]) -> set[str]:
        """See :class:`RequestQueue`."""
        if clock() - self._answered_at > _TICKET_SECONDS:
            lost = {turn.receipt for turn in turns}
        else:
            lost = await self._restored(list(turns))
        self._writes_lost = False
        self.passes.start_again()
        self.waits.start_again()
        return lost

    async def _restored(self, turns: Sequence[Turn]) -> set[str]:
        lost = set()
        for some in batches_of(turns, _TURNS_PER_RESTORE, _CALL_BYTES, lambda turn: len(turn.payload)):
            args: list[Argument] = [self._bridge, self._lease_ms]
            for turn in some:
                whole = len(turn.payload) <= self._settings.max_payload_bytes
                payload = turn.payload if whole else b""
                attempts = f"{'0' if turn.supposed else ''}{turn.attempts}"
                args += (turn.receipt, turn.lane, turn.seq, attempts, turn.first_ms, payload)
            results = await self._scripts.run(_RESTORE, *args)
            lost |= {turn.receipt for turn, result in zip(some, results, strict=True) if not result}
        return lost

    async def release(self, receipts: Collection[str]) -> None:
        """See :class:`RequestQueue`."""
        for some in batches_of(list(receipts), _TURNS_PER_RELEASE):
            await self._scripts.run(_RELEASE, self._bridge, *some)

    async def release_orphans(self, known: Collection[str], *, from_idle: bool = False) -> int:
        """See :class:`RequestQueue`."""
        calls = self.waits if from_idle else self.passes
        orphans = []
        async for field, _ in cast(
            "AsyncIterator[tuple[bytes, bytes]]", self._client.hscan_iter(self.keys.turns, count=500)
        ):
            receipt = field.decode(errors="replace")
            if calls.lost(receipt) and receipt not in known:
                orphans.append(receipt)
        await self.release(orphans)
        return len(orphans)

    async def missed(self, user_id: str) -> list[bytes]:
        """See :class:`RequestQueue`."""
        # Called for a turn in flight, so it waits for Redis as the turn's settlement does.
        try:
            found = await retry_until_available(lambda: self._client.lrange(self.keys.missed(user_id), 0, -1))
        except ResponseError as error:
            # The key has the wrong type; the user still gets an answer.
            _log.error("missed_turns_unreadable", user_id=user_id, error=explain(error))
            return []
        return cast("list[bytes]", found)

    async def append(self, streams: Sequence[TaskEvents]) -> list[StreamRefusal | None]:
        """See :class:`RequestQueue`."""
        settings = self._settings
        args: list[Argument] = [self._bridge, int(settings.stream_ttl_seconds * 1000), settings.stream_maxlen]
        for stream in streams:
            args += (stream.receipt, *_stream_args(stream, settings.task_stream))
        refusals: list[StreamRefusal | None] = []
        for stream, result in zip(streams, await self._scripts.run(_APPEND, *args), strict=True):
            if isinstance(result, ResponseError):
                if redis_failure(result).code != "wrongtype":
                    raise result
                refusals.append(StreamRefusal.UNWRITABLE)
                continue
            if isinstance(result, list):
                refusals.append(StreamRefusal.INTERRUPTED)
                stream.interrupt = stored_request(result[1])
                continue
            refusals.append(_STREAM_REFUSALS.get(result))
            if result >= 0:
                stream.stored = result
        self._writes_lost = self._writes_lost or StreamRefusal.FORGOTTEN in refusals
        return refusals

    async def events(self, user_id: str, task_id: str) -> list[bytes]:
        """See :class:`RequestQueue`."""
        key = self.keys.stream(user_id, task_id)
        try:
            entries = await retry_until_available(lambda: self._client.xrange(key))
        except ResponseError as error:
            _log.error("task_stream_unreadable", user_id=user_id, task_id=task_id, error=explain(error))
            return []
        return [fields[b"event"] for _, fields in cast("list[tuple[bytes, dict[bytes, bytes]]]", entries)]

    async def correct(self, user_id: str, task_id: str, record: bytes) -> None:
        """See :class:`RequestQueue`."""
        settings = self._settings
        bounds = settings.max_missed_per_user, settings.missed_bytes
        await self._scripts.run(_CORRECT, *bounds, user_id, task_id, record)

    async def interrupt(self, request: InterruptRequest, message: bytes | None = None) -> Interrupted:
        """See :class:`RequestQueue`."""
        settings = self._settings
        # On a Cluster, a script cannot also reach the list, which may lie in another slot.
        listed = message is not None and not isinstance(self._client, RedisCluster)
        heard = request.heard.model_dump_json(exclude_none=True) if request.heard is not None else "null"
        outcome, task_id, receipt, kept = await self._scripts.run(
            _INTERRUPT,
            request.user_id,
            request.task_id,
            request.model_dump_json(exclude_none=True),
            heard,
            int(settings.reply_ttl_seconds * 1000),
            settings.task_stream,
            self.keys.interrupts,
            settings.max_id_length * _UTF8_BYTES,
            int(settings.stream_ttl_seconds * 1000),
            settings.stream_maxlen,
            _INTERRUPTS,
            request.hand_out,
            settings.control_list if listed else "",
            message if listed and message is not None else b"",
        )
        return Interrupted(
            InterruptOutcome(outcome.decode()), task_id.decode(errors="replace"), receipt.decode(), kept or None
        )

    async def status(self) -> QueueStatus:
        """See :class:`RequestQueue`. Reads only; each figure is exact, but the figures are read one after another."""
        client, keys = self._client, self.keys
        counts = cast("dict[bytes, bytes]", await client.hgetall(keys.counters))
        counters = {name.decode(): int(count) for name, count in counts.items()}
        depth = await client.llen(keys.requests) + await client.llen(keys.incoming)
        in_flight = await client.hlen(keys.turns)
        settled = sum(count for name, count in counters.items() if name.startswith("settled:"))
        now_ms, first_ms = await self._scripts.run(_OLDEST)
        unjournalled_age, capacity = capacity_of(await self._scripts.run(_CAPACITY))
        return QueueStatus(
            depth=depth,
            waiting=max(0, counters.get("taken", 0) - settled - in_flight),
            in_flight=in_flight,
            ready_lanes=await client.llen(keys.ready),
            dead=await client.llen(keys.dead),
            oldest_age=max(0, now_ms - int(first_ms or now_ms)) / 1000,
            bridges=await client.zcount(keys.bridges, now_ms - BRIDGE_TTL_MS, "+inf"),
            counters=counters,
            paused=_pause_mode(await client.hget(keys.paused, "mode")),
            unjournalled=await client.xlen(keys.journal),
            held=await client.hlen(keys.held),
            recent=await self.recent(),
            unjournalled_age=unjournalled_age,
            capacity=capacity,
        )

    async def recent(self) -> RecentTurns:
        """See :class:`RequestQueue`."""
        words = await self._scripts.run(_RECENT, RECENT_MINUTES)
        return RecentTurns.of({word.decode(): int(count) for word, count in zip(words[::2], words[1::2], strict=True)})

    async def close(self) -> None:
        """See :class:`RequestQueue`."""
        await close(self._client)
        await close(self._blocking)

    def _handed_out(self, calls: Calls, ticket: str, answer: Sequence[Any]) -> list[Turn]:
        paused, turns, writes_lost, barging = answer
        self._paused = bool(paused)
        if writes_lost:
            calls.refused(ticket)
            self._writes_lost = True
            return []
        for user, receipt in dict.fromkeys(zip(barging[::2], barging[1::2], strict=True)):
            self.on_barge_in(user.decode(errors="replace"), receipt.decode())
        calls.answered(ticket)
        self._answered_at = clock()
        return [_turn(row) for row in turns]

    def _dispatch_args(self, limit: int, calls: Calls, ticket: str) -> tuple[Argument, ...]:
        settings = self._settings
        longest_lane = settings.max_id_length * _UTF8_BYTES
        return (
            self._bridge,
            limit,
            _MAX_TASKS_PER_DISPATCH,
            self._lease_ms,
            longest_lane,
            settings.max_payload_bytes,
            BRIDGE_TTL_MS,
            self.max_lane,
            FULL_LANE,
            FULL_LANES,
            self._bridge + (IDLE_CONSUMER_SUFFIX if calls is self.waits else ""),
            ticket,
            calls.last_answered,
            round(_TICKET_SECONDS * 1000),
            MAX_FETCHED_BYTES,
            "1" if self.barge_in else "",
        )

    def _settle_args(self, ends: Sequence[Settlement]) -> list[Argument]:
        settings = self._settings
        args: list[Argument] = [
            int(settings.reply_ttl_seconds * 1000),
            settings.reply_stream_maxlen,
            settings.max_missed_per_user,
            settings.missed_bytes,
            self.journal_bound,
            self.journal_bytes,
            settings.dead_bytes,
            self._bridge,
            int(settings.stream_ttl_seconds * 1000),
            settings.stream_maxlen,
        ]
        responses, task_response = settings.responses, settings.task_response
        for end in ends:
            addressed = bool(end.task_id)
            args += (
                end.receipt,
                end.outcome,
                end.reply or b"",
                responses if end.publish else "",
                (end.task_response or b"") if end.publish and addressed else b"",
                task_response + end.task_id,
                per_task(end.user_id, end.task_id) if addressed and end.user_id else "",
                "" if end.replaces_kept else "NX",
                end.mark,
                end.user_id if end.caught_up or end.missed else "",
                " ".join(end.caught_up),
                b"\n".join(end.missed),
                end.dead or b"",
                end.journal or b"",
                " ".join(end.tally),
                "1" if end.when_interrupted is not None else "",
                *(_stream_args(end.stream, settings.task_stream) if end.stream is not None else ("", "", "", "")),
                (settings.task_stream + end.task_id) if end.repeated_event is not None else "",
                end.repeated_event or b"",
            )
        return args


def _size_of_end(end: Settlement) -> int:
    size = len(end.reply or b"") + len(end.task_response or b"") + len(end.dead or b"") + len(end.journal or b"")
    if end.stream is not None:
        size += sum(map(len, end.stream.events[max(0, end.stream.stored) :]))
    return size + sum(map(len, end.missed)) if end.missed else size


def _ignore(_user: str, _receipt: str) -> None:
    pass


def _stream_args(stream: TaskEvents, channels: str) -> tuple[Argument, ...]:
    """Key's ending, channel, number of the first event that is not known to be stored, and these events."""
    return (
        per_task(stream.user_id, stream.task_id),
        channels + stream.task_id,
        stream.stored + 1,
        b"\n".join(stream.events[max(0, stream.stored) :]),
    )


def _pause_mode(mode: object) -> PauseMode | None:
    """An unknown mode, of a later release, counts as ALL, as in ``dispatch.lua``."""
    if not isinstance(mode, bytes):
        return None
    return PauseMode.INTAKE if mode == b"intake" else PauseMode.ALL


def _turn(row: Sequence[Any]) -> Turn:
    receipt, lane, attempts, seq, first_ms, payload, kept, missed, waited_ms, choice, interrupt = row
    return Turn(
        receipt=receipt.decode(),
        lane=lane.decode(errors="replace"),
        attempts=int(attempts),
        seq=int(seq),
        first_ms=int(first_ms),
        payload=payload,
        kept_reply=kept or None,
        queued_seconds=waited_ms / 1000,
        missed=missed,
        choice=HeldChoice(choice[0].decode(errors="replace"), *choice[1:]) if choice else None,
        supposed=attempts.startswith(b"0"),
        interruption=Interruption(stored_request(interrupt) if interrupt else None),
    )
