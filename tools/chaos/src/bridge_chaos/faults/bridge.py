"""A bridge is killed, stopped, frozen, short of resources, or has a wrong clock."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

import psutil

from bridge_chaos.environment import LEASE_SECONDS
from bridge_chaos.fault import Fault, FaultContext, Window, parts
from bridge_chaos.topology import Topology
from bridge_chaos.waiting import restart, wait_until
from letta_bridge.fail_points import STEPS
from local_stack.services import Bridge

_REACHED_SECONDS: Final = 30.0
"""Within which a turn must reach the step."""
_FURTHER_ROUNDS: Final = 10
"""So often everybody says one more until a turn of the victim reaches the step."""
_STOPPED_SECONDS: Final = 60.0
_LOG_LINES: Final = 1000
_ZOMBIE_SECONDS: Final = 2.0 * LEASE_SECONDS
_LONG_ZOMBIE_SECONDS: Final = 5.0 * LEASE_SECONDS
"""Longer than the lease and the looks of whoever takes over."""
_CLOCK_ERROR_SECONDS: Final = 600
_STARVED_SECONDS: Final = 5.0
_FULL_DISK_SECONDS: Final = 5.0
_PACKAGE: Final = Path(__file__).parents[1]
_ONE: Final = parts("bridge")
_BOTH: Final = parts("bridges")
_FROZEN_AT_THE_SOCKET: Final = Window(
    "A few microseconds pass between the bridge's check of its lease and its write to the socket. If the bridge is "
    "frozen exactly then for longer than the lease, it later sends a message that another bridge has sent meanwhile; "
    "Letta's messages endpoint has no idempotency key that would refuse the second one.",
    frozenset({"repeated_messages", "overlaps", "out_of_order"}),
)


def faults() -> list[Fault]:
    """All of them, the steps of a turn first."""
    found = [_at_step(name, step) for name in ("KILL", "TERM", "STOP") for step in STEPS]
    found += [
        Fault("bridge/kill", "a bridge gets SIGKILL at a random time, and is started again", _kill, occupies=_ONE),
        Fault(
            "bridge/kill-both", "both bridges get SIGKILL at once, and are started again", _kill_both, occupies=_BOTH
        ),
        Fault("bridge/term", "a bridge gets SIGTERM at a random time, and is started again", _term, occupies=_ONE),
        Fault(
            "bridge/zombie", f"a bridge is frozen for {_ZOMBIE_SECONDS:g} s, twice its lease", _freeze, occupies=_ONE
        ),
        Fault(
            "bridge/memory",
            "a bridge cannot allocate further memory (RLIMIT_AS), until it is killed and started again",
            _no_memory,
            occupies=_ONE,
        ),
        Fault(
            "bridge/full-disk",
            "the disk of the bridges' data directory, which contains the session file, is full; no database is "
            "configured",
            _fill,
            topology=Topology(database=False),
            prepare=_small_disk,
            at_once=True,
            occupies=_BOTH | parts("data"),
            missing=lambda: None if os.geteuid() == 0 else "mounting a small file system needs root",
        ),
        _wrong_clock("ahead", _CLOCK_ERROR_SECONDS),
        _wrong_clock("behind", -_CLOCK_ERROR_SECONDS),
    ]
    return found


def _at_step(name: str, step: str) -> Fault:
    frozen = _LONG_ZOMBIE_SECONDS if step == "sending" else _ZOMBIE_SECONDS
    doing = {"KILL": "gets SIGKILL", "TERM": "gets SIGTERM", "STOP": f"is frozen for {frozen:g} s"}[name]
    fault = Fault(
        f"bridge/{name.lower()}-{step}",
        f"a bridge {doing} when a turn is {step.replace('_', ' ')}",
        (lambda context: _thaw(context, frozen)) if name == "STOP" else _ended,
        prepare=lambda context: _arm(context, f"{step}:{name}:{context.random.randint(1, 12)}"),
        at_once=True,
        occupies=_ONE,
    )
    return replace(fault, window=_FROZEN_AT_THE_SOCKET) if (name, step) == ("STOP", "sending") else fault


def _arm(context: FaultContext, point: str) -> None:
    context.environment.arm(context.victim, point)
    restart(context.victim)


def _ended(context: FaultContext) -> None:
    victim = context.victim
    if victim.pid and not _talk_until(context, lambda: _is_stopping(victim)):
        return
    context.strike()
    wait_until(lambda: not victim.running, _STOPPED_SECONDS)
    context.environment.disarm(victim)
    restart(victim)


def _talk_until(context: FaultContext, reached: Callable[[], bool]) -> bool:
    """Whether a turn reaches the step. Users send further messages if their load is answered before."""
    talk = context.conversation
    for _ in range(_FURTHER_ROUNDS):
        wait_until(lambda: reached() or talk.is_over, _REACHED_SECONDS)
        if reached():
            return True
        talk.say_one_more_of(talk.users)
    return wait_until(reached, _REACHED_SECONDS)


def _is_stopping(bridge: Bridge) -> bool:
    """Whether the bridge has ended, or has logged since its last start that it is stopping."""
    return not bridge.running or '"draining"' in bridge.log_tail(_LOG_LINES)


def _thaw(context: FaultContext, seconds: float) -> None:
    victim = context.victim
    if not _talk_until(context, lambda: psutil.Process(victim.pid).status() == "stopped"):
        return
    context.strike()
    context.cover(context.waiting)
    context.let_pass(seconds)
    victim.resume()


def _kill(context: FaultContext) -> None:
    context.strike()
    restart(context.victim)


def _kill_both(context: FaultContext) -> None:
    context.strike()
    restart(*context.environment.bridges)


def _term(context: FaultContext) -> None:
    context.strike()
    context.victim.restart()


def _freeze(context: FaultContext) -> None:
    context.strike()
    context.victim.pause()
    context.let_pass(_ZOMBIE_SECONDS)
    context.victim.resume()


def _no_memory(context: FaultContext) -> None:
    victim = context.victim
    context.strike()
    pid = victim.pid or 0
    used = psutil.Process(pid).memory_info().vms
    resource.prlimit(pid, resource.RLIMIT_AS, (used, used))
    wait_until(lambda: not victim.running, _STARVED_SECONDS)
    restart(victim)


def _small_disk(context: FaultContext) -> None:
    """Put the data directory on a file system of one megabyte."""
    folder = context.environment.data(0)
    for bridge in context.environment.bridges:
        bridge.kill()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "chaos", folder], check=True)  # noqa: S603, S607
    restart(*context.environment.bridges)


def _fill(context: FaultContext) -> None:
    folder = context.environment.data(0)
    ballast = folder / "ballast"
    context.strike()
    try:
        with ballast.open("wb") as file:
            while True:
                file.write(b"x" * 4096)
                file.flush()
    except OSError:
        context.let_pass(_FULL_DISK_SECONDS)
    finally:
        ballast.unlink()
        try:
            context.conversation.wait_all(60.0)
        finally:
            for bridge in context.environment.bridges:
                bridge.stop()
            subprocess.run(["umount", folder], check=True)  # noqa: S603, S607
            restart(*context.environment.bridges)


def _wrong_clock(where: str, seconds: int) -> Fault:
    """The clock is wrong from the start; at a random time the bridge is also killed."""
    return Fault(
        f"bridge/clock-{where}",
        f"a bridge's wall clock is {_CLOCK_ERROR_SECONDS // 60} minutes {where}",
        _kill,
        prepare=_with_clock(seconds),
        occupies=_ONE,
        missing=lambda: None if shutil.which("cc") else "shifting a process's clock needs a C compiler",
    )


def _with_clock(seconds: int) -> Callable[[FaultContext], None]:
    def prepare(context: FaultContext) -> None:
        library = context.environment.folder / "wrong_clock.so"
        source = _PACKAGE / "wrong_clock.c"
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)  # noqa: S603, S607
        variables = {"LD_PRELOAD": str(library), "WRONG_CLOCK_SECONDS": str(seconds)}
        context.environment.give(context.victim, variables)
        restart(context.victim)

    return prepare
