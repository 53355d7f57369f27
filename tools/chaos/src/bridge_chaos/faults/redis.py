"""Redis is killed, unreachable, slow, without its scripts, or full."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

from redis import Redis, RedisError

from bridge_chaos.environment import QUEUE
from bridge_chaos.fault import Fault, FaultContext, Window, parts
from bridge_chaos.topology import Topology
from bridge_chaos.waiting import restart, wait_until
from local_stack.ports import HOST

_AWAY_SECONDS: Final = 5.0
_SLOW_SECONDS: Final = 0.15
_ELECTED_SECONDS: Final = 60.0
_MOVED_SECONDS: Final = 60.0
_UNREPLICATED_SECONDS: Final = 0.1
"""Before a primary is killed, in which what it acknowledged may not have reached its replica."""
_SERVER: Final = parts("redis", "redis-single")
_LINK: Final = parts("redis-link")
_UNREPLICATED: Final = Window(
    "Redis replicates asynchronously: writes that the primary acknowledged but had not replicated when it died are "
    "lost. With a replica that keeps up, that window is shorter than a millisecond, or some milliseconds on a busy "
    "machine. A reply published in the window may be published again after the failover, and a task pushed in it is "
    "lost unless its producer uses WAIT. The agent's history stays correct: the bridge finds the turn there by its "
    "otid.",
    frozenset({"lost", "repeated_replies", "out_of_order", "accounts", "journal"}),
)


def faults() -> list[Fault]:
    """All of them."""
    return [
        Fault(
            "redis/kill", "Redis gets SIGKILL and is started again with its append-only file", _kill, occupies=_SERVER
        ),
        Fault("redis/restart", "Redis is restarted gracefully", _restart, occupies=_SERVER),
        Fault(
            "redis/failover",
            "the primary gets SIGKILL; Sentinel makes the replica primary",
            _failover,
            topology=Topology(redis="sentinel"),
            window=_UNREPLICATED,
            occupies=parts("redis", "redis-sentinel"),
        ),
        Fault(
            "redis/black-hole",
            f"no byte passes between Redis and the services for {_AWAY_SECONDS:g} s",
            _black_hole,
            occupies=_LINK,
        ),
        Fault(
            "redis/slow",
            f"every packet to and from Redis takes {_SLOW_SECONDS * 1000:g} ms for {_AWAY_SECONDS:g} s",
            _slow,
            occupies=_LINK,
        ),
        Fault(
            "redis/answers-lost",
            "Redis executes commands for 2 s, and every answer is lost",
            _answers_lost,
            occupies=_LINK,
        ),
        Fault("redis/client-kill", "CLIENT KILL for every connection, five times", _client_kill, needs=_SERVER),
        Fault("redis/script-flush", "SCRIPT FLUSH, ten times", _script_flush, needs=_SERVER),
        Fault(
            "redis/slot-moving",
            "the queue's slot of a Redis Cluster moves to another primary, and back",
            _move_slot,
            topology=Topology(redis="cluster"),
            occupies=parts("redis", "redis-cluster"),
        ),
        Fault(
            "redis/full",
            f"maxmemory is reached with the policy noeviction, for {_AWAY_SECONDS:g} s",
            _full,
            occupies=_SERVER,
        ),
    ]


def _kill(context: FaultContext) -> None:
    context.strike()
    restart(context.environment.redis.first)


def _restart(context: FaultContext) -> None:
    context.strike()
    context.environment.redis.first.restart()


def _failover(context: FaultContext) -> None:
    primary = context.environment.redis.primary
    context.strike()
    context.cover(context.waiting)
    primary.kill()
    context.cover(context.conversation.answered_since(time.monotonic() - _UNREPLICATED_SECONDS))
    if not wait_until(lambda: context.environment.redis.primary is not primary, _ELECTED_SECONDS, pause=0.1):
        context.check("accounts", kept=False, text="Sentinel named no other primary")


def _black_hole(context: FaultContext) -> None:
    context.strike()
    _link(context).blackhole()
    context.let_pass(_AWAY_SECONDS)
    _link(context).resume()


def _slow(context: FaultContext) -> None:
    context.strike()
    _link(context).delay(to_server=_SLOW_SECONDS, to_client=_SLOW_SECONDS)
    context.let_pass(_AWAY_SECONDS)
    _link(context).resume()


def _answers_lost(context: FaultContext) -> None:
    context.strike()
    _link(context).drop_answers()
    context.let_pass(2.0)
    _link(context).resume()


def _link(context: FaultContext) -> Any:
    return context.environment.redis.link


def _client_kill(context: FaultContext) -> None:
    context.strike()
    for _ in range(5):
        with context.environment.client() as client:
            for kind in ("normal", "pubsub"):
                client.client_kill_filter(_type=kind, skipme=True)
        context.let_pass(context.random.uniform(0.1, 0.5))


def _script_flush(context: FaultContext) -> None:
    context.strike()
    for _ in range(10):
        with context.environment.client() as client:
            client.script_flush()
        context.let_pass(context.random.uniform(0.05, 0.2))


def _move_slot(context: FaultContext) -> None:
    second = context.environment.redis.second
    if second is None:
        return
    context.strike()
    nodes = [context.environment.redis.first, second]
    for source, target in (nodes, nodes[::-1]):
        with Redis(host=HOST, port=source.port) as here, Redis(host=HOST, port=target.port) as there:
            slot: Any = here.execute_command("CLUSTER", "KEYSLOT", f"{{{QUEUE}}}")
            name: Any = there.execute_command("CLUSTER", "MYID")
            here.execute_command("CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", slot, slot, "NODE", name)
            context.check("accounts", wait_until(_owning(there), _MOVED_SECONDS), "the slot did not move")
        context.let_pass(context.random.uniform(0.2, 1.0))


def _owning(node: Any) -> Callable[[], bool]:
    """Whether the node serves the queue's slot; otherwise it redirects its client."""

    def owns() -> bool:
        node.execute_command("EXISTS", f"{{{QUEUE}}}:counters")
        return True

    return owns


def _full(context: FaultContext) -> None:
    context.strike()
    with context.environment.client() as client:
        client.config_set("maxmemory", "1")
        context.let_pass(_AWAY_SECONDS)
        while True:
            try:
                client.config_set("maxmemory", "0")
            except RedisError:
                context.let_pass(0.1)
            else:
                return
