"""Redis loses confirmed writes: a lagging replica becomes the primary, or a server starts with an old snapshot."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any, Final

from redis import Redis

from bridge_chaos.environment import QUEUE
from bridge_chaos.fault import Fault, FaultContext, Window, parts
from bridge_chaos.load import Load, Task
from bridge_chaos.topology import Topology
from bridge_chaos.waiting import restart, wait_until
from local_stack.ports import HOST
from local_stack.valkey import Valkey

_LAG_SECONDS: Final = 1.5
_ELECTED_SECONDS: Final = 60.0
_HANDED_OUT_SECONDS: Final = 0.3
"""What Redis hands out arrives within them."""
_WRITTEN_AGAIN_SECONDS: Final = 6.0
"""A bridge writes a forgotten opt-in again within them: it polls the database every 3 s."""
_QUIET_SECONDS: Final = 120.0
_TURN_SECONDS: Final = 6.0
"""Turns that began before the loss end when others have begun after it."""
_PATIENT: Final = (
    ("LEASE_SECONDS", "30"),  # the default: it outlasts an election, and no bridge gives up a turn of its own accord
    ("LETTA_TIMEOUT_SECONDS", "20"),
    ("REPLY_DEADLINE_SECONDS", "60"),
    ("MAX_CONCURRENT_REQUESTS", "32"),
)
_BUSY: Final = Load(users=24, messages=3, seconds=30.0)
_QUIET: Final = Load(users=8, messages=1, seconds=1.0, choosing=0)
_LOST_WRITES: Final = Window(
    "Redis loses writes that it confirmed in the seconds before it died, because a replica lagged or the snapshot is "
    "older. Tasks pushed in those seconds that no bridge had taken are lost unless their producer uses WAIT, and so "
    "is the journal's row of a reply published in them. A task that was waiting or in flight then may be answered a "
    "second time, or after a later task, and its stream then has other events under numbers that were heard before. "
    "A user whose opt-in was lost is served without permanent memory until a "
    "bridge has written the opt-in again, within seconds. Tasks that a bridge had taken are answered; tasks pushed "
    "afterwards are answered once, no message is in an agent twice, and no private message is in an agent.",
    frozenset({"lost", "repeated_replies", "spoken_twice", "out_of_order", "journal", "forgotten"}),
)

_Lose = Callable[[FaultContext, Callable[[], None]], None]
"""Loses what Redis confirms while the callback runs; returns when Redis takes writes again."""


def faults() -> list[Fault]:
    """All of them."""
    lagging = Topology(redis="sentinel", latency=_TURN_SECONDS, variables=_PATIENT)
    snapshot = Topology(append_only=False, latency=_TURN_SECONDS, variables=_PATIENT)
    failover, old_snapshot = parts("redis", "redis-sentinel"), parts("redis", "redis-single")
    behind = f"a replica that is {_LAG_SECONDS:g} s behind becomes the primary"
    older = f"Redis gets SIGKILL and starts with a snapshot that is {_LAG_SECONDS:g} s old"
    quiet = "; no task was in flight when it began to lag"
    rows: list[tuple[str, str, Callable[[FaultContext], None], Topology, Load, frozenset[str]]] = [
        ("failover-lagging", behind, _among_turns(_fail_over), lagging, _BUSY, failover),
        ("failover-lagging-quiet", behind + quiet, _in_silence(_fail_over), lagging, _QUIET, failover),
        ("old-snapshot", older, _among_turns(_go_back), snapshot, _BUSY, old_snapshot),
        ("old-snapshot-quiet", older + quiet, _in_silence(_go_back), snapshot, _QUIET, old_snapshot),
    ]
    return [
        Fault(
            f"redis/{name}",
            what,
            act,
            topology=topology,
            load=load,
            window=_LOST_WRITES,
            occupies=occupied,
            patience=180.0,
        )
        for name, what, act, topology, load, occupied in rows
    ]


def _among_turns(lose: _Lose) -> Callable[[FaultContext], None]:
    def act(context: FaultContext) -> None:
        unanswered, since = context.conversation.unanswered(), time.monotonic()
        taken: set[Task] = set()

        def last() -> None:
            context.let_pass(_LAG_SECONDS)
            taken.update(_taken(context))
            context.let_pass(_HANDED_OUT_SECONDS)

        lose(context, last)
        _cover(context, unanswered, since, taken)

    return act


def _in_silence(lose: _Lose) -> Callable[[FaultContext], None]:
    """All turns in flight began in the lost seconds, so that later turns get the same numbers."""

    def act(context: FaultContext) -> None:
        talk = context.conversation
        talk.wait_pushed(_QUIET_SECONDS)
        talk.wait_all(_QUIET_SECONDS)
        since = time.monotonic()
        half = len(talk.users) // 2

        taken: set[Task] = set()

        def speak() -> None:
            talk.say_one_more_of(talk.users[:half], pause=_LAG_SECONDS / half)
            taken.update(_taken(context))
            context.let_pass(_HANDED_OUT_SECONDS)

        lose(context, speak)
        talk.say_one_more_of(talk.users[half:], pause=_LAG_SECONDS / half)
        _cover(context, set(), since, taken)

    return act


def _fail_over(context: FaultContext, meanwhile: Callable[[], None]) -> None:
    servers = context.environment.redis
    primary = servers.primary
    _cut_off_replica(primary)
    meanwhile()
    context.strike()
    primary.kill()
    context.check(
        "accounts",
        wait_until(lambda: servers.primary is not primary and _writes(servers.primary), _ELECTED_SECONDS, pause=0.1),
        "Sentinel named no other primary",
    )


def _go_back(context: FaultContext, meanwhile: Callable[[], None]) -> None:
    with context.environment.client() as client:
        client.save()
    meanwhile()
    context.strike()
    restart(context.environment.redis.first)


def _cut_off_replica(primary: Valkey) -> None:
    """Close the replica's connection; the primary accepts no new one from it."""
    with Redis(host=HOST, port=primary.port, socket_timeout=5) as client:
        client.execute_command("ACL", "SETUSER", "default", "-psync", "-replconf", "-sync")
        client.execute_command("CLIENT", "KILL", "TYPE", "replica")


def _writes(server: Valkey) -> bool:
    with Redis(host=HOST, port=server.port, socket_timeout=5) as client:
        return bool(client.set("chaos:elected", 1, ex=1))


def _taken(context: FaultContext) -> set[Task]:
    """The tasks that bridges process now."""
    with context.environment.client() as client:
        records: Any = client.hvals(f"{{{QUEUE}}}:turns")
    payloads = [json.loads(record.split(b"\n", 3)[3]) for record in records]
    return {Task(str(payload["user_id"]), str(payload["task_id"])) for payload in payloads}


def _cover(context: FaultContext, unanswered: set[Task], since: float, taken: set[Task]) -> None:
    """Cover the window: tasks confirmed in it and not taken are lost; tasks open in it may be answered again.

    Pushes that Redis confirmed after the restart are outside the window.
    """
    talk = context.conversation
    until = context.struck_at or since
    with talk.observer.changed:
        confirmed = {task for task, at in talk.accepted_at.items() if since <= at <= until}
    context.remarks.append(f"{len(taken & confirmed)} of {len(confirmed)} forgotten tasks were taken")
    context.cover(confirmed - taken)
    context.cover(unanswered | taken, "repeated_replies", "spoken_twice", "out_of_order", "journal")
    _cover_forgotten_opt_ins(context, since, until)


def _cover_forgotten_opt_ins(context: FaultContext, since: float, until: float) -> None:
    """Cover the messages of users whose opt-in was lost, until a bridge has written it again."""
    talk = context.conversation
    opted_in = {user for user, at in talk.opted_in_at.items() if since <= at <= until}
    if opted_in:
        context.let_pass(_WRITTEN_AGAIN_SECONDS)
        tasks = talk.tasks_of(opted_in)
        context.cover({task for task in tasks if talk.pushed_at[task] >= since}, "forgotten", "journal")
