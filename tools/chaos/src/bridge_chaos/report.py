"""Formats a run as a line for the terminal, and the page of a soak run."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Collection, Iterable
from typing import Final

from bridge_chaos.promises.verdict import PROMISES, Finding
from bridge_chaos.provenance import machine
from bridge_chaos.runner import Run

_MAX_SHOWN_FINDINGS: Final = 4
"""Findings of one promise that are shown."""


def line(run: Run) -> str:
    """One run, with the command that repeats it if a promise was broken."""
    most = f"{max(run.recovery):5.1f} s" if run.recovery else "      -"
    ends = " ".join(f"{name} {count}" for name, count in sorted(run.verdict.sources.items()) if count)
    state = "BROKEN" if run.broken else "ok    "
    text = f"{state} {run.name:<28} {run.seconds:5.1f} s, recovery {most}, {run.verdict.tasks} tasks: {ends}"
    if not run.struck:
        text += " (the fault had no effect)"
    again = [f"         again: {run.scenario.command(run.seed)}"] if run.broken or run.scenario.second else []
    return "\n".join([text, *details(run), *again])


class Progress:
    """How far a campaign is.

    Args:
        planned: runs of it; None where it goes on for a time.
        minutes: how long it goes on; None for every scenario once.
    """

    def __init__(self, planned: int | None, minutes: float | None) -> None:
        self._planned = planned
        self._minutes = minutes
        self._begun = time.monotonic()
        self._ended = 0

    def after_run(self) -> str:
        """``run 3 of 204, about 91 min left`` after a run; the estimate assumes the same duration for the rest."""
        self._ended += 1
        elapsed = (time.monotonic() - self._begun) / 60
        if self._minutes is not None or self._planned is None:
            return f"run {self._ended}, {max(0.0, (self._minutes or 0.0) - elapsed):.0f} min left"
        left = elapsed / self._ended * (self._planned - self._ended)
        return f"run {self._ended} of {self._planned}, about {left:.0f} min left"


def details(run: Run) -> Iterable[str]:
    """A few examples behind a run's figures."""
    for remark in run.remarks:
        yield f"         {remark}"
    yield from findings(run.verdict.findings, run.excused)


def findings(found: Iterable[Finding], excused: Collection[Finding] = ()) -> Iterable[str]:
    """A few broken promises of each kind; those in `excused` are in a named window."""
    by_promise: dict[tuple[str, bool], list[Finding]] = defaultdict(list)
    for finding in found:
        by_promise[finding.promise, finding in excused].append(finding)
    for (promise, in_window), some in by_promise.items():
        note = " (in the named window)" if in_window else ""
        yield from (f"         {PROMISES[promise]}{note}: {finding.text}" for finding in some[:_MAX_SHOWN_FINDINGS])
        if len(some) > _MAX_SHOWN_FINDINGS:
            yield f"         {PROMISES[promise]}{note}: {len(some) - _MAX_SHOWN_FINDINGS} more"


def soak_page(summary: Iterable[str], minutes: float, seed: int) -> str:
    """docs/soak.md."""
    return "\n".join(
        [
            "# Long run\n",
            "Made by `./run soak --docs`; do not edit.\n",
            f"`./run soak --minutes {minutes:g} --seed {seed} --docs`, {machine()}. Forty users talk without a",
            "pause to two bridges, with Letta's double behind them, while one part after the other is broken as in the",
            "[crash matrix](crash-matrix.md).\n",
            *(f"- {line}" for line in summary),
            "",
        ]
    )
