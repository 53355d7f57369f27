"""The locks name no version with an advisory that the list of advisories knows as fixed."""

from __future__ import annotations

import datetime as dt
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.version import Version

CHECKOUT = Path(__file__).parents[2]
LISTED: dict[str, Any] = tomllib.loads((CHECKOUT / "services/letta-server/advisories.toml").read_text("utf-8"))
LETTAS = "services/letta-server/requirements.lock"
LOCKS = ("requirements.lock", LETTAS)


def locked(lock: str) -> dict[str, list[Version]]:
    """Package → versions; several where the environment decides."""
    found: dict[str, list[Version]] = {}
    for name, version in re.findall(r"^([a-z0-9.-]+)==([^\s;]+)", (CHECKOUT / lock).read_text("utf-8"), re.MULTILINE):
        found.setdefault(name, []).append(Version(version))
    return found


def outdated(versions: dict[str, list[Version]]) -> list[str]:
    """A line for each advisory that was fixed after the locked version."""
    return [
        f"{entry['package']} {version} has {', '.join(entry['ids'])}, fixed in {entry['version']} ({entry['source']})"
        for entry in LISTED["fixed"]
        for version in versions.get(entry["package"], [])
        if version < Version(entry["version"])
    ]


@pytest.mark.parametrize("lock", LOCKS)
def test_lock_has_no_version_with_a_fixed_advisory(lock: str) -> None:
    assert len(locked(lock)) > 100
    assert outdated(locked(lock)) == []


def test_earlier_version_is_found() -> None:
    [line] = outdated({"anyio": [Version("4.16.0"), Version("4.14.2"), Version("4.14.1")]})
    assert line.startswith("anyio 4.14.1 has CVE-2026-63374, CVE-2026-64847, fixed in 4.14.2 (https://")


def test_every_listed_package_is_locked() -> None:
    versions = locked(LETTAS)
    assert {entry["package"] for entry in (*LISTED["fixed"], *LISTED.get("unfixed", []))} <= versions.keys()


def test_entry_that_is_fixed_by_now_does_not_count_as_unfixed() -> None:
    versions = locked(LETTAS)
    for entry in LISTED.get("unfixed", []):
        assert max(versions[entry["package"]]) < Version(entry["version"]), entry["package"]
        assert entry["reason"]
        assert entry["reach"]


def test_every_entry_names_advisories_and_their_source() -> None:
    assert isinstance(LISTED["looked_up"], dt.date)
    for entry in (*LISTED["fixed"], *LISTED.get("unfixed", [])):
        assert entry["source"].startswith("https://")
        assert entry["ids"]
        assert all(re.fullmatch(r"CVE-\d{4}-\d{4,}|GHSA(-[a-z0-9]{4}){3}", one) for one in entry["ids"]), entry
