"""Records the model's calls for tests: counts, and the last calls in full."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakSet


@dataclass(slots=True)
class Call:
    """One chat completion.

    ``outcome`` is "in flight" until it is known: text, tool, empty, fail:<status>, hang, drop, abandoned.
    """

    number: int
    newest: str
    request: Mapping[str, Any] = field(repr=False)
    outcome: str = "in flight"
    reply: str = ""
    tool: Mapping[str, Any] | None = None
    events: int = 0
    """Sent so far, of an answer that is streamed at a pace."""

    def summary(self, *, full: bool) -> dict[str, Any]:
        short = {
            "number": self.number,
            "newest": self.newest,
            "messages": len(self.request.get("messages") or ()),
            "outcome": self.outcome,
            "reply": self.reply,
            "tool": self.tool,
            "events": self.events,
        }
        return {**short, "request": self.request} if full else short


class Calls:
    """Every call is counted; the last ``kept`` are remembered.

    ``connections`` is the number of connections that carried calls or embeddings.
    """

    def __init__(self, kept: int = 100) -> None:
        self._last: deque[Call] = deque(maxlen=kept)
        self._outcomes: Counter[str] = Counter()
        self._started = 0
        self._carriers: WeakSet[Any] = WeakSet()
        self.connections = 0
        self.embeddings = 0

    def carried(self, connection: Any) -> None:
        """Count a connection at its first call; None is none of our own server's."""
        if connection is not None and connection not in self._carriers:
            self._carriers.add(connection)
            self.connections += 1

    def start(self, newest: str, request: Mapping[str, Any]) -> Call:
        self._started += 1
        call = Call(self._started, newest, request)
        self._last.append(call)
        return call

    def finish(self, call: Call, outcome: str) -> None:
        call.outcome = outcome
        self._outcomes[outcome] += 1

    def report(self, last: int, *, full: bool) -> dict[str, Any]:
        recent = list(self._last)[-last:] if last else []
        return {
            "calls": self._started,
            "in_flight": self._started - self._outcomes.total(),
            "outcomes": dict(self._outcomes),
            "embeddings": self.embeddings,
            "connections": self.connections,
            "last": [call.summary(full=full) for call in recent],
        }
