"""CPU and memory of a process with all its children."""

from __future__ import annotations

import threading
from contextlib import suppress
from types import TracebackType
from typing import Final, Self

import psutil

_SAMPLE_EVERY_SECONDS: Final = 0.05
_MIB: Final = 2**20


def cpu_seconds(pid: int) -> float:
    """CPU seconds, user and system, of the process and its children so far; ended children count."""
    total = 0.0
    for process in _tree(pid):
        with suppress(psutil.Error):
            times = process.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total


def memory_mib(pid: int) -> float:
    """Resident memory of the process and its children in MiB; shared memory counts once per process."""
    total = 0
    for process in _tree(pid):
        with suppress(psutil.Error):
            total += process.memory_info().rss
    return total / _MIB


class MemoryPeak(threading.Thread):
    """Watches the memory of a process and its children while the block runs; ``mib`` is the most that was seen."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._pid = pid
        self._over = threading.Event()
        self.mib = 0.0

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self.join()

    def run(self) -> None:
        """Look now and then."""
        while not self._over.wait(_SAMPLE_EVERY_SECONDS):
            self.mib = max(self.mib, memory_mib(self._pid))


def _tree(pid: int) -> list[psutil.Process]:
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []
