"""Every package has a name of the project's own, says whose it is and under which licence, and has a README."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PROJECTS = sorted(
    path for path in [*ROOT.glob("*/pyproject.toml"), *ROOT.glob("*/*/pyproject.toml")] if ".venv" not in path.parts
)


@pytest.mark.parametrize("path", PROJECTS, ids=lambda path: path.parent.name)
def test_a_package_names_its_licence_authors_and_readme(path: Any) -> None:
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
def test_package_and_project_dependencies_have_the_projects_names(path: Any) -> None:
    """A general name, as `shared-utils`, may be somebody else's on an index."""
    content = tomllib.loads(path.read_text(encoding="utf-8"))
    project = content["project"]
    assert re.fullmatch(r"letta-bridge(-[a-z]+)*", project["name"])
    groups = [*project.get("optional-dependencies", {}).values(), *content.get("dependency-groups", {}).values()]
    needed = {re.findall(r"^[\w.-]+", each)[0] for group in [project["dependencies"], *groups] for each in group}
    folders = {each.parent.name for each in PROJECTS} | {
        tomllib.loads(each.read_text(encoding="utf-8"))["tool"]["uv"]["build-backend"]["module-name"]
        for each in PROJECTS
    }
    names = {tomllib.loads(each.read_text(encoding="utf-8"))["project"]["name"] for each in PROJECTS}
    own = {name.replace("_", "-") for name in folders} - names
    assert not own & {name.lower().replace("_", "-") for name in needed}


@pytest.mark.parametrize("path", PROJECTS, ids=lambda path: path.parent.name)
def test_distributed_packages_contain_the_licence(path: Any) -> None:
    project = tomllib.loads(path.read_text(encoding="utf-8"))["project"]
    assert ("license-files" in project) != ("Private :: Do Not Upload" in project["classifiers"])
