"""The interface of a fault, and of the run that it affects."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from random import Random
from typing import Final

from bridge_chaos.conversation import Conversation
from bridge_chaos.environment import Environment
from bridge_chaos.load import Load, Task
from bridge_chaos.promises.verdict import PROMISES, Finding
from bridge_chaos.topology import Topology
from local_stack.services import Bridge

_TOPOLOGY: Final = Topology()
_LOAD: Final = Load()


@dataclass(frozen=True)
class Window:
    """A promise that cannot be kept under a fault.

    Attributes:
        why: the true sentence for operators: when exactly, and what then.
        promises: which, as `promises.PROMISES` names them.
    """

    why: str
    promises: frozenset[str]


@dataclass
class FaultContext:
    """A run, as seen by one of its faults."""

    environment: Environment
    conversation: Conversation
    random: Random
    victim: Bridge
    """The bridge this fault strikes, where it strikes one."""
    struck_at: float | None = None
    """When the fault began, by the monotonic clock."""
    waiting: set[Task] = field(default_factory=set)
    """The tasks that were unanswered at that moment."""
    findings: list[Finding] = field(default_factory=list)
    """Promises of this fault alone that were broken."""
    remarks: list[str] = field(default_factory=list)
    """What it measured, for the report."""
    covered: dict[str, set[Task | str]] = field(default_factory=dict)
    """Promise → tasks and users for which the fault's window holds."""
    covered_users: set[str] = field(default_factory=set)
    """Users for whom the window holds until the end of the run, for all promises it names."""
    checked: set[str] = field(default_factory=set)
    """Promises that this fault puts to the test itself."""
    expected: dict[str, set[Task]] = field(default_factory=dict)
    """Promise → tasks for which what it forbids is the right outcome here."""
    struck: threading.Event = field(default_factory=threading.Event)

    @property
    def other(self) -> Bridge:
        """The other bridge, which this fault does not affect."""
        return next(bridge for bridge in self.environment.bridges if bridge is not self.victim)

    def strike(self) -> None:
        """Called when the fault begins."""
        self.struck_at = time.monotonic()
        self.waiting = self.conversation.unanswered()
        self.struck.set()

    def let_pass(self, seconds: float) -> None:
        """Wait while the fault lasts."""
        time.sleep(seconds)

    def cover(self, tasks: Iterable[Task], *promises: str) -> None:
        """Declare the window for these tasks and their users' order; for these promises, or for all of the window."""
        for task in tasks:
            for promise in promises or PROMISES:
                self.covered.setdefault(promise, set()).update((task, task.user))

    def expect(self, promise: str, tasks: Iterable[Task]) -> None:
        """Declare a violation of the promise as correct for these tasks, because an operator requested it."""
        self.expected.setdefault(promise, set()).update(tasks)

    def check(self, promise: str, kept: bool, text: str, subject: Task | str | None = None) -> None:
        """Test a promise; `text` describes the observation if it is broken."""
        self.checked.add(promise)
        if not kept:
            self.findings.append(Finding(promise, text, subject))


@dataclass(frozen=True)
class Fault:
    """One way to break the stack.

    Attributes:
        name: as `--fault` takes it; `group/what`.
        what: one line for the report.
        act: breaks it and mends what the operator would have to mend; called in the middle of the load.
        prepare: called before the load begins.
        topology: the stack it needs.
        load: how much is said meanwhile.
        window: what cannot be kept under it.
        occupies: parts whose state it changes, in the words of `Topology.parts`: two faults that occupy the same part
            do not act at once. Of "bridge" there are two, and each fault gets its own; "bridges" are both.
        needs: further parts that must work while it acts.
        patience: seconds until everything must be answered.
        at_once: strike as soon as the load begins, not at a random time in it.
        alone: never one of a pair: it measures something that a second fault would spoil.
        missing: says what this machine lacks for it, if anything.
    """

    name: str
    what: str
    act: Callable[[FaultContext], None]
    prepare: Callable[[FaultContext], None] = lambda _context: None
    topology: Topology = _TOPOLOGY
    load: Load = _LOAD
    window: Window | None = None
    occupies: frozenset[str] = frozenset()
    needs: frozenset[str] = frozenset()
    patience: float = 120.0
    at_once: bool = False
    alone: bool = False
    missing: Callable[[], str | None] = lambda: None

    @property
    def group(self) -> str:
        return self.name.partition("/")[0]

    def excuses(self, finding: Finding, context: FaultContext) -> bool:
        """Whether the finding lies in this fault's window."""
        if self.window is None or finding.promise not in self.window.promises:
            return False
        subject = finding.subject
        user = subject.user if isinstance(subject, Task) else subject
        return subject is None or user in context.covered_users or subject in context.covered.get(finding.promise, ())


def parts(*names: str) -> frozenset[str]:
    """A set of parts."""
    return frozenset(names)
