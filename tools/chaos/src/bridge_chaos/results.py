"""A campaign's results: a file of JSON lines, written as each run ends, so that an interrupted campaign loses one run.

The first line is the campaign's plan, each further one a run or a scenario that this machine cannot run. The file
belongs to whoever started the campaign: nothing reads it unless it is named, and nothing deletes it.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from bridge_chaos.fault import Fault
from bridge_chaos.load import Task
from bridge_chaos.promises import Finding, Verdict
from bridge_chaos.runner import Run
from bridge_chaos.scenario import scenario_of

_VERSION: Final = 1


class UnusableResults(Exception):
    """A file of results that cannot be read, or that another campaign writes; the message is one sentence."""


@dataclass(frozen=True)
class Plan:
    """What a campaign tries.

    Attributes:
        command: started it.
        seed: of the first round.
        minutes: how long it goes on; None for every scenario once.
        scenarios: their names.
    """

    command: str
    seed: int
    minutes: float | None
    scenarios: Sequence[str]


@dataclass
class Results:
    """The runs of one or several campaigns, oldest first."""

    plan: Plan
    lines: list[Run] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    """Scenario → what the machine lacked for it."""
    unknown: set[str] = field(default_factory=set)
    """Scenarios whose faults no longer exist; their runs are left out."""

    @property
    def runs(self) -> list[Run]:
        """The newest run of each scenario and seed."""
        return list({(run.name, run.seed): run for run in self.lines}.values())

    @property
    def repeated(self) -> list[tuple[Run, Run]]:
        """Each run that broke a promise and was repeated later, with its newest repetition."""
        newest = {(run.name, run.seed): run for run in self.lines}
        pairs = [(run, newest[run.name, run.seed]) for run in self.lines if run.broken]
        return [(broken, last) for broken, last in pairs if last is not broken]

    def has(self, name: str, seed: int, commit: str, *, unbroken: bool) -> bool:
        """Whether a scenario's newest run of this seed was made with the commit, and, if asked, broke no promise."""
        found = next((run for run in reversed(self.lines) if (run.name, run.seed) == (name, seed)), None)
        return found is not None and found.commit == commit and not (unbroken and found.broken)

    def add_all(self, other: Results) -> None:
        """Add the results of another file."""
        self.lines += other.lines
        self.skipped |= other.skipped
        self.unknown |= other.unknown


class ResultsFile:
    """A file of results that this campaign writes; no other one may.

    Args:
        path: its place. What a killed campaign left of its last line is removed.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab+")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise UnusableResults(
                f"another campaign writes to {path}; wait until it has ended, or name another file."
            ) from None
        self._file.seek(0)
        self._file.truncate(self._file.read().rfind(b"\n") + 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()

    def begin(self, plan: Plan) -> None:
        """Write the plan, the first line."""
        self._write({"plan": asdict(plan)})

    def add(self, run: Run) -> None:
        """Write a run that has ended."""
        self._write({"run": _record(run)})

    def skip(self, skipped: Mapping[str, str]) -> None:
        """Write a scenario that this machine cannot run."""
        for name, why in skipped.items():
            self._write({"skipped": name, "why": why})

    def _write(self, record: Mapping[str, Any]) -> None:
        self._file.write(json.dumps({"v": _VERSION, **record}, ensure_ascii=False).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())


def read(path: Path, faults: Mapping[str, Fault]) -> Results:
    """The results in a file; the last line may be incomplete.

    Raises:
        UnusableResults: it is no file of results, or one of a later release.
    """
    results: Results | None = None
    for number, record in _records(path):
        try:
            if results is None:
                results = Results(Plan(**record["plan"]))
            elif "skipped" in record:
                results.skipped[record["skipped"]] = record["why"]
            elif (run := _run(record["run"], faults)) is None:
                results.unknown.add(record["run"]["scenario"])
            else:
                results.lines.append(run)
        except (KeyError, TypeError, ValueError) as error:
            raise UnusableResults(f"line {number} of {path} is no result of a campaign ({error!r}).") from None
    if results is None:
        raise UnusableResults(f"{path} contains no plan of a campaign, so ./run chaos did not write it.")
    return results


def _records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise UnusableResults(f"{path} cannot be read: {error.strerror}.") from None
    for number, line in enumerate(lines[:-1], 1):  # what follows the last line end is incomplete
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if not isinstance(record, dict):
            raise UnusableResults(f"line {number} of {path} is not a result of a campaign.")
        if record.get("v") != _VERSION:
            raise UnusableResults(f"line {number} of {path} was written by another release of ./run chaos.")
        yield number, record


def _record(run: Run) -> dict[str, Any]:
    verdict = run.verdict
    return {
        "scenario": run.name,
        "seed": run.seed,
        "commit": run.commit,
        "machine": run.machine,
        "struck": run.struck,
        "seconds": round(run.seconds, 3),
        "recovery": [round(seconds, 3) for seconds in run.recovery],
        "tasks": verdict.tasks,
        "sources": dict(verdict.sources),
        "checked": sorted(verdict.checked),
        "remarks": run.remarks,
        "findings": [
            {"promise": f.promise, "text": f.text, "subject": f.subject, "in_window": f in run.excused}
            for f in verdict.findings
        ],
    }


def _run(record: Mapping[str, Any], faults: Mapping[str, Fault]) -> Run | None:
    scenario = scenario_of(record["scenario"], faults)
    if scenario is None:
        return None
    found = [(_finding(one), bool(one["in_window"])) for one in record["findings"]]
    return Run(
        scenario,
        int(record["seed"]),
        struck=record["struck"],
        verdict=Verdict(
            tasks=record["tasks"],
            sources=Counter(record["sources"]),
            findings=[finding for finding, _ in found],
            checked=set(record["checked"]),
        ),
        recovery=record["recovery"],
        seconds=record["seconds"],
        remarks=record["remarks"],
        excused=[finding for finding, in_window in found if in_window],
        commit=record["commit"],
        machine=record["machine"],
    )


def _finding(record: Mapping[str, Any]) -> Finding:
    subject = record["subject"]
    return Finding(record["promise"], record["text"], Task(*subject) if isinstance(subject, list) else subject)
