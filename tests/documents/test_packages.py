"""Every package says whose it is and under which licence, and has a README. Wheels carry the licence."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECTS = sorted(
    path for path in [*ROOT.glob("*/pyproject.toml"), *ROOT.glob("*/*/pyproject.toml")] if ".venv" not in path.parts
)


@pytest.mark.parametrize("path", PROJECTS, ids=lambda path: path.parent.name)
def test_a_package_names_its_licence_authors_and_readme(path):
    project = tomllib.loads(path.read_text(encoding="utf-8"))["project"]
    assert project["license"] == "Apache-2.0"
    assert project["authors"]
    assert project["description"]
    assert (path.parent / project["readme"]).is_file()
    supported = {name.rpartition(" ")[2] for name in project["classifiers"] if "Python :: 3." in name}
    assert {"3.11", "3.12", "3.13"} <= supported
    for name in project.get("license-files", []):
        assert (path.parent / name).read_bytes() == (ROOT / "LICENSE").read_bytes()


@pytest.mark.parametrize("path", PROJECTS, ids=lambda path: path.parent.name)
def test_what_is_distributed_carries_the_licence(path):
    project = tomllib.loads(path.read_text(encoding="utf-8"))["project"]
    assert ("license-files" in project) != ("Private :: Do Not Upload" in project["classifiers"])
