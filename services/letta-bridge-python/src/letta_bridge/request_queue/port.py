"""The request queue as the bridge sees it: it hands out turns under a lease and takes their settlements.

Two adapters pass one contract suite: ``redis_queue.py`` (the real one) and ``testing/request_queue.py`` (for tests).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Protocol

from letta_bridge.request_queue.interrupts import Interrupted, Interruption, InterruptRequest
from letta_bridge.request_queue.recent_turns import RecentTurns
from letta_bridge.request_queue.records import number_of

FULL_LANE: Final = "~full:"
"""Prefix of the overflow lanes, whose tasks are refused."""
FULL_LANES: Final = 64
"""How many there are."""
UNREADABLE_LANES: Final = 64
"""How many lanes there are for tasks from which no user can be read; ``~`` and a number."""

RESTORED_LANE: Final = "~again:"
"""Between a user and a receipt in the name of a lane for one restored turn; see :func:`restored_lane`."""
_RESTORED: Final = re.compile(f"(.*){RESTORED_LANE}[0-9]+[-+][0-9]+", re.DOTALL)


def restored_lane(user: str, receipt: str) -> str:
    """The lane of a turn that Redis lost and that is restored while a later turn of its user is in flight."""
    return f"{user}{RESTORED_LANE}{receipt}"


def user_of_restored(lane: str) -> str:
    """The user's own lane beside that of a restored turn; any other lane is returned as it is."""
    found = _RESTORED.fullmatch(lane)
    return found[1] if found else lane


def shared_lanes() -> tuple[str, ...]:
    """The lanes that do not belong to a single user."""
    unreadable = (f"~{number}" for number in range(UNREADABLE_LANES))
    return (*unreadable, *(f"{FULL_LANE}{number}" for number in range(FULL_LANES)))


class Outcome(StrEnum):
    """How a task ended; each ends in exactly one of these."""

    LETTA = "letta"
    """Its agent answered."""
    MEMORY = "memory"
    """memory-python answered."""
    ERROR = "error"
    """An error reply with the reason."""
    INTERRUPTED = "interrupted"
    """Its user broke it off; the reply holds what was said until then."""
    REPEATED = "repeated"
    """The same task was answered before; the kept reply was sent again."""
    DEAD = "dead"
    """It cannot be processed; it is in the dead-letter queue."""
    ERASED = "erased"
    """Its user was erased while it waited; no reply is sent."""


class PauseMode(StrEnum):
    """The scope of an operator's pause, for all bridges of the queue. Turns in flight always continue."""

    ALL = "all"
    """No tasks are taken, and none are handed out."""
    INTAKE = "intake"
    """No tasks are taken; tasks in lanes are processed."""


@dataclass(slots=True)
class HeldChoice:
    """The user's entry in the shared choices, and their state, as a hand-out carries them; ``consent`` reads it."""

    user_id: str
    """As the Lua script read it from the payload; not to be used if the parsed task names another user."""
    complete: bytes | None
    generation: bytes | None
    changes: bytes | None
    entry: bytes | None


# Not frozen, because this is created for every turn and a frozen one costs three times as much. Never modified.
@dataclass(slots=True)
class Turn:
    """One task, handed to this bridge under a lease."""

    receipt: str
    """Fencing token: every later call about this turn carries it."""
    lane: str
    attempts: int
    """How often it was handed out, this time included."""
    seq: int
    """The counter of tasks taken, followed by a ticket; see :attr:`number`."""
    first_ms: int
    """When it was taken from the request list, ms of the Redis server's clock; later than the opt-ins before it."""
    payload: bytes
    """As the producer pushed it; cut just above the size limit where it is larger."""
    kept_reply: bytes | None = None
    """The reply to an earlier task of this user with the same id."""
    queued_seconds: float = 0.0
    """Seconds between being taken from the request list and this hand-out, by the Redis server's clock."""
    missed: int = 0
    """How many turns this user's agents do not know yet, of all personas."""
    choice: HeldChoice | None = None
    """The user's choice about permanent memory at this hand-out; None if the Lua script could not read the user."""
    supposed: bool = False
    """One of the attempts is only supposed, because Redis lost writes, or was forgiven by ``dead retry``."""
    interruption: Interruption = field(default_factory=Interruption)
    """Its user may break it off, also before it was handed out."""

    @property
    def deliveries(self) -> int:
        """The attempts that count toward ``max_deliveries``."""
        return self.attempts - self.supposed

    @property
    def number(self) -> str:
        """The identity of the task: the same for all its hand-outs, and never that of another task."""
        return number_of(self.seq, self.first_ms)

    @property
    def size(self) -> int:
        """Its size in the answer that hands it out, in bytes."""
        return len(self.payload) + len(self.kept_reply or b"")

    def found_lane_full(self, user_id: str) -> bool:
        """Whether the user's lane was full when the task was taken; it must then be refused on every delivery."""
        # Earlier releases used the lane of that name for a user with such an id.
        return self.lane.startswith(FULL_LANE) and self.lane != user_id


UNCONDITIONAL: Final = -1
"""``TaskEvents.stored`` of events that are added whatever the stream holds."""


@dataclass(slots=True)
class TaskEvents:
    """The events that one hand-out of a task adds to the task's stream."""

    receipt: str
    user_id: str
    task_id: str
    events: list[bytes] = field(default_factory=list)
    """All of them, oldest first, JSON objects; the queue puts ``v`` and ``seq`` in front."""
    stored: int = 0
    """How many of them the queue has confirmed."""
    interrupt: InterruptRequest | None = None
    """What broke the turn off, once the queue has refused events for it."""


class StreamRefusal(StrEnum):
    """Why events of a turn are refused."""

    TAKEN_OVER = "taken_over"
    """Another bridge has the task or has settled it."""
    FORGOTTEN = "forgotten"
    """Redis has lost the hand-out; repeat it after :meth:`RequestQueue.restore`."""
    INTERRUPTED = "interrupted"
    """The turn was interrupted; the queue has told its listeners."""
    UNWRITABLE = "unwritable"
    """The stream's key holds something else."""


@dataclass(slots=True)
class Settlement:
    """The end of a turn, with everything that changes in the same transaction."""

    receipt: str
    outcome: Outcome
    user_id: str = ""
    task_id: str = ""
    """Empty without a readable id; then no reply is stored or sent per task."""
    reply: bytes | None = None
    """JSON for the responses channel."""
    task_response: bytes | None = None
    """JSON for ``task_response:{task_id}``."""
    publish: bool = True
    """False if memory-python has published the reply already, so that it is only stored."""
    replaces_kept: bool = True
    """False if the reply stored under the same task id is another task's, and must stay."""
    mark: bytes = b""
    """JSON members added to the reply where it is kept; they are not published."""
    caught_up: frozenset[str] = frozenset()
    """Fingerprints of the missed turns the agent has caught up with; exactly these records are removed."""
    missed: tuple[bytes, ...] = ()
    """Records of the turn, one for each persona whose agent missed it, JSON lines; added after ``caught_up`` is
    removed.
    """
    dead: bytes | None = None
    """One line of JSON: why the task is a dead letter."""
    code: str = ""
    """The error's code if there is no answer, for the metrics."""
    journal: bytes | None = None
    """The journal's record of the turn beside the reply, JSON; None if it is not journalled."""
    tally: tuple[str, ...] = ()
    """Words of ``recent_turns.py`` under which the turn is tallied."""
    stream: TaskEvents | None = None
    """Ends the task's stream with the last of these events; None if the task has none."""
    repeated_event: bytes | None = None
    """An event of the task's stream, or one that it does not keep, which is only published."""
    when_interrupted: Callable[[InterruptRequest], Settlement] | None = None
    """The settlement that replaces this one if the turn was interrupted; None if nothing changes then."""


class Refusal(StrEnum):
    """Why a settlement is finally refused."""

    REPEATED = "repeated"
    """An earlier try succeeded and its confirmation was lost; harmless."""
    TAKEN_OVER = "taken_over"
    """Another bridge has the task or has settled it; this outcome, and an answer in it, is dropped."""


MAX_FETCHED_BYTES: Final = 4_194_304
"""Size limit of payloads and kept replies of one hand-out, which ends after the turn that reaches it."""


def is_full(turns: Sequence[Turn], limit: int) -> bool:
    """Whether a hand-out ended because its answer is full, not because no lane was ready."""
    return len(turns) == limit or sum(turn.size for turn in turns) >= MAX_FETCHED_BYTES


@dataclass(slots=True)
class FetchResult:
    """The result of one round trip: the confirmed settlements, and new turns."""

    settled: list[bool] = field(default_factory=list)
    """One per settlement, in order."""
    turns: list[Turn] = field(default_factory=list)
    more: bool = False
    """If no turns were requested: whether turns wait."""
    refused: dict[str, Refusal] = field(default_factory=dict)
    """Receipt → why its settlement is refused. One that is neither settled nor refused is to be repeated after
    :meth:`RequestQueue.restore`."""
    interrupted: dict[str, InterruptRequest] = field(default_factory=dict)
    """Receipt → the interrupt for which :attr:`Settlement.when_interrupted` must replace its settlement."""


@dataclass(frozen=True, slots=True)
class Capacity:
    """Redis's own report about its memory and disk."""

    used_bytes: int
    limit_bytes: int
    """``maxmemory``; 0: none is set."""
    saves: bool
    """Whether its last attempts to write to disk succeeded. Where one failed it refuses writes, or may lose them."""


@dataclass(frozen=True, slots=True)
class QueueStatus:
    """The queue at one moment, over all bridges."""

    depth: int
    """Tasks not taken yet."""
    waiting: int
    """Tasks taken and waiting in lanes."""
    in_flight: int
    ready_lanes: int
    dead: int
    oldest_age: float
    """Seconds since the oldest task was taken that is not settled yet; 0 without any."""
    bridges: int
    counters: dict[str, int]
    paused: PauseMode | None = None
    """The operator's pause, if any."""
    unjournalled: int = 0
    """Turns the journal has not written yet."""
    held: int = 0
    """Users whose lanes are held."""
    recent: RecentTurns = field(default_factory=RecentTurns)
    """Turns of the last ten minutes."""
    unjournalled_age: float = 0.0
    """Seconds since the oldest of them was answered; 0 without any."""
    capacity: Capacity | None = None
    """None where Redis does not say."""


def fingerprint(record: bytes) -> str:
    """The id of a missed turn's record in a settlement: its SHA-1 in hexadecimal digits, as Redis computes it."""
    return hashlib.sha1(record, usedforsecurity=False).hexdigest()


class RequestQueue(Protocol):
    """A queue of tasks, handed out as turns.

    Every method may raise one of ``shared_utils.redis.connection.CONNECTION_ERRORS`` and may then be repeated: a
    settlement that had succeeded is refused the second time; a hand-out that was lost returns when its lease expires.
    """

    @property
    def writes_lost(self) -> bool:
        """Whether Redis has lost writes that it had acknowledged to this bridge.

        For example after a failover to a lagging replica, or a restart from a snapshot. This bridge gets no turns until
        it has called :meth:`restore`.
        """
        ...

    async def settle_and_fetch(self, settlements: Sequence[Settlement], limit: int) -> FetchResult:
        """End turns and take up to ``limit`` new ones, in one round trip. Asked for none, it only ends turns."""
        ...

    async def wait_and_fetch(self, limit: int, timeout: float) -> list[Turn]:
        """Up to ``limit`` turns as soon as a task arrives, or none after ``timeout`` seconds; one call at a time.

        For an idle bridge, beside :meth:`settle_and_fetch`. Must not be cancelled halfway. While the queue is paused,
        it only waits.
        """
        ...

    async def renew(self, receipts: Collection[str]) -> set[str]:
        """Extend leases; returns the receipts that are lost, without those to be restored (:attr:`writes_lost`)."""
        ...

    async def restore(self, turns: Collection[Turn]) -> set[str]:
        """Put turns back in flight whose hand-outs Redis has lost.

        Args:
            turns: all turns of this bridge, including those whose settlement is not confirmed.

        Returns:
            the receipts of turns that another bridge has, or has ended.
        """
        ...

    async def release(self, receipts: Collection[str]) -> None:
        """Give back turns that were not started."""
        ...

    async def release_orphans(self, known: Collection[str], *, from_idle: bool = False) -> int:
        """Release turns handed to this bridge in an answer that was lost with a connection; returns how many.

        A turn whose hand-out arrived is never released here: it may have been sent, and is redelivered when its lease
        expires.

        Args:
            known: the receipts of all turns the bridge has.
            from_idle: consider turns of :meth:`wait_and_fetch`, not those of :meth:`settle_and_fetch`. Call it only
                while no such call is in progress, because the turns in its answer would count as lost.
        """
        ...

    async def missed(self, user_id: str) -> list[bytes]:
        """The missed turns of this user, oldest first. Waits while they cannot be read."""
        ...

    async def append(self, streams: Sequence[TaskEvents]) -> list[StreamRefusal | None]:
        """Add to each stream the events that it lacks, publish them, and update :attr:`TaskEvents.stored`.

        Fenced like a settlement. After an error it may be repeated. Redis may have lost events: then ``stored`` falls,
        and the next call adds them again under the same numbers.
        """
        ...

    async def events(self, user_id: str, task_id: str) -> list[bytes]:
        """The events in a task's stream, oldest first. Waits while they cannot be read."""
        ...

    async def correct(self, user_id: str, task_id: str, record: bytes) -> None:
        """Add what was heard of a task that an interrupt found over to the missed turns; a second call adds nothing.

        Until this was called, further interrupts of the task find it over, too. Nothing is added if the interrupt is
        gone, because its user was erased. ``record`` is empty where there is nothing to be told.
        """
        ...

    async def interrupt(self, request: InterruptRequest, message: bytes | None = None) -> Interrupted:
        """Break off a turn: nothing of its reply is published from now on.

        Args:
            request: what to break off.
            message: the element of the control list that asks for it. Of a request without a task id it is removed in
                the same step, where that is possible: several bridges may see it.
        """
        ...

    async def status(self) -> QueueStatus:
        """The queue at this moment."""
        ...

    async def recent(self) -> RecentTurns:
        """The outcomes of the turns of the last ten minutes, across all bridges."""
        ...

    async def close(self) -> None:
        """Give back connections."""
        ...
