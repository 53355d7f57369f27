"""A small process that ends the children of a dead parent.

The parent writes `+<pid>` for every child it starts and `-<pid>` for every child that is gone. When the pipe closes,
the parent has ended, whatever killed it, and the process groups still on the list are killed. A pipe works on every
Unix and covers grandchildren in the group; a parent-death signal would need Linux and would be tied to one thread.

Run as a script (`python -I -S reaper.py`), so that it costs 10 MB and 20 ms; `Reaper` is the parent's side.
"""

from __future__ import annotations

import atexit
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress


class Reaper:
    """Reports the living children to the reaping process. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._groups: set[int] = set()
        self._process: subprocess.Popen[bytes] | None = None

    def guard(self, pid: int) -> None:
        """Have the process group `pid` killed when this process ends."""
        with self._lock:
            self._groups.add(pid)
            self._tell(b"+%d\n" % pid)

    def release(self, pid: int) -> None:
        """Remove the process group `pid`, whose number may soon be reused."""
        with self._lock:
            self._groups.discard(pid)
            self._tell(b"-%d\n" % pid)

    def _tell(self, line: bytes) -> None:
        if self._process is None:
            atexit.register(self._close)
            self._start()
            return
        try:
            self._write(line)
        except BrokenPipeError:  # somebody killed it
            self._process.communicate()
            self._start()

    def _start(self) -> None:
        self._process = subprocess.Popen(  # noqa: S603 - our own file, our own interpreter
            [sys.executable, "-I", "-S", __file__], stdin=subprocess.PIPE, bufsize=0, start_new_session=True
        )
        self._write(b"".join(b"+%d\n" % group for group in self._groups))

    def _write(self, lines: bytes) -> None:
        if self._process and self._process.stdin:
            self._process.stdin.write(lines)

    def _close(self) -> None:
        with self._lock:
            process, self._process = self._process, None
            if process is not None:
                process.communicate()


def main() -> None:
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    groups: set[int] = set()
    for line in sys.stdin:
        change = groups.add if line.startswith("+") else groups.discard
        change(int(line[1:]))
    for group in groups:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)


if __name__ == "__main__":
    main()
