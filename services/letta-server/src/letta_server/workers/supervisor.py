"""The parent of the workers: starts them, replaces those that end or hang, and stops them all."""

from __future__ import annotations

import contextlib
import ctypes
import os
import selectors
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any, Final, NoReturn

from letta_server.workers.abandoned import AbandonedRuns
from letta_server.workers.acceptor import Acceptor
from letta_server.workers.channel import Channel, ChannelClosed, channel
from letta_server.workers.child import Child

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
_TICK_SECONDS: Final = 1.0
_HUNG_TICKS: Final = 60
"""After which a worker that says nothing is killed: its event loop hangs, and no request of it will end."""
_STEADY_SECONDS: Final = 60.0
"""A worker that has served for so long is replaced at once when it ends."""
_LONGEST_PAUSE_SECONDS: Final = 30.0
"""Before a worker is replaced that ended soon, again and again."""
_KILL_MARGIN_SECONDS: Final = 10.0
"""After the grace period: a worker has a last resort of its own, which comes before."""
_PR_SET_PDEATHSIG: Final = 1
"""Of ``prctl``, on Linux."""

Work = Callable[[int, Channel], int]
"""What a worker does, given its number and its end of the channel; returns its exit code."""


@dataclass
class _Place:
    """A worker's number, with the process that has it now."""

    child: Child | None = None
    failures: int = 0
    """How many processes ended soon, one after the other."""
    start_at: float = 0.0


class Supervisor:
    """Keeps ``count`` workers.

    Args:
        listener: bound and not listening.
        count: of workers.
        work: what each does.
        grace: seconds that requests in flight get when the server is stopped.
        reserve: binds a socket to the address again.
        log: for events about workers.
    """

    def __init__(
        self,
        listener: socket.socket,
        count: int,
        work: Work,
        *,
        grace: float,
        reserve: Callable[[str, int], socket.socket],
        log: Any,
    ) -> None:
        # Without a state in the kernel, which parent and workers would share.
        self._selector = selectors.PollSelector()
        self._places = {number: _Place() for number in range(1, count + 1)}
        self._acceptor = Acceptor(listener, reserve, self._selector, self._children)
        self._abandoned = AbandonedRuns()
        self._work = work
        self._grace = grace
        self._log = log
        self._signals: list[int] = []
        self._is_started = False
        self._stopping = False
        self._ticked_at = time.monotonic()

    def run(self, started: Callable[[], None]) -> int:
        """Serve until SIGTERM or SIGINT; return the exit code.

        Workers start one after the other, because the start of Letta writes what is missing in its database.

        Args:
            started: called once, when all workers serve and the port is open.
        """
        with self._handling_signals():
            for number in self._places:
                if not self._start_first(number):
                    return self._end(code=0 if self._stopping else 1)
            self._acceptor.open()
            self._is_started = True
            started()
            while not self._stopping:
                self._pass()
            return self._end(code=0)

    def _start_first(self, number: int) -> bool:
        """Whether the worker serves; False as well if a signal came."""
        place = self._places[number]
        self._start(number)
        while not self._stopping and place.child is not None and place.child.ready_at is None:
            self._pass()
        return not self._stopping and place.failures == 0

    def _pass(self) -> None:
        """Wait for something to happen, for a tick at most, and handle it."""
        # New connections last, when the workers have said how many they have.
        events = sorted(self._selector.select(_TICK_SECONDS), key=lambda event: self._acceptor.listens_on(event[0].fd))
        for key, _ in events:
            key.data()
        if self._signals and not self._stopping:
            self._stopping = True
        now = time.monotonic()
        if now - self._ticked_at >= _TICK_SECONDS:
            self._ticked_at = now
            self._tick(now)
        if self._is_started and not self._stopping:
            self._replace(now)

    def _tick(self, now: float) -> None:
        for child in self._children():
            child.silent_ticks += 1
            child.channel.flush()
            if child.silent_ticks == _HUNG_TICKS:
                self._log.error("worker_hung", worker=child.number, pid=child.pid, seconds=_HUNG_TICKS)
                child.signal(signal.SIGKILL)
        self._acceptor.distribute()
        self._end_abandoned(now)

    def _replace(self, now: float) -> None:
        for number, place in self._places.items():
            if place.child is None and now >= place.start_at:
                self._start(number)

    def _children(self) -> list[Child]:
        return [place.child for place in self._places.values() if place.child is not None]

    def _ready(self) -> list[Child]:
        return [child for child in self._children() if child.ready_at is not None]

    def _start(self, number: int) -> None:
        ours, theirs = channel()
        # A signal that comes before the worker has its own handlers would be handled as the parent's.
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            pid = os.fork()
            if pid == 0:
                self._be_worker(number, ours, theirs)
        except OSError as error:
            ours.close()
            self._failed(number)
            self._log.error("worker_not_started", worker=number, error=os.strerror(error.errno or 0))
            return
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            theirs.close()
        child = self._places[number].child = Child(number, pid, ours, time.monotonic())
        self._selector.register(ours, selectors.EVENT_READ, lambda: self._hear(child))

    def _be_worker(self, number: int, ours: Channel, theirs: Channel) -> NoReturn:
        """The rest of a forked process's life."""
        code = 1
        try:
            parent = os.getppid()
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
            signal.set_wakeup_fd(-1)
            for name in _SIGNALS:
                signal.signal(name, signal.SIG_DFL)
            # A copy of another worker's end, or of a connection, would keep it open.
            for child in self._children():
                child.channel.close()
                for connection in child.untaken:
                    connection.close()
            ours.close()
            self._acceptor.close_all()
            if os.getppid() == parent:
                signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
                code = self._work(number, theirs)
        except SystemExit as leaving:
            code = leaving.code if isinstance(leaving.code, int) else 1
        except BaseException:  # noqa: BLE001 - nothing of the parent's may run in this process
            traceback.print_exc()
        finally:
            with contextlib.suppress(Exception):
                sys.stderr.flush()
            os._exit(code)

    def _hear(self, child: Child) -> None:
        try:
            for words, _ in child.channel.heard():
                child.silent_ticks = 0
                self._handle(child, words)
        except ChannelClosed:
            self._ended(child)
        self._acceptor.distribute()

    def _handle(self, child: Child, words: list[str]) -> None:
        match words:
            case ["ready"]:
                self._is_ready(child)
            case ["alive", connections]:
                child.connections = int(connections)
            case ["taken", connections]:
                child.took(int(connections))
            case ["begun", run_id]:
                child.runs.add(run_id)
            case ["ended", run_id]:
                child.runs.discard(run_id)
                self._abandoned.ended(run_id)
            case ["missing", run_id]:
                self._abandoned.missing(run_id)
            case _:
                raise AssertionError(f"a worker says {words[:1]}")

    def _is_ready(self, child: Child) -> None:
        child.ready_at = time.monotonic()
        seconds = round(child.ready_at - child.started_at, 1)
        self._log.info("worker_ready", worker=child.number, pid=child.pid, seconds=seconds)
        self._tell_serving()
        if self._is_started and not self._acceptor.is_open and not self._stopping:
            self._acceptor.open()
        self._end_abandoned(child.ready_at)

    def _ended(self, child: Child) -> None:
        self._selector.unregister(child.channel)
        self._places[child.number].child = None
        reason = child.reap()
        self._abandoned.add(child.runs)
        if self._acceptor.is_open and not self._ready():
            self._acceptor.shut()
        self._acceptor.take_back(child)
        if self._stopping:
            return
        place = self._failed(child.number, served=child.ready_at)
        self._log.error(
            "worker_ended",
            worker=child.number,
            pid=child.pid,
            reason=reason,
            runs=len(child.runs),
            restart_seconds=max(0.0, round(place.start_at - time.monotonic(), 1)),
        )
        self._tell_serving()
        self._end_abandoned(time.monotonic())

    def _failed(self, number: int, *, served: float | None = None) -> _Place:
        """Say when the next process with this number starts."""
        place, now = self._places[number], time.monotonic()
        steady = served is not None and now - served >= _STEADY_SECONDS
        place.failures = 1 if steady else place.failures + 1
        pause = 0.0 if place.failures == 1 else min(2.0 ** (place.failures - 2), _LONGEST_PAUSE_SECONDS)
        place.start_at = now + pause
        return place

    def _tell_serving(self) -> None:
        ready = self._ready()
        for child in ready:
            child.channel.tell("serving", len(ready), len(self._places))

    def _end_abandoned(self, now: float) -> None:
        """Have a worker end the runs that others left behind."""
        ready = self._ready()
        if ready and not self._stopping:
            helper = min(ready, key=lambda child: child.load)
            for run_id in self._abandoned.due(now):
                helper.channel.tell("end", run_id)

    def _end(self, *, code: int) -> int:
        """Let the workers finish their requests, within the grace period."""
        self._stopping = True
        self._acceptor.close_all()
        for child in self._children():
            child.signal(signal.SIGTERM)
        seen, until = len(self._signals), time.monotonic() + self._grace + _KILL_MARGIN_SECONDS
        while self._children():
            self._pass()
            if len(self._signals) > seen:
                seen = len(self._signals)
                for child in self._children():
                    child.signal(signal.Signals(self._signals[-1]))  # a second Ctrl-C: at once
            if time.monotonic() >= until:
                for child in self._children():
                    child.signal(signal.SIGKILL)
        return code

    @contextlib.contextmanager
    def _handling_signals(self) -> Iterator[None]:
        ours, theirs = socket.socketpair()
        for end in (ours, theirs):
            end.setblocking(False)

        def note(number: int, _frame: FrameType | None) -> None:
            self._signals.append(number)

        def read() -> None:
            with contextlib.suppress(BlockingIOError):
                ours.recv(4096)

        former = {name: signal.signal(name, note) for name in _SIGNALS}
        signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
        self._selector.register(ours, selectors.EVENT_READ, read)
        try:
            yield
        finally:
            signal.set_wakeup_fd(-1)
            for name, handler in former.items():
                signal.signal(name, handler)
            self._selector.close()
            ours.close()
            theirs.close()
