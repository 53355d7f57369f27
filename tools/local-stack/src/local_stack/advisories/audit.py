"""Compares the list with the OSV database: `./run audit`. Needs a network.

The database is asked through pip-audit. Its answer counts only if it covers every package of a lock and reports the
control, an old release with a known advisory: a scanner that finds nothing because it has no data is an error.
"""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from local_stack.advisories.entries import LOCKS, Advisories, Control, read
from local_stack.errors import ScanFailed

_OPTIONS: Final = (
    "--vulnerability-service",
    "osv",
    "--format",
    "json",
    "--aliases",
    "on",
    "--progress-spinner",
    "off",
    "--disable-pip",
)
_UNCONDITIONAL: Final = re.compile(r"^([a-z0-9.-]+)==[^\s;]+ \\$", re.MULTILINE)
"""A pin without an environment marker: pip-audit leaves out packages of other environments."""
_TIMEOUT_SECONDS: Final = 600


@dataclass(frozen=True)
class Finding:
    """An advisory of a locked release."""

    package: str
    version: str
    id: str
    names: frozenset[str]
    """The id and its aliases."""
    fixed_in: tuple[str, ...]

    def __str__(self) -> str:
        fixed = f"fixed in {', '.join(self.fixed_in)}" if self.fixed_in else "no fixed release is known"
        return f"{self.package} {self.version} has {', '.join(sorted(self.names))}; {fixed}"


def problems(checkout: Path, scanner: Sequence[str]) -> Iterator[str]:
    """A sentence for each difference between the database and the list.

    Args:
        checkout: where the locks and the list are.
        scanner: pip-audit's command.

    Raises:
        ScanFailed: the scanner gave no answer, or one that proves nothing.
    """
    advisories = read(checkout)
    _check(advisories.control, scanner)
    found = [finding for lock in LOCKS for finding in _scan_lock(checkout / lock, scanner)]
    yield from compare(found, advisories)


def compare(found: Sequence[Finding], advisories: Advisories) -> Iterator[str]:
    """What is found and not listed as known, and what is listed and not found."""
    known = {name for entry in advisories.letta for name in (entry.id, *entry.aliases)}
    known |= {name for entry in advisories.unfixed for name in entry.ids}
    for finding in dict.fromkeys(found):
        if not finding.names & known:
            yield f"{finding}: raise the package, or list the advisory as unfixed with its reach."
    names = frozenset().union(*(finding.names for finding in found))
    for entry in advisories.unfixed:
        for name in set(entry.ids) - names:
            yield f"{name} of {entry.package} is listed as unfixed and not reported: remove it, or correct its id."


def _check(control: Control, scanner: Sequence[str]) -> None:
    """Ask for a release whose answer is known."""
    with tempfile.TemporaryDirectory() as folder:
        requirements = Path(folder) / "control.txt"
        requirements.write_text(f"{control.package}=={control.version}\n", "utf-8")
        found = list(_findings(_answer(requirements, scanner, "--no-deps")))
    if not any(control.id in finding.names for finding in found):
        raise ScanFailed(
            f"The scanner does not report {control.id} of {control.package} {control.version}, so it has no data."
        )


def _scan_lock(lock: Path, scanner: Sequence[str]) -> list[Finding]:
    answer = _answer(lock, scanner, "--require-hashes")
    answered = {one["name"] for one in answer if "skip_reason" not in one}
    missing = sorted(set(_UNCONDITIONAL.findall(lock.read_text("utf-8"))) - answered)
    if missing or not answered:
        raise ScanFailed(f"The scanner did not look up these packages of {lock.name}: {', '.join(missing)}.")
    return list(_findings(answer))


def _findings(answer: Sequence[dict[str, Any]]) -> Iterator[Finding]:
    for one in answer:
        for found in one.get("vulns", ()):
            names = frozenset((found["id"], *found["aliases"]))
            yield Finding(one["name"], one["version"], found["id"], names, tuple(found["fix_versions"]))


def _answer(requirements: Path, scanner: Sequence[str], *options: str) -> list[dict[str, Any]]:
    """The packages of pip-audit's JSON document. Its exit code is 1 both for findings and for errors."""
    words = [*scanner, *_OPTIONS, *options, "--requirement", str(requirements)]
    done = subprocess.run(  # noqa: S603 - the command is the caller's
        words, capture_output=True, text=True, check=False, timeout=_TIMEOUT_SECONDS
    )
    try:
        packages: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError, TypeError):
        reason = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise ScanFailed(
            f"The scanner gave no answer for {requirements.name} (exit code {done.returncode}): {reason}"
        ) from None
    return packages
