"""One supervised child: started, waited for, stopped, killed, paused, restarted.

A child is the leader of a process group of its own, so that Ctrl-C in the terminal reaches only the parent and a
signal reaches the whole group. Whatever ends the parent ends the children too (see `reaper`).
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from local_stack.errors import StartFailed
from local_stack.reaper import Reaper
from shared_utils.private_files import create

POLL_SECONDS = 0.05  # seconds between two looks at a child
_reaper = Reaper()


class Process:
    """A program that serves until it is stopped.

    Args:
        name: what people call it, in messages and as the name of its log file.
        command: program and arguments.
        logs: directory of its log file, made if missing; a restart appends.
        environment: the whole environment; None inherits.
        ready: asked until it says True; it must not raise and must not take long. None: ready once started.
        start_timeout: seconds it may take to become ready.
        stop_timeout: seconds between the polite signal and SIGKILL.
        stop_signal: the polite signal.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        *,
        logs: Path,
        environment: Mapping[str, str] | None = None,
        ready: Callable[[], bool] | None = None,
        cwd: Path | None = None,
        start_timeout: float = 60.0,
        stop_timeout: float = 15.0,
        stop_signal: signal.Signals = signal.SIGTERM,
    ) -> None:
        self.name = name
        self.log = logs / f"{name}.log"
        self._command = [str(word) for word in command]
        self.environment = None if environment is None else dict(environment)
        """The whole environment it runs with; None inherits."""
        self._ready = ready or (lambda: True)
        self._cwd = cwd
        self._start_timeout = start_timeout
        self._stop_timeout = stop_timeout
        self._stop_signal = stop_signal
        self._child: subprocess.Popen[bytes] | None = None
        self._group: int | None = None  # while anything of it may live
        self._log_start = 0
        self._deadline = 0.0

    @property
    def pid(self) -> int | None:
        """The process id of the last start, None before the first."""
        return self._child.pid if self._child else None

    @property
    def running(self) -> bool:
        return self._child is not None and self._child.poll() is None

    @property
    def returncode(self) -> int | None:
        """How the last start ended (negative: by that signal); None while it runs or before the first start."""
        return self._child.poll() if self._child else None

    def start(self) -> None:
        """Start the program and return at once; does nothing if it is running."""
        if self.running:
            return
        self._end_group()
        self._deadline = time.monotonic() + self._start_timeout
        create(self.log)  # Letta's own log quotes what users say
        with self.log.open("ab") as log:
            self._log_start = log.tell()
            self._child = subprocess.Popen(  # noqa: S603 - the caller's own command, no shell
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self.environment,
                cwd=self._cwd,
                start_new_session=True,
            )
        self._group = self._child.pid
        _reaper.guard(self._group)

    def is_ready(self) -> bool:
        """Whether the program serves by now.

        Raises:
            StartFailed: it ended, or has not become ready within `start_timeout` (and is then killed).
        """
        serves = self._ready()
        # After the question, not before: somebody else may have answered on its port.
        self._require_running()
        if not serves and time.monotonic() > self._deadline:
            self.kill()
            raise StartFailed(self._report(f"was not ready after {self._start_timeout:g} s"))
        return serves

    def wait_ready(self) -> None:
        """Blocks until the program serves.

        Raises:
            StartFailed: as `is_ready`.
        """
        while not self.is_ready():
            time.sleep(POLL_SECONDS)

    def stop(self) -> None:
        """Stop the program, after `stop_timeout` seconds with SIGKILL."""
        child = self._child
        if child is None:
            return
        if child.poll() is None:
            self.resume()
            child.send_signal(self._stop_signal)
            with suppress(subprocess.TimeoutExpired):
                child.wait(self._stop_timeout)
        self.kill()

    def kill(self) -> None:
        """SIGKILL to the whole group; returns when the program is gone."""
        self._end_group()
        if self._child is not None:
            self._child.wait()

    def pause(self) -> None:
        """Freeze the program: connections stay open without answers, until `resume`."""
        self._signal_group(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal_group(signal.SIGCONT)

    def restart(self) -> None:
        """Stop the program if it runs, start it with the same command and port, and wait until it is ready."""
        self.stop()
        self.start()
        self.wait_ready()

    def log_tail(self, lines: int = 20) -> str:
        """The last `lines` lines of its log since its last start."""
        if not self.log.exists():
            return ""
        with self.log.open("rb") as log:
            log.seek(self._log_start)
            return "\n".join(log.read().decode(errors="replace").splitlines()[-lines:])

    def last_words(self) -> str | None:
        """The program's own last sentence in its log, in the form ``PROGRAM: SENTENCE``, if it wrote one."""
        last = self.log_tail(1)
        sentence = last.removeprefix(f"{Path(self._command[0]).name}: ")
        return None if sentence == last else sentence

    @property
    def ending(self) -> str | None:
        """How the last start ended, for people; None while the program runs or before the first start."""
        code = self.returncode
        if code is None:
            return None
        return f"exit code {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"

    def _require_running(self) -> None:
        if self._child is None:
            raise StartFailed(f"{self.name} was not started.")
        code = self._child.poll()
        if code is not None:
            self._end_group()
            raise StartFailed(self._report(f"ended with {self.ending}"))

    def _report(self, what: str) -> str:
        if words := self.last_words():
            return f"{self.name} {what}: {words} (its log: {self.log})"
        tail = "\n".join(f"  | {line}" for line in self.log_tail().splitlines()) or "  | (nothing)"
        return f"{self.name} {what}. The end of its log, {self.log}:\n{tail}"

    def _signal_group(self, number: signal.Signals) -> None:
        if self._group is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._group, number)

    def _end_group(self) -> None:
        if self._group is not None:
            self._signal_group(signal.SIGKILL)
            _reaper.release(self._group)
            self._group = None
