"""The workflows: right by their schema, their actions pinned, and they run what everybody runs."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from local_stack.advisories.entries import LOCKS

_COMMANDS = {
    ".github/workflows/advisories.yml": ["./run audit"],
    ".github/workflows/ci.yml": [".ci/run", "./run unit", "./run coverage", ".ci/images"],
    ".github/workflows/release.yml": [
        './run release check "$GITHUB_REF_NAME"',
        ".ci/run",
        ".ci/registry-login",
        "./run release images ${{ matrix.architecture }}",
        ".ci/registry-login",
        "./run release join",
        "./run release wheels dist",
        "./run release publish dist",
    ],
}
_PERMISSIONS = {(".github/workflows/release.yml", "publish"): {"contents": "write"}}
"""Of jobs that need more than to read the sources."""
_CI = ".github/workflows/ci.yml"
_EACH = pytest.mark.parametrize("file", _COMMANDS)


def _workflow(file: Path) -> Any:
    return yaml.safe_load(file.read_text("utf-8"))


def test_every_workflow_is_checked(checkout: Path) -> None:
    assert {str(path.relative_to(checkout)) for path in (checkout / ".github/workflows").iterdir()} == _COMMANDS.keys()


@_EACH
@pytest.mark.process
@pytest.mark.parametrize("schema", ["vendor.github-workflows", "custom.github-workflows-require-timeout"])
def test_follows_the_published_schema(schema: str, file: str, checkout: Path) -> None:
    words: list[str | Path] = [Path(sys.executable).with_name("check-jsonschema"), "--builtin-schema", schema]
    done = subprocess.run([*words, checkout / file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@_EACH
@pytest.mark.process
def test_actionlint_accepts_each_workflow(file: str, checkout: Path) -> None:
    words: list[str | Path] = [Path(sys.executable).with_name("actionlint"), "-no-color", checkout / file]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_a_release_begins_with_the_tests_and_ends_with_the_release(checkout: Path) -> None:
    workflow = _workflow(checkout / ".github/workflows/release.yml")
    assert workflow[True] == {"push": {"tags": ["v*"]}}
    jobs = workflow["jobs"]
    assert [jobs[name].get("needs") for name in ("check", "images", "publish")] == [None, "check", "images"]
    architectures = [each["architecture"] for each in jobs["images"]["strategy"]["matrix"]["include"]]
    assert architectures == ["amd64", "arm64"]
    # Only the steps that push or publish see a secret.
    for job in jobs.values():
        for step in job["steps"]:
            secret = "secrets." in str(step) or "github.token" in str(step)
            assert secret == (step.get("run") in {".ci/registry-login", "./run release publish dist"})


@_EACH
def test_actions_are_pinned_by_commit(file: str, checkout: Path) -> None:
    used = re.findall(r"uses: (\S+)(.*)", (checkout / file).read_text("utf-8"))
    assert used
    for action, comment in used:
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", action)
        assert re.fullmatch(r" # v\d+\.\d+\.\d+", comment), "people read versions"


def test_every_promised_python_runs_the_unit_tests(checkout: Path) -> None:
    jobs = _workflow(checkout / _CI)["jobs"]
    [setup] = [step["with"] for step in jobs["test"]["steps"] if "setup-python" in step.get("uses", "")]
    bridge = tomllib.loads((checkout / "services/letta-bridge-python/pyproject.toml").read_text("utf-8"))["project"]
    promised = {name.rpartition(" ")[2] for name in bridge["classifiers"] if "Python :: 3." in name}
    assert promised == {setup["python-version"], *jobs["unit"]["strategy"]["matrix"]["python"]}


@_EACH
@pytest.mark.process
def test_grants_nothing_and_runs_the_projects_own_commands(file: str, checkout: Path) -> None:
    workflow = _workflow(checkout / file)
    assert workflow["permissions"] == {}
    for name, job in workflow["jobs"].items():
        assert job["permissions"] == _PERMISSIONS.get((file, name), {"contents": "read"})
    commands = [step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step]
    assert commands == _COMMANDS[file]
    for command in (command.split()[0] for command in commands):
        subprocess.run(["bash", "-n", checkout / command], check=True)
        assert (checkout / command).stat().st_mode & 0o111


def test_audit_runs_weekly_and_whenever_a_lock_changes(checkout: Path) -> None:
    events = _workflow(checkout / ".github/workflows/advisories.yml")[True]  # YAML 1.1 reads the key `on` as true
    assert re.fullmatch(r"\d+ \d+ \* \* [0-6]", events["schedule"][0]["cron"])
    for event in ("push", "pull_request"):
        assert set(LOCKS) <= set(events[event]["paths"])
