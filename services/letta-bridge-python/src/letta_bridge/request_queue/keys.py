"""Defines every Redis key of the bridge; docs/architecture.md describes them.

``Q`` is the request list's name. All other keys carry the hash tag ``{Q}``, so that one queue lives in one Cluster
slot and a script may touch all of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

BRIDGE_TTL_MS: Final = 15_000
"""A bridge sends a heartbeat every second; one without a heartbeat for longer is not alive."""


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of one queue. ``script_keys`` is the KEYS of every Lua script, in the order lua/common.lua names."""

    requests: str
    """List: tasks not taken yet. Foreign producers LPUSH; taken from the right."""

    incoming: str = field(init=False)
    """List: tasks that the blocking BLMOVE moved here and no script has routed yet."""
    lanes: str = field(init=False)
    """Hash lane → receipt: lanes with a turn in flight."""
    ready: str = field(init=False)
    """List of lanes with work and no turn in flight, in the order they will be served (left first)."""
    turns: str = field(init=False)
    """Hash receipt → record: turns in flight."""
    leases: str = field(init=False)
    """Sorted set receipt → deadline in ms of the Redis server's clock."""
    replies: str = field(init=False)
    """Stream, capped: all replies, for late subscribers."""
    dead: str = field(init=False)
    """List, newest left: dead letters, a JSON line and then the payload as it came."""
    counters: str = field(init=False)
    """Hash: taken, handed_out, redelivered, restored, answers_refused, missed_pending, missed_dropped, dead_dropped,
    journal_dropped, journal_bytes, journal_looks, settled:<outcome>."""
    bridges: str = field(init=False)
    """Sorted set of live bridges by last heartbeat in ms."""
    erasures: str = field(init=False)
    """Sorted set SHA-256 of a user's id → when the user was erased, ms; read by bridges that keep files."""
    erasures_followed: str = field(init=False)
    """Sorted set of bridges by the latest erasure they have followed, ms."""
    paused: str = field(init=False)
    """Hash: mode (all | intake), since (ms), reason; absent while the queue is not paused."""
    journal: str = field(init=False)
    """Stream, bounded: answered turns that are not in the database yet, each with its reply."""
    journal_writer: str = field(init=False)
    """Name of the bridge that writes the journal now; expires."""
    choices: str = field(init=False)
    """Hash: users' choices about permanent memory, with a completeness marker (consent/lua/common.lua); kept."""
    identity: str = field(init=False)
    """String: the queue's random id, which its claim on a tenant carries; kept."""
    letta: str = field(init=False)
    """String: the id of the queue's note in the Letta that its bridges use; expires when no bridge renews it."""
    tally_prefix: str = field(init=False)
    """+ minute (since 1970, UTC): hash word → turns settled in that minute under the word; expires."""
    call_prefix: str = field(init=False)
    """+ taker: ticket of its last hand-out call that Redis executed; expires a day after the last one."""
    held: str = field(init=False)
    """Hash lane → hold: lanes of which no turn is handed out until the hold ends."""
    open: str = field(init=False)
    """Hash tenth of a second → tasks taken in it and not settled: tells the oldest."""
    begun: str = field(init=False)
    """Sorted set receipt → when the turn was handed out, ms; for operators only, a turn may lack its entry."""
    order: str = field(init=False)
    """Hash: tasks (taken from the request list so far), newest_ms (the latest ``first_ms``), opted_in_ms (the latest
    time up to which an opt-in does not apply); orders tasks and opt-ins of one Redis; kept."""
    opt_ins: str = field(init=False)
    """Sorted set user key → ``tasks`` at which the user's opt-in applies; empty once the request list is empty."""
    lane_prefix: str = field(init=False)
    """+ lane: list of that lane's waiting entries (right first)."""
    reply_prefix: str = field(init=False)
    """+ user:task_id: the kept reply, expires."""
    missed_prefix: str = field(init=False)
    """+ user: list of missed turns, oldest left."""
    fallback_prefix: str = field(init=False)
    """+ number of the task: memory-python's answer to it, or the tombstone that forbids one; expires."""
    handed_prefix: str = field(init=False)
    """+ number of the task: set once it was handed to memory-python; expires."""
    creating_prefix: str = field(init=False)
    """+ user:persona: the lease of the attempt that creates this agent; expires."""
    stream_prefix: str = field(init=False)
    """+ user:task_id: the task's stream of events, expires."""
    interrupts: str = field(init=False)
    """Hash user:task_id → interrupt: tasks that are to be broken off, or were; expires."""

    rate_prefix: str = field(init=False)
    """+ user: until when the user's bucket of turns is full, ms of the Redis server's clock; expires then."""
    tokens_prefix: str = field(init=False)
    """+ day (since 1970, UTC): hash user → tokens spent that day; the empty name holds the total; expires."""

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            if name != "requests":
                suffix = f"{name.removesuffix('_prefix')}:" if name.endswith("_prefix") else name
                object.__setattr__(self, name, f"{{{self.requests}}}:{suffix}")

    def scratch(self, mark: str) -> Keys:
        """The same keys below ``{Q}:<mark>:``, also the request list, for test runs of the scripts."""
        copy = Keys(self.requests)
        below = f"{{{self.requests}}}:{mark}:"
        for name in self.__dataclass_fields__:
            object.__setattr__(copy, name, below + getattr(self, name).removeprefix(f"{{{self.requests}}}:"))
        return copy

    @property
    def script_keys(self) -> tuple[str, ...]:
        """KEYS of every script."""
        return (
            self.requests,
            self.incoming,
            self.lanes,
            self.ready,
            self.turns,
            self.leases,
            self.replies,
            self.dead,
            self.counters,
            self.bridges,
            self.paused,
            self.lane_prefix,
            self.reply_prefix,
            self.missed_prefix,
            self.journal,
            self.journal_writer,
            self.choices,
            self.call_prefix,
            self.held,
            self.open,
            self.tally_prefix,
            self.begun,
            self.order,
            self.opt_ins,
            self.stream_prefix,
            self.interrupts,
        )

    def lane(self, user_id: str) -> str:
        """The list of a user's waiting entries."""
        return self.lane_prefix + user_lane(user_id)

    def reply(self, user_id: str, task_id: str) -> str:
        """The stored reply to a task."""
        return self.reply_prefix + per_task(user_id, task_id)

    def stream(self, user_id: str, task_id: str) -> str:
        """The stream of a task's events."""
        return self.stream_prefix + per_task(user_id, task_id)

    def missed(self, user_id: str) -> str:
        """A user's missed turns."""
        return self.missed_prefix + user_id

    def call(self, taker: str) -> str:
        """The ticket of a taker's last hand-out call."""
        return self.call_prefix + taker

    def tally(self, minute: int) -> str:
        """The tally of turns settled in a minute since 1970."""
        return f"{self.tally_prefix}{minute}"

    def fallback(self, number: str) -> str:
        """memory-python's answer to a task handed over."""
        return self.fallback_prefix + number

    def creating(self, user_id: str, persona: str) -> str:
        """The lease on creating an agent."""
        return self.creating_prefix + per_task(user_id, persona)

    def handed(self, number: str) -> str:
        """The mark of a task handed over."""
        return self.handed_prefix + number


def per_task(user_id: str, task_id: str) -> str:
    """The part of a key that names a user's task. Colons in the user are escaped: no two users can share a key."""
    return f"{user_id.replace('%', '%25').replace(':', '%3A')}:{task_id}"


def user_lane(user_id: str) -> str:
    """The lane of a user: their id, with a ~ in front where it begins with one, as the names of all other lanes do."""
    return f"~{user_id}" if user_id.startswith("~") else user_id


def user_of(lane: str) -> str | None:
    """The user of a lane; None for lanes of tasks that name no user, and of tasks that found a lane full."""
    if not lane.startswith("~"):
        return lane
    return lane[1:] if lane.startswith("~~") else None


def memory_python_instances(queue: str) -> str:
    """Sorted set of memory-python's own: its instances that read ``queue``, by the end of their lease in ms."""
    return f"memory:{{{queue}}}:instances"
