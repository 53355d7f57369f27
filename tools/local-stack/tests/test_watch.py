from __future__ import annotations

from collections.abc import Callable
from threading import Event

import pytest

from local_stack.processes import Process
from local_stack.watch import watch

Script = Callable[..., Process]


def test_ended_process_is_restarted(script: Script, serve_forever: str) -> None:
    process = script(serve_forever)
    process.start()
    process.wait_ready()
    first = process.pid
    lines: list[str] = []

    def announce(line: str) -> None:
        lines.append(line)

    class AfterTheRestart(Event):
        def wait(self, timeout: float | None = None) -> bool:
            return process.running and process.pid != first

    process.kill()
    watch([process], AfterTheRestart(), announce)
    assert process.running
    assert lines == [
        f"script-0 ended by itself (signal SIGKILL) and is started again now; its log: {process.log}",
    ]


def test_pauses_between_restarts_grow(script: Script) -> None:
    process = script("sys.exit(f'{pathlib.Path(sys.executable).name}: the port is taken; choose another')")
    process.start()
    lines: list[str] = []
    over = Event()

    def announce(line: str) -> None:
        lines.append(line)
        if len(lines) == 2:
            over.set()

    watch([process], over, announce)
    assert lines == [
        f"script-0 ended by itself (exit code 1) and is started again {when}: the port is taken; choose another"
        for when in ("now", "in 1 s")
    ]


def test_running_process_is_not_restarted(script: Script, serve_forever: str) -> None:
    process = script(serve_forever)
    process.start()
    process.wait_ready()
    first = process.pid
    looks = iter((False, False, True))

    class ThreeLooks(Event):
        def wait(self, timeout: float | None = None) -> bool:
            return next(looks)

    watch([process], ThreeLooks(), pytest.fail)
    assert process.pid == first
