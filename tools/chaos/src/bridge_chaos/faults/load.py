"""Overload: a user who floods the queue, and producers faster than Letta."""

from __future__ import annotations

import statistics
import time
from typing import Final

import psutil

from bridge_chaos.fault import Fault, FaultContext
from bridge_chaos.load import Load
from bridge_chaos.topology import Topology

_FLOOD_TASKS: Final = 10_000
_QUIET: Final = Load(users=1000, messages=1, seconds=6.0, with_persona=0, choosing=0)
_MAX_SLOWDOWN: Final = 5.0
"""A quiet user may wait so many times longer than one beside no flood, and a second."""
_OVERLOAD_SECONDS: Final = 300.0
_GROWTH_MIB: Final = 24.0
"""What a bridge may grow by while the queue does."""


def faults() -> list[Fault]:
    """All of them."""
    fast = (("MAX_CONCURRENT_REQUESTS", "64"),)
    return [
        Fault(
            "load/flood",
            f"one user has {_FLOOD_TASKS} queued messages, {_QUIET.users} other users send one each",
            _flood,
            topology=Topology(latency=0.002, variables=fast),
            load=_QUIET,
            patience=600.0,
            alone=True,
        ),
        Fault(
            "load/overload",
            "producers push three times as fast as Letta answers",
            _overload,
            topology=Topology(latency=0.1),
            load=Load(users=300, messages=12, seconds=8.0),
            patience=_OVERLOAD_SECONDS,
            alone=True,
        ),
    ]


def _flood(context: FaultContext) -> None:
    talk = context.conversation
    talk.wait_all(120.0)
    users = list(talk.users)
    idle = _quiet_round(context, users)  # the first round had agents to make
    context.strike()
    talk.flood("洪水-" + talk.users[0].removeprefix("用户-"), _FLOOD_TASKS)
    beside = _quiet_round(context, users)
    said = f"quiet users waited {_p99(idle):.2f} s (p99) without the flood, {_p99(beside):.2f} s beside it"
    context.remarks.append(said)
    context.check("accounts", _p99(beside) <= _MAX_SLOWDOWN * _p99(idle) + 1.0, said)


def _quiet_round(context: FaultContext, users: list[str]) -> list[float]:
    """Seconds that each user waits for the answer to one message, sent one after the other."""
    talk = context.conversation
    said = talk.say_one_more_of(users, pause=_QUIET.seconds / _QUIET.users)
    talk.observer.wait_for(said, 180.0)
    answered = talk.observer.answered_at
    return [answered[task] - talk.pushed_at[task] for task in said if task in answered]


def _p99(waits: list[float]) -> float:
    return statistics.quantiles(waits, n=100)[-1] if len(waits) > 1 else float("inf")


def _overload(context: FaultContext) -> None:
    talk = context.conversation
    context.strike()
    before = _resident(context)
    most, depth = before, 0
    until = time.monotonic() + _OVERLOAD_SECONDS
    while not talk.is_over and time.monotonic() < until:
        depth = max(depth, len(talk.unanswered()))
        most = max(most, _resident(context))
        context.let_pass(0.2)
    said = f"{depth} tasks waited at most; a bridge grew from {before:.0f} to {most:.0f} MiB"
    context.remarks.append(said)
    context.check("accounts", most - before <= _GROWTH_MIB, said)


def _resident(context: FaultContext) -> float:
    """Resident memory of the larger bridge, in MiB."""
    return max(psutil.Process(bridge.pid).memory_info().rss for bridge in context.environment.bridges) / 2**20
