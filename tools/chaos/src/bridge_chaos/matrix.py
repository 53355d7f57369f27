"""Writes docs/crash-matrix.md: faults, promises, and known limitations."""

from __future__ import annotations

import re
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from bridge_chaos.campaign import totals
from bridge_chaos.fault import Fault
from bridge_chaos.promises.verdict import ALWAYS, PROMISES, Finding, count
from bridge_chaos.results import Results
from bridge_chaos.runner import Run

_MEANING: Final[Mapping[str, str]] = {
    "lost": "tasks without an outcome; an error reply is an outcome",
    "buried": "valid tasks among the dead letters at the end",
    "repeated_replies": "tasks answered more than once, in the stream or on the channel",
    "repeated_messages": "messages that a user's agents contain more than once",
    "out_of_order": "users whose replies, messages or journalled turns are not in the order in which they sent them",
    "forgotten": "answered messages that the user's present agent does not contain",
    "untold": "missed turns that agents have not received although all services are available again",
    "left_out": "missed turns of which an agent received only the number",
    "strangers": "text of another user or persona, or of unknown origin, in an agent or a reply",
    "overlaps": "turns of one agent that overlapped in Letta",
    "accounts": "inconsistent counters or keys, or a violated limit of the fault itself",
    "journal": "answered turns that are not exactly once in the database",
    "consent": "messages sent while permanent memory was off that are in an agent or in the journal",
    "erased": "places that still contain data of an erased user",
    "spoken_twice": "streamed replies of which a listener hears a part twice, or two texts under one number",
    "skipped": "streamed replies whose last attempt lacks a part of the reply",
    "unended": "streamed replies whose stream has no end, or is not there",
    "after_end": "events behind an end, and anything but the end behind an interrupt",
    "seq_holes": "streams whose events are not numbered from 0 without a hole",
    "unclear": "refusals without code and sentence; failed operators' commands without a sentence",
}
_INTRODUCTION: Final = """\
Each run drives a conversation of many users through two bridges, injects a fault during it, and checks the promises
from outside. Some users talk to two personas, some switch permanent memory off and on meanwhile. Each message contains
its number. **0**: the run tested the promise, and it held. **–**: the run does not test the promise. **3\\***: the
promise was broken three times, inside a window that the end of this page names. Promises broken outside a window are
faults.

The lease is 3 s instead of 30 s, so that runs are short; recovery after a kill grows with the lease. **Recovery** is
the time from the beginning of the fault to the reply, over all tasks that were unanswered at that moment; it includes
the duration of the fault. It means little if a fault affects only turns that begin later (`letta/401` to
`letta/twice`), or if no task waits for the broken service (`postgres/`). One run per row shows that the stack can
survive a fault, not how often it does not.
"""
_ABSOLUTE: Final = re.compile(r"(?<![\w.])/[^\s']+(?=/environment-\d)")
"""The directory of a run's environment: a path of the machine that ran it."""
_STRUCK_NOTHING: Final = "the condition it waits for did not occur in its run, so it had no effect"
_HEADS: Final = ("runs", "tasks", "letta", "memory", "error", *PROMISES.values(), "recovery, s: p50 / most")
_PAIRS: Final = """\
Two faults in one run. *together*: both begin at the same moment; *during*: the second begins up to two seconds after
the
first; *recovery*: the second begins after the cause of the first is repaired, while the stack recovers. `./run chaos
--pair NAME --seed N`, with the name without spaces, repeats a run.
"""


def page(results: Results, faults: Mapping[str, Fault]) -> str:
    """The page.

    Args:
        results: of single faults and pairs. Of several runs of one scenario and seed the newest counts.
        faults: all there are, in the order of the groups.
    """
    runs = [run for run in results.runs if run.struck or run.broken]
    single = [run for run in runs if run.scenario.second is None]
    pairs = [run for run in runs if run.scenario.second is not None]
    broken = ", ".join(f"{PROMISES[name]} {times}" for name, times in totals(runs).items()) or "none"
    lines = [
        "# Crash and fault matrix\n",
        "Made by `./run chaos --docs`; do not edit.\n",
        f"`{results.plan.command}`. {len(runs)} runs, {sum(run.verdict.tasks for run in runs)} tasks.\n",
        *_provenance(runs),
        *_repeated(results),
        f"Promises broken outside the windows named below: **{broken}**.\n",
        _INTRODUCTION,
        *_overview(runs),
        *_single_tables(single, faults),
        *_pair_table(pairs),
        *_windows(runs, faults),
        *_remarks(runs),
    ]
    left_out = results.skipped | dict.fromkeys(sorted(results.unknown), "the fault no longer exists")
    left_out |= {run.name: f"seed {run.seed}: {_STRUCK_NOTHING}" for run in results.runs if run not in runs}
    if left_out:
        lines += ["## Not run here\n", *(f"- `{name}`: {why}" for name, why in left_out.items()), ""]
    return "\n".join(lines)


def _provenance(runs: Sequence[Run]) -> Iterable[str]:
    """The commits and machines of the runs."""
    for machine in dict.fromkeys(run.machine for run in runs):
        commits = Counter(run.commit for run in runs if run.machine == machine)
        counted = ", ".join(f"{commit} ({times})" for commit, times in commits.items())
        yield f"- {machine or 'somewhere'}; runs of commit {counted or 'unknown'}"
    yield ""


def _repeated(results: Results) -> Iterable[str]:
    """Runs that broke a promise and were repeated: the page counts the later run."""
    if results.repeated:
        yield "These broke a promise and were run again with the same seed; the later run counts:\n"
        for broken, last in results.repeated:
            counts = ", ".join(f"{PROMISES[name]} {times}" for name, times in broken.broken.items())
            yield f"- `{broken.name}` (seed {broken.seed}): {counts} at {broken.commit}, again at {last.commit}"
        yield ""


def _overview(runs: Sequence[Run]) -> Iterable[str]:
    yield "## Promises\n"
    yield "| column | counts | runs that test it | broken | in a named window |"
    yield "|---|---|---|---|---|"
    excused = count(finding for run in runs for finding in run.excused)
    broken = totals(runs)
    for name, title in PROMISES.items():
        tested = sum(name in run.verdict.checked for run in runs)
        yield f"| **{title}** | {_MEANING[name]} | {tested} | {broken[name]} | {excused[name]} |"
    yield ""


def _single_tables(runs: Sequence[Run], faults: Mapping[str, Fault]) -> Iterable[str]:
    for group in dict.fromkeys(fault.group for fault in faults.values()):
        mine = sorted({run.name for run in runs if run.scenario.first.group == group})
        if not mine:
            continue
        yield f"## {group.replace('-', ' ').capitalize()}\n"
        yield from _table_head("fault")
        for name in mine:
            yield _row(f"**{name}** {faults[name].what}", [run for run in runs if run.name == name])
        yield ""


def _pair_table(runs: Sequence[Run]) -> Iterable[str]:
    if not runs:
        return
    yield "## Pairs\n"
    yield _PAIRS
    yield from _table_head("first + second @ phase")
    for name in sorted({run.name for run in runs}):
        mine = [run for run in runs if run.name == name]
        seeds = ", ".join(str(run.seed) for run in mine)
        yield _row(f"{name.replace('+', ' + ').replace('@', ' @ ')} (seed {seeds})", mine)
    yield ""


def _table_head(first: str) -> Iterable[str]:
    yield f"| {' | '.join([first, *_HEADS])} |"
    yield f"|{'---|' * (len(_HEADS) + 1)}"


def _row(what: str, runs: Sequence[Run]) -> str:
    sources: Counter[str] = Counter()
    recovery: list[float] = []
    for run in runs:
        sources.update(run.verdict.sources)
        recovery += run.recovery
    times = f"{statistics.median(recovery):.1f} / {max(recovery):.1f}" if recovery else "–"
    ends = [sources[name] for name in ("letta", "memory-python", "letta_bridge")]
    numbers = [len(runs), sum(run.verdict.tasks for run in runs), *ends]
    cells = [_cell(name, runs) for name in PROMISES]
    return f"| {' | '.join([what, *map(str, numbers), *cells, times])} |"


def _cell(promise: str, runs: Sequence[Run]) -> str:
    found: list[Finding] = [f for run in runs for f in run.verdict.findings if f.promise == promise]
    broken = sum(run.broken[promise] for run in runs)
    if broken:
        return f"**{broken}**"
    if found:
        return f"{len(found)}\\*"
    return "0" if any(promise in run.verdict.checked for run in runs) else "–"


def _windows(runs: Sequence[Run], faults: Mapping[str, Fault]) -> Iterable[str]:
    met = {fault.name for run in runs for fault in run.scenario.faults}
    named = [fault for fault in faults.values() if fault.window and fault.name in met]
    seen = {finding.promise for run in runs for finding in run.excused}
    always = [name for name in ALWAYS if name in seen]
    if named or always:
        yield "## Known limitations\n"
        yield from (f"- every fault ({PROMISES[name]}): {ALWAYS[name]}" for name in always)
        for fault in sorted(named, key=lambda fault: fault.name):
            if fault.window is not None:
                columns = ", ".join(PROMISES[name] for name in PROMISES if name in fault.window.promises)
                yield f"- **{fault.name}** ({columns}): {fault.window.why}"
        yield ""


def _remarks(runs: Sequence[Run]) -> Iterable[str]:
    told = Counter((run.name, _ABSOLUTE.sub("…", remark)) for run in runs for remark in run.remarks)
    if told:
        yield "## Further observations\n"
        for (name, remark), times in sorted(told.items()):
            yield f"- **{name}**: {remark}" + (f" ({times} times)" if times > 1 else "")
        yield ""
