"""The workflow: right by its schema, its actions pinned, and it runs what everybody runs."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

_FILE = ".github/workflows/ci.yml"


@pytest.mark.process
@pytest.mark.parametrize("schema", ["vendor.github-workflows", "custom.github-workflows-require-timeout"])
def test_follows_the_published_schema(schema: str, checkout: Path) -> None:
    words: list[str | Path] = [Path(sys.executable).with_name("check-jsonschema"), "--builtin-schema", schema]
    done = subprocess.run([*words, checkout / _FILE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_actions_are_pinned_by_commit(checkout: Path) -> None:
    used = re.findall(r"uses: (\S+)(.*)", (checkout / _FILE).read_text("utf-8"))
    assert used
    for action, comment in used:
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", action)
        assert re.fullmatch(r" # v\d+\.\d+\.\d+", comment), "people read versions"


def test_every_promised_python_runs_the_unit_tests(checkout: Path) -> None:
    jobs = yaml.safe_load((checkout / _FILE).read_text("utf-8"))["jobs"]
    [setup] = [step["with"] for step in jobs["test"]["steps"] if "setup-python" in step.get("uses", "")]
    bridge = tomllib.loads((checkout / "services/letta-bridge-python/pyproject.toml").read_text("utf-8"))["project"]
    promised = {name.rpartition(" ")[2] for name in bridge["classifiers"] if "Python :: 3." in name}
    assert promised == {setup["python-version"], *jobs["unit"]["strategy"]["matrix"]["python"]}


@pytest.mark.process
def test_grants_nothing_and_runs_the_projects_own_commands(checkout: Path) -> None:
    workflow = yaml.safe_load((checkout / _FILE).read_text("utf-8"))
    assert workflow["permissions"] == {}
    commands = [step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step]
    assert commands == [".ci/run", "./run unit", "./run coverage", ".ci/images"]
    for command in (command.split()[0] for command in commands):
        subprocess.run(["bash", "-n", checkout / command], check=True)
        assert (checkout / command).stat().st_mode & 0o111
