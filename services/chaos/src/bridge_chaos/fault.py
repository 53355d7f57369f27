"""What a fault is, and what it can reach."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Final

from bridge_chaos.load import Conversation, Load
from bridge_chaos.rig import Rig, Shape

_SHAPE: Final = Shape()
_LOAD: Final = Load()


@dataclass
class Scene:
    """One run, as its fault sees it."""

    rig: Rig
    conversation: Conversation
    random: Random
    struck_at: float | None = None
    """When the fault began, by the monotonic clock."""
    waiting: set[str] = field(default_factory=set)
    """The tasks that were unanswered at that moment."""
    problems: list[str] = field(default_factory=list)
    """Promises of this fault alone that were broken."""
    remarks: list[str] = field(default_factory=list)
    """What it measured, for the report."""

    def strike(self) -> None:
        """Call it when the fault begins."""
        self.struck_at = time.monotonic()
        self.waiting = self.conversation.unanswered()

    def let_pass(self, seconds: float) -> None:
        """The fault lasts."""
        time.sleep(seconds)


@dataclass(frozen=True)
class Fault:
    """One way to break the stack.

    Attributes:
        name: as `--fault` takes it; `group/what`.
        what: one line for the report.
        act: breaks it and mends what the operator would have to mend; called in the middle of the load.
        prepare: called before the load begins.
        shape: the stack it needs.
        load: how much is said meanwhile.
        window: why some promise cannot be kept under it, and exactly when; then `unkept` names which.
        unkept: promises of `promises.BROKEN` that may be broken.
        patience: seconds until everything must be answered.
        at_once: strike as soon as the load begins, not at a random time in it.
        missing: says what this machine lacks for it, if anything.
    """

    name: str
    what: str
    act: Callable[[Scene], None]
    prepare: Callable[[Scene], None] = lambda _scene: None
    shape: Shape = _SHAPE
    load: Load = _LOAD
    window: str = ""
    unkept: frozenset[str] = frozenset()
    patience: float = 90.0
    at_once: bool = False
    missing: Callable[[], str | None] = lambda: None
