"""The locks have no release with an advisory that is fixed, and the VEX statement follows its standard."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest
from csaf_lib.verification import VerificationReport, VerificationStatus, Verifier
from packaging.version import Version

from local_stack.advisories import csaf
from local_stack.advisories.entries import LETTAS_LOCK, LOCKS, Status, locked, read

CHECKOUT = Path(__file__).parents[2]
ADVISORIES = read(CHECKOUT)
STATEMENT: dict[str, Any] = json.loads((CHECKOUT / f"docs/{csaf.DOCUMENT_ID}.json").read_text("utf-8"))
LETTAS_OWN = {"CVE-2024-39025", "CVE-2025-51482", "CVE-2025-6101", "CVE-2026-4964", "CVE-2026-4965", "CVE-2026-77936"}


def outdated(versions: dict[str, list[Version]]) -> list[str]:
    """A line for each advisory that was fixed after the locked version."""
    return [
        f"{entry.package} {version} has {', '.join(entry.ids)}, fixed in {entry.version} ({entry.source})"
        for entry in ADVISORIES.fixed
        for version in versions.get(entry.package, [])
        if version < Version(entry.version)
    ]


def failures(report: VerificationReport) -> list[str]:
    return [f"{one.test_name}: {one.message}" for one in report.results if one.status is VerificationStatus.FAIL]


def named_in(file: Path) -> set[str]:
    """The names of a file's test functions."""
    tree = ast.parse(file.read_text("utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


@pytest.mark.parametrize("lock", LOCKS)
def test_lock_has_no_version_with_a_fixed_advisory(lock: str) -> None:
    versions = locked(CHECKOUT, lock)
    assert len(versions) > 100
    assert outdated(versions) == []


def test_earlier_version_is_found() -> None:
    [line] = outdated({"anyio": [Version("4.16.0"), Version("4.14.2"), Version("4.14.1")]})
    assert line.startswith("anyio 4.14.1 has CVE-2026-63374, CVE-2026-64847, fixed in 4.14.2 (https://")


def test_every_listed_package_is_locked() -> None:
    versions = locked(CHECKOUT, LETTAS_LOCK)
    assert len(ADVISORIES.fixed) > 50
    assert {entry.package for entry in ADVISORIES.fixed} <= versions.keys()
    assert {entry.package for entry in ADVISORIES.unfixed} <= versions.keys()


def test_entry_that_is_fixed_by_now_does_not_count_as_unfixed() -> None:
    versions = locked(CHECKOUT, LETTAS_LOCK)
    for entry in ADVISORIES.unfixed:
        assert entry.version is None or max(versions[entry.package]) < Version(entry.version), entry.package


def test_no_advisory_is_fixed_and_unfixed_at_once() -> None:
    unfixed = {name for entry in ADVISORIES.unfixed for name in entry.ids}
    assert not unfixed & {name for entry in ADVISORIES.fixed for name in entry.ids}


def test_control_is_an_advisory_that_the_locks_do_not_have() -> None:
    control = ADVISORIES.control
    fixed = [entry for entry in ADVISORIES.fixed if control.id in entry.ids and entry.package == control.package]
    assert [Version(control.version) < Version(entry.version) for entry in fixed] == [True]


def test_every_vulnerability_of_letta_names_tests_that_exist() -> None:
    assert {entry.id for entry in ADVISORIES.letta} == LETTAS_OWN
    for entry in ADVISORIES.letta:
        for test in (*entry.tests, *entry.full_api_tests):
            file, _, name = test.partition("::")
            assert name in named_in(CHECKOUT / file), test


def test_statement_follows_the_standard() -> None:
    report = Verifier(STATEMENT).run_all()
    assert failures(report) == []
    assert report.passed_count >= 20


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("document", "category"), "csaf_base"),
        (("document", "publisher", "category"), "nobody"),
        (("vulnerabilities", 0, "product_status"), {}),
        (("vulnerabilities", 0, "flags", 0, "label"), "harmless"),
        (("vulnerabilities", 0, "flags", 0, "product_ids"), ["another-product"]),
        (("vulnerabilities", 0, "remediations"), []),
    ],
)
def test_statement_that_breaks_the_standard_is_detected(path: tuple[str | int, ...], value: object) -> None:
    broken = json.loads(json.dumps(STATEMENT))
    place = broken
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    try:
        found = failures(Verifier(broken).run_all())
    except ValueError as error:  # a word that the standard does not have
        found = [str(error)]
    assert found


def test_statement_has_a_status_for_both_settings() -> None:
    stated = {one["cve"]: one["product_status"] for one in STATEMENT["vulnerabilities"] if "cve" in one}
    for entry in ADVISORIES.letta:
        status = stated[entry.id]
        assert "letta-server:letta" in status["known_not_affected"]
        of_full = "known_affected" if entry.full_api_status is Status.AFFECTED else "known_not_affected"
        assert "letta-server-full-api:letta" in status[of_full]


def test_statement_is_revised_when_the_list_was_looked_up_again() -> None:
    numbers = [one.number for one in ADVISORIES.revisions]
    assert numbers == list(range(1, len(numbers) + 1))
    assert [one.date for one in ADVISORIES.revisions] == sorted(one.date for one in ADVISORIES.revisions)
    assert ADVISORIES.revisions[-1].date <= ADVISORIES.looked_up
