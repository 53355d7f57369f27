"""Failures on demand: marked in a message, configured for every call, or random with a seed."""

from __future__ import annotations

import random
import re
from collections import Counter
from dataclasses import dataclass
from typing import Literal, cast

from pydantic import BaseModel, ConfigDict, Field

Action = Literal["fail", "empty", "cut", "hang", "drop"]

MarkerName = Literal["fail-after-tool", "fail", "empty", "cut", "hang", "drop", "latency", "pace"]

_MARKER = re.compile(
    r"\s*\[\[(?P<name>fail-after-tool|fail|empty|cut|hang|drop|latency|pace)(?::(?P<number>\d+(?:\.\d+)?))?"
    r"(?:\s+(?:(?P<once>once)|times=(?P<times>\d+)))?\]\]\s*"
)
_DEFAULTS = {"fail": 500.0, "fail-after-tool": 500.0, "hang": 3600.0, "latency": 1000.0, "pace": 100.0}


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong with one call. ``action`` None means it is only late.

    ``fail`` answers ``status``; ``empty`` answers without text; ``cut`` answers with
    the first half of the text, as at the length limit; ``drop`` closes the connection without answering;
    ``hang`` says nothing for ``seconds`` and then does the same. ``delay`` (seconds) comes before any of them. A
    streamed answer is sent token by token with ``pace`` seconds between them; 0 sends it at once, in larger chunks.
    """

    action: Action | None = None
    status: int = 500
    seconds: float = 0.0
    delay: float = 0.0
    pace: float = 0.0


@dataclass(frozen=True, slots=True)
class Marker:
    """One ``[[name:number times=N]]`` of a message; ``times`` None means at every call."""

    name: MarkerName
    number: float
    times: int | None

    @property
    def fault(self) -> Fault:
        match self.name:
            case "fail" | "fail-after-tool":
                return Fault("fail", status=int(self.number))
            case "latency":
                return Fault(delay=self.number / 1000)
            case "pace":
                return Fault(pace=self.number / 1000)
            case "hang":
                return Fault("hang", seconds=self.number)
            case "empty" | "cut":
                return Fault(self.name)
            case _:
                return Fault("drop")


class Dial(BaseModel):
    """Faults for every chat completion, whatever is said in it.

    Attributes:
        action: what goes wrong; None for latency alone.
        status: the HTTP status of ``fail``.
        seconds: how long ``hang`` says nothing.
        latency_ms: added to every call.
        pace_ms: between two tokens of a streamed answer.
        every: ``action`` hits each n-th call.
        next: ``action`` hits this many calls and is then over; None for no end.
        rate: ``action`` hits a call with this probability, drawn from ``seed``.
    """

    model_config = ConfigDict(extra="forbid")

    action: Action | None = None
    status: int = Field(default=500, ge=400, le=599)
    seconds: float = Field(default=3600.0, ge=0)
    latency_ms: float = Field(default=0.0, ge=0)
    pace_ms: float = Field(default=0.0, ge=0)
    every: int = Field(default=1, ge=1)
    next: int | None = Field(default=None, ge=0)
    rate: float = Field(default=1.0, ge=0, le=1)
    seed: int = 0


class Faults:
    """Decides what goes wrong with a call, and keeps the counts that deciding needs."""

    def __init__(self, dial: Dial | None = None) -> None:
        self._initial = dial or Dial()
        self._used: Counter[tuple[str, Marker]] = Counter()
        self.set(self._initial)

    @property
    def dial(self) -> Dial:
        return self._dial

    def set(self, dial: Dial) -> None:
        """Dial in faults; counting and the random sequence start anew."""
        self._dial = dial
        self._calls = 0
        self._hits = 0
        self._random = random.Random(dial.seed)  # noqa: S311  (a repeatable sequence is the point)

    def reset(self) -> None:
        """Back to what the process was started with, and forget which markers were used up."""
        self._used.clear()
        self.set(self._initial)

    def decide(self, text: str, *, after_tool: bool) -> Fault:
        """The fault of the next call.

        Args:
            text: the newest user message with its markers; ``times`` is counted per distinct text.
            after_tool: a tool has answered since that message.
        """
        faults = [self._dialled(), *(m.fault for m in markers(text) if self._applies(text, m, after_tool))]
        delay = sum(fault.delay for fault in faults)
        active = next((fault for fault in reversed(faults) if fault.action), Fault())
        return Fault(active.action, active.status, active.seconds, delay, max(fault.pace for fault in faults))

    def _dialled(self) -> Fault:
        dial, late, pace = self._dial, self._dial.latency_ms / 1000, self._dial.pace_ms / 1000
        self._calls += 1
        over = dial.next is not None and self._hits >= dial.next
        if dial.action is None or over or self._calls % dial.every or self._random.random() >= dial.rate:
            return Fault(delay=late, pace=pace)
        self._hits += 1
        return Fault(dial.action, dial.status, dial.seconds if dial.action == "hang" else 0.0, late, pace)

    def _applies(self, text: str, marker: Marker, after_tool: bool) -> bool:
        if marker.name == "fail-after-tool" and not after_tool:
            return False
        if marker.times is None:
            return True
        self._used[text, marker] += 1
        return self._used[text, marker] <= marker.times


def markers(text: str) -> list[Marker]:
    """The markers in ``text``, in order. Anything else in double brackets is plain text."""
    return [_marker(match) for match in _MARKER.finditer(text)]


def without_markers(text: str) -> str:
    return _MARKER.sub(" ", text).strip() if "[[" in text else text


def _marker(match: re.Match[str]) -> Marker:
    number = float(match["number"]) if match["number"] else _DEFAULTS.get(match["name"], 0.0)
    times = 1 if match["once"] else int(match["times"]) if match["times"] else None
    return Marker(cast("MarkerName", match["name"]), number, times)
