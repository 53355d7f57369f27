"""Restarts processes that end by themselves."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from threading import Event

from local_stack.processes import Process

_WATCH_POLL_SECONDS = 0.25  # seconds between two looks at the children
_RESTART_PAUSES_SECONDS = (0.0, 1.0, 2.0, 5.0, 15.0)  # seconds before the n-th restart of one that keeps ending
_STEADY_AFTER_SECONDS = 60.0  # seconds after which one counts as well again


class _Patient:
    """One process under watch: how often it was restarted, and when it is next."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._restarts = 0
        self._since = time.monotonic()
        self._due: float | None = None

    def look(self, announce: Callable[[str], None]) -> None:
        now = time.monotonic()
        if self._process.running:
            if now - self._since > _STEADY_AFTER_SECONDS:
                self._restarts = 0
        elif self._due is None:
            pause = _RESTART_PAUSES_SECONDS[min(self._restarts, len(_RESTART_PAUSES_SECONDS) - 1)]
            self._due = now + pause
            when = f"in {pause:g} s" if pause else "now"
            words = self._process.last_words()
            why = f": {words}" if words else f"; its log: {self._process.log}"
            announce(f"{self._process.name} ended by itself ({self._process.ending}) and is started again {when}{why}")
        elif now >= self._due:
            self._process.start()
            self._due, self._since, self._restarts = None, now, self._restarts + 1


def watch(
    processes: Sequence[Process],
    over: Event,
    announce: Callable[[str], None],
    *,
    also: Callable[[], None] = lambda: None,
) -> None:
    """Looks after `processes` until `over` is set.

    One that ended is started again at once; one that keeps ending, after ever longer pauses. `also` is called with
    each look.
    """
    patients = [_Patient(process) for process in processes]
    while not over.wait(_WATCH_POLL_SECONDS):
        for patient in patients:
            patient.look(announce)
        also()
