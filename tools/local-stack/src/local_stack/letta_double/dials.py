"""The faults of the Letta double, configured for each operation."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from scripted_model.faults import markers

OPERATIONS: Final[Mapping[tuple[str, str], str]] = {
    ("GET", "/v1/agents"): "list_agents",
    ("POST", "/v1/agents"): "create",
    ("POST", "/v1/agents/import"): "import",
    ("GET", "/v1/agents/{agent}"): "get",
    ("DELETE", "/v1/agents/{agent}"): "delete",
    ("GET", "/v1/agents/{agent}/messages"): "history",
    ("POST", "/v1/agents/{agent}/messages"): "send",
    ("POST", "/v1/agents/{agent}/messages/cancel"): "cancel",
    ("PATCH", "/v1/agents/{agent}"): "retag",
    ("GET", "/v1/tags"): "tags",
    ("GET", "/v1/runs"): "runs",
    ("GET", "/v1/runs/{run}"): "run",
}
"""Method and path, without a slash at its end → the kind of call, as it is dialled."""

CUTS: Final = ("cut-request", "cut-working", "cut-answer", "cut")
"""Connections lost, at any operation.

cut-request: before Letta has read the request, which it never sees; cut-working: while Letta works, which is done
``seconds`` later all the same; cut-answer: in the middle of the answer; cut: when all is done, before the answer."""

TURN_MODES: Final = (
    *("status", "failed", "late_status", "empty", "hang", "drip", "twice", "twice_late"),
    *("tool", "late_run", "text", "length", "hold"),
)
"""What else can go wrong with a turn.

status: refused with ``code`` and ``body``, nothing stored; failed: the same, with a run that is listed as failed;
late_status: refused after the message and a tool step were stored; empty: stored, and nothing said; hang: nothing
happens for ``seconds``, then the turn is done; drip: the answer comes byte by byte over ``seconds``; twice: the answer
is sent two times; twice_late: the second time after the next request on its connection; tool: two steps, ``seconds``
between them; late_run: the turn takes ``seconds``, and its run is listed only after three quarters of them; text: the
model says ``text``; length: the text ends at the model's length limit; hold: nothing happens until the dial is replaced
or taken back, then the turn is done."""

CREATE_MODES: Final = ("orphan",)
"""orphan: the agent is made, and the answer is ``code``: creation is not atomic in Letta."""


@dataclass
class Dial:
    """One fault.

    Attributes:
        operation: one of OPERATIONS.
        mode: one of CUTS, TURN_MODES or CREATE_MODES; empty for none.
        code: HTTP status of a refusal.
        seconds: how long it lasts, where the mode says so.
        left: calls it still strikes.
        text: what the model says in the mode ``text``.
        only: it strikes calls whose body contains this alone.
        body: JSON of a refusal; None for what Letta says with ``code``.
    """

    operation: str = "send"
    mode: str = ""
    code: int = 500
    seconds: float = 0.0
    left: int = 0
    text: str = ""
    only: str = ""
    body: Any = None
    over: asyncio.Event = field(default_factory=asyncio.Event, repr=False, compare=False)
    """Set when the dial is replaced or taken back."""


class Dials:
    """The faults that are dialled in, at most one an operation."""

    def __init__(self) -> None:
        self._dials: dict[str, Dial] = {}
        self.struck: Counter[str] = Counter()
        """Operation → calls struck since its dial was set."""

    def set(self, dial: Dial) -> None:
        """Replace the operation's dial.

        Raises:
            ValueError: nobody knows the operation or mode.
        """
        if dial.operation not in OPERATIONS.values() or dial.mode not in {"", *CUTS, *TURN_MODES, *CREATE_MODES}:
            raise ValueError(f"there is no fault {dial.mode!r} of {dial.operation!r}")
        self._end(dial.operation)
        self._dials[dial.operation] = dial
        self.struck[dial.operation] = 0

    def clear(self) -> None:
        """Remove all faults."""
        for operation in list(self._dials):
            self._end(operation)
        self.struck.clear()

    def _end(self, operation: str) -> None:
        if (dial := self._dials.pop(operation, None)) is not None:
            dial.over.set()

    def take(self, operation: str, content: str) -> Dial:
        """The fault that affects this call; one without a mode if there is none."""
        dial = self._dials.get(operation)
        if dial is None or not dial.left or dial.only not in content:
            return Dial()
        dial.left -= 1
        self.struck[operation] += 1
        return dial


def marked(text: str) -> Dial:
    """The fault that a message asks for with a marker of the scripted model; one without a mode where it asks for none.

    Of those markers the double knows ``[[latency:MILLISECONDS]]``, ``[[fail:STATUS]]`` and ``[[cut]]``; for
    ``[[pace:MILLISECONDS]]`` see :func:`pace_of`.
    """
    for marker in markers(text):
        if marker.name == "latency":
            return Dial(mode="hang", seconds=marker.fault.delay)
        if marker.name == "fail":
            return Dial(mode="failed", code=marker.fault.status)
        if marker.name == "cut":
            return Dial(mode="length")
    return Dial()


def pace_of(text: str) -> float:
    """Seconds between two pieces of a streamed answer, which a message asks for with ``[[pace:MILLISECONDS]]``."""
    return max((marker.fault.pace for marker in markers(text)), default=0.0)
