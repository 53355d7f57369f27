"""The crash matrix as a page, and one run as a line."""

from __future__ import annotations

import os
import platform
import statistics
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime

from bridge_chaos.campaign import Run, totals
from bridge_chaos.fault import Fault
from bridge_chaos.promises import Verdict

_PROMISES = {
    "lost": "lost",
    "buried": "buried",
    "repeated_replies": "replies twice",
    "repeated_messages": "messages twice",
    "out_of_order": "out of order",
    "forgotten": "forgotten",
    "strangers": "strangers",
    "overlaps": "overlaps",
    "accounts": "accounts",
    "journal": "journal",
}
_LEGEND = """\
Each run drives one conversation of many users through two bridges, breaks one thing in the middle of it, and looks
from outside at what became of it. Each message carries its number. Columns:

- **runs**, **tasks**: in all of them. **letta**, **memory**, **error**, **dead**: how tasks ended; an error reply is an
  outcome, a lost task is none.
- **lost**: tasks without any outcome. **replies twice**: tasks answered more than once, in the stream or on the
  channel.
- **buried**: good tasks that ended as dead letters.
- **messages twice**: what stands in a user's agent more than once. **out of order**: users whose replies, messages in
  their agent, or turns in the journal are not in the order they spoke.
- **forgotten**: answered, and not in the agent at the end. **strangers**: messages in somebody else's agent, or
  answers meant for somebody else.
- **overlaps**: turns of one agent that ran side by side in Letta. **accounts**: counters and keys that do not add up,
  or the fault's own bound. **journal**: answered turns that are not exactly once in the database.
- **recovery**: seconds from the beginning of the fault to the reply, over all tasks that were unanswered at that
  moment, p50 / most. It holds the fault's own length, and what those tasks would have waited without it.

Recovery says little where a fault strikes turns that begin later (`letta/401` to `letta/twice`: its own delay is not in
the figure), and where nobody waits for what is broken: the `postgres/` rows mostly try the journal, because the users'
agents are known by then. One run a row shows that a fault can be survived, not how rarely it is not.

The lease is 3 s instead of 30 s in these runs, so that they are short; recovery after a kill grows with it.
"""


def line(run: Run) -> str:
    """One run, for the terminal."""
    most = f"{max(run.recovery):5.1f} s" if run.recovery else "      -"
    ends = " ".join(f"{name} {count}" for name, count in sorted(run.verdict.sources.items()) if count)
    state = "ok    " if not run.broken else "BROKEN"
    text = f"{state} {run.fault:<28} {run.seconds:5.1f} s, recovery {most}, {run.verdict.tasks} tasks: {ends}"
    if not run.struck:
        text += " (the fault found nothing to strike)"
    return "\n".join([text, *details(run)])


def details(run: Run) -> Iterable[str]:
    """What is behind a run's figures, a few of each."""
    for remark in run.remarks:
        yield f"         {remark}"
    yield from findings(run.verdict, run.unkept)


def findings(verdict: Verdict, unkept: Collection[str] = ()) -> Iterable[str]:
    """Where promises were broken, a few of each; `unkept` names those that cannot be kept."""
    for name in verdict.broken:
        found = getattr(verdict, name)
        shown = found[:4] if isinstance(found, list) else [found]
        note = " (as told)" if name in unkept else ""
        yield from (f"         {name}{note}: {item}" for item in shown)


def soak_page(summary: Iterable[str], minutes: float, seed: int) -> str:
    """docs/soak.md."""
    return "\n".join(
        [
            "# Long run\n",
            "Made by `./run soak --docs`; do not edit.\n",
            f"`./run soak --minutes {minutes:g} --seed {seed} --docs`, {_machine()}. Forty users talk without a",
            "pause to two bridges, with Letta's double behind them, while one part after the other is broken as in the",
            "[crash matrix](crash-matrix.md).\n",
            *(f"- {line}" for line in summary),
            "",
        ]
    )


def _machine() -> str:
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, Python {platform.python_version()}, "
        f"{platform.system()} {platform.release()}"
    )


def page(
    runs: Sequence[Run],
    faults: Mapping[str, Fault],
    skipped: Mapping[str, str],
    command: str,
    notes: Sequence[str] = (),
) -> str:
    """docs/crash-matrix.md. `notes`: what else a reader must know of these runs."""
    broken = totals(runs)
    said = ", ".join(f"{_PROMISES[name]} {count}" for name, count in broken.items()) or "none"
    summary = (
        f"`{command}`, {_machine()}. {len(runs)} runs, {sum(run.verdict.tasks for run in runs)} tasks. "
        f"Promises broken outside the windows named below: **{said}**.\n"
    )
    parts = [
        "# Crash and fault matrix\n",
        "Made by `./run chaos --docs`; do not edit.\n",
        summary,
        *(f"{note}\n" for note in notes),
        _LEGEND,
        *_tables(runs, faults),
        *_windows(runs, faults),
        *_remarks(runs),
    ]
    if skipped:
        parts += ["## Not run here\n", *(f"- `{name}`: {why}" for name, why in skipped.items()), ""]
    return "\n".join(parts)


def _tables(runs: Sequence[Run], faults: Mapping[str, Fault]) -> Iterable[str]:
    group = ""
    for name, fault in faults.items():
        mine = [run for run in runs if run.fault == name]
        if not mine:
            continue
        if name.partition("/")[0] != group:
            group = name.partition("/")[0]
            heads = [
                "fault",
                "runs",
                "tasks",
                "letta",
                "memory",
                "error",
                "dead",
                *_PROMISES.values(),
                "recovery p50 / most",
            ]
            yield f"\n## {group.replace('-', ' ').capitalize()}\n"
            yield f"| {' | '.join(heads)} |"
            yield f"|{'---|' * len(heads)}"
        yield _row(fault, mine)
    yield ""


def _row(fault: Fault, runs: Sequence[Run]) -> str:
    sources: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    recovery: list[float] = []
    for run in runs:
        sources.update(run.verdict.sources)
        counts.update(run.verdict.broken)
        recovery += run.recovery
    times = f"{statistics.median(recovery):.1f} / {max(recovery):.1f}" if recovery else "–"
    ends = [sources[name] for name in ("letta", "memory-python", "letta_bridge", "dead")]
    cells = [f"{counts[name]}{'*' if name in fault.unkept and counts[name] else ''}" for name in _PROMISES]
    numbers = [len(runs), sum(run.verdict.tasks for run in runs), *ends]
    what = f"**{fault.name}** {fault.what}"
    return f"| {' | '.join([what, *map(str, numbers), *cells, times])} |"


def _windows(runs: Sequence[Run], faults: Mapping[str, Fault]) -> Iterable[str]:
    met = {run.fault for run in runs}
    told = [fault for fault in faults.values() if fault.window and fault.name in met]
    if told:
        yield "## Windows that stay\n"
        yield from (
            f"- **{fault.name}** ({', '.join(_PROMISES[name] for name in sorted(fault.unkept))}): {fault.window}"
            for fault in told
        )
        yield ""


def _remarks(runs: Sequence[Run]) -> Iterable[str]:
    told = [(run.fault, remark) for run in runs for remark in run.remarks]
    if told:
        yield "## Measured beside\n"
        yield from (f"- **{name}**: {remark}" for name, remark in told)
        yield ""
