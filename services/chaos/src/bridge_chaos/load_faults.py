"""Too much at once: a user who floods the queue, producers faster than Letta."""

from __future__ import annotations

import statistics
import threading
import time
from typing import Final

import psutil

from bridge_chaos.fault import Fault, Scene
from bridge_chaos.load import Load
from bridge_chaos.rig import Shape

_FLOOD: Final = 10_000
_QUIET: Final = Load(users=1000, messages=1, seconds=6.0)
_TIMES: Final = 5.0
"""A quiet user may wait so many times longer than one beside no flood, and a second."""
_PATIENCE: Final = 180.0
_GROWTH: Final = 24.0
"""MiB a bridge may grow by while the queue does."""


def faults() -> list[Fault]:
    """All of them."""
    fast = (("MAX_CONCURRENT_REQUESTS", "64"),)
    return [
        Fault(
            "load/flood",
            f"one user has {_FLOOD} messages queued, {_QUIET.users} quiet ones say one each",
            _flood,
            shape=Shape(latency=0.002, variables=fast),
            load=_QUIET,
            patience=400.0,
        ),
        Fault(
            "load/overload",
            "producers push three times as fast as Letta answers",
            _overload,
            shape=Shape(latency=0.1),
            load=Load(users=300, messages=12, seconds=8.0),
            patience=200.0,
        ),
    ]


def _flood(scene: Scene) -> None:
    talk = scene.conversation
    talk.wait_all(60.0)
    users = list(talk.users)
    idle = _quiet_round(scene, users)  # the first round had agents to make
    scene.strike()
    talk.flood("洪水-" + talk.users[0].rpartition("-")[2], _FLOOD)
    beside = _quiet_round(scene, users)
    scene.remarks.append(
        f"quiet users waited {_p99(idle):.2f} s (p99) without the flood, {_p99(beside):.2f} s beside it"
    )
    if _p99(beside) > _TIMES * _p99(idle) + 1.0:
        scene.problems.append(scene.remarks[-1])


def _quiet_round(scene: Scene, users: list[str]) -> list[float]:
    """Seconds each user waits for the answer to one message, said one after the other."""
    talk = scene.conversation
    said = talk.say_one_more_of(users, pause=_QUIET.seconds / _QUIET.users)
    talk.wait_for(said, 120.0)
    return [talk.answered_at[task] - talk.pushed_at[task] for task in said if task in talk.answered_at]


def _p99(waits: list[float]) -> float:
    return statistics.quantiles(waits, n=100)[-1] if len(waits) > 1 else float("inf")


def _overload(scene: Scene) -> None:
    talk = scene.conversation
    scene.strike()
    before = _resident(scene)
    most, depth = before, 0
    done = threading.Event()
    while not done.is_set():
        depth = max(depth, len(talk.unanswered()))
        most = max(most, _resident(scene))
        if talk.wait_pushed(0.0) and talk.wait_all(0.0):
            done.set()
        time.sleep(0.2)
        if scene.struck_at is not None and time.monotonic() - scene.struck_at > _PATIENCE:
            break
    scene.remarks.append(f"{depth} tasks waited at most; a bridge grew from {before:.0f} to {most:.0f} MiB")
    if most - before > _GROWTH:
        scene.problems.append(scene.remarks[-1])


def _resident(scene: Scene) -> float:
    """MiB of the larger bridge."""
    return max(psutil.Process(bridge.pid).memory_info().rss for bridge in scene.rig.bridges) / 2**20
