"""A bridge is killed, told to stop, frozen, starved, or tells the wrong time."""

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

from bridge_chaos.fault import Fault, Scene
from bridge_chaos.rig import LEASE, Shape, wait_until
from letta_bridge.fail_points import STEPS

_REACHED: Final = 30.0
"""Seconds within which a turn must reach the step."""
_ZOMBIE: Final = 2.0 * LEASE
_ZOMBIE_LONG: Final = 5.0 * LEASE
"""Longer than the lease and the looks of whoever takes over."""
_OFF: Final = 600
"""Seconds a clock is wrong."""
_HERE: Final = Path(__file__).parent
_WHY_TWICE: Final = (
    "Between the bridge's look at its lease and the write to the socket lie some microseconds. Frozen exactly there "
    "for longer than the lease, it sends when it wakes what another bridge has sent meanwhile; Letta's messages "
    "endpoint has no idempotency key that could refuse the second one."
)


def faults() -> list[Fault]:
    """All of them, the steps of a turn first."""
    found = [_at_step(name, step) for name in ("KILL", "TERM", "STOP") for step in STEPS]
    found += [
        Fault("bridge/kill", "a bridge gets SIGKILL at a random time, and is started again", _kill),
        Fault("bridge/kill-both", "both bridges get SIGKILL at once, and are started again", _kill_both),
        Fault("bridge/term", "a bridge gets SIGTERM at a random time, and is started again", _term),
        Fault("bridge/zombie", f"a bridge is frozen for {_ZOMBIE:g} s, twice its lease", _freeze),
        Fault(
            "bridge/memory",
            "a bridge may not get one more page (RLIMIT_AS), until it is killed and started again",
            _no_memory,
        ),
        Fault(
            "bridge/full-disk",
            "the bridges' data directory, with the sessions' file, is full; there is no database",
            _fill,
            shape=Shape(database=False),
            prepare=_small_disk,
            at_once=True,
            missing=lambda: None if os.geteuid() == 0 else "mounting a small file system needs root",
        ),
        Fault(
            "bridge/clock-ahead",
            f"a bridge's wall clock is {_OFF // 60} minutes ahead",
            _nothing,
            prepare=_clock(_OFF),
            missing=_no_compiler,
        ),
        Fault(
            "bridge/clock-behind",
            f"a bridge's wall clock is {_OFF // 60} minutes behind",
            _nothing,
            prepare=_clock(-_OFF),
            missing=_no_compiler,
        ),
    ]
    return found


def _at_step(name: str, step: str) -> Fault:
    frozen = _ZOMBIE_LONG if step == "sending" else _ZOMBIE
    doing = {"KILL": "gets SIGKILL", "TERM": "gets SIGTERM", "STOP": f"is frozen for {frozen:g} s"}[name]
    fault = Fault(
        f"bridge/{name.lower()}-{step}",
        f"a bridge {doing} when a turn is {step.replace('_', ' ')}",
        (lambda scene: _thaw(scene, frozen)) if name == "STOP" else _ended,
        prepare=lambda scene: _arm(scene, f"{step}:{name}:{scene.random.randint(1, 12)}"),
        at_once=True,
    )
    if (name, step) == ("STOP", "sending"):
        return replace(fault, window=_WHY_TWICE, unkept=frozenset({"repeated_messages", "overlaps", "out_of_order"}))
    return fault


def _arm(scene: Scene, point: str) -> None:
    first = scene.rig.first
    scene.rig.set_fail_point(first, point)
    scene.rig.restart(first)


def _ended(scene: Scene) -> None:
    first = scene.rig.first
    if first.pid and not wait_until(lambda: _stopping(first.pid, first.log), _REACHED):
        return
    scene.strike()
    wait_until(lambda: not first.running, 30.0)
    scene.rig.set_fail_point(first, None)
    scene.rig.restart(first)


def _stopping(pid: int, log: Path) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == "zombie" or b'"draining"' in log.read_bytes()


def _thaw(scene: Scene, seconds: float) -> None:
    first = scene.rig.first
    if not wait_until(lambda: psutil.Process(first.pid).status() == "stopped", _REACHED):
        return
    scene.strike()
    scene.let_pass(seconds)
    first.resume()


def _kill(scene: Scene) -> None:
    scene.strike()
    scene.rig.restart(scene.rig.first)


def _kill_both(scene: Scene) -> None:
    scene.strike()
    scene.rig.restart(*scene.rig.bridges)


def _term(scene: Scene) -> None:
    scene.strike()
    scene.rig.first.restart()


def _freeze(scene: Scene) -> None:
    scene.strike()
    scene.rig.first.pause()
    scene.let_pass(_ZOMBIE)
    scene.rig.first.resume()


def _no_memory(scene: Scene) -> None:
    first = scene.rig.first
    scene.strike()
    pid = first.pid or 0
    used = psutil.Process(pid).memory_info().vms
    resource.prlimit(pid, resource.RLIMIT_AS, (used, used))
    wait_until(lambda: not first.running, 5.0)
    scene.rig.restart(first)


def _small_disk(scene: Scene) -> None:
    """Put the data directory on a file system of one megabyte."""
    folder = scene.rig.data
    for bridge in scene.rig.bridges:
        bridge.kill()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "chaos", folder], check=True)  # noqa: S603, S607
    scene.rig.restart(*scene.rig.bridges)


def _fill(scene: Scene) -> None:
    folder = scene.rig.data
    ballast = folder / "ballast"
    scene.strike()
    try:
        with ballast.open("wb") as file:
            while True:
                file.write(b"x" * 4096)
                file.flush()
    except OSError:
        scene.let_pass(5.0)
    finally:
        ballast.unlink()
        try:
            scene.conversation.wait_all(60.0)
        finally:
            for bridge in scene.rig.bridges:
                bridge.stop()
            subprocess.run(["umount", folder], check=True)  # noqa: S603, S607
            scene.rig.restart(*scene.rig.bridges)


def _clock(seconds: int) -> Callable[[Scene], None]:
    def prepare(scene: Scene) -> None:
        first = scene.rig.first
        library = scene.rig.folder / "wrong_clock.so"
        source = _HERE / "wrong_clock.c"
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)  # noqa: S603, S607
        variables = {"LD_PRELOAD": str(library), "WRONG_CLOCK_SECONDS": str(seconds)}
        if first.environment is not None:
            first.environment |= variables
            scene.rig.restart(first)
            for name in variables:
                first.environment.pop(name)

    return prepare


def _nothing(scene: Scene) -> None:
    """The clock was wrong from the start; at a random time the bridge is killed on top of that."""
    _kill(scene)


def _no_compiler() -> str | None:
    return None if shutil.which("cc") else "shifting a process's clock needs a C compiler here"
