""".ci/smoke: a turn through containers in three minutes, or a sentence why there was none."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest


def _smoke(checkout: Path, programs: Path, **given: str) -> str:
    path = f"{programs}:/usr/bin:/bin"
    done = subprocess.run(
        [checkout / ".ci/smoke"], env={"PATH": path} | given, check=True, capture_output=True, text=True
    )
    return done.stdout


@pytest.fixture
def docker(tmp_path: Path) -> Path:
    """A program that reaches no engine."""
    program = tmp_path / "programs/docker"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\nexit 1\n", encoding="utf-8")
    program.chmod(0o755)
    return program


@pytest.mark.process
@pytest.mark.parametrize("content", [None, "of other packages\n"])
def test_smoke_says_that_nothing_was_built_before(
    content: str | None, docker: Path, checkout: Path, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / "warm").write_text(content, encoding="utf-8")
    said = _smoke(checkout, docker.parent, ENGINE_DIR=str(tmp_path))
    assert said.startswith(f"smoke: no containers were tried: {tmp_path} has no images of these packages yet")


@pytest.mark.process
def test_smoke_leaves_a_machine_with_docker_to_the_whole_suite(docker: Path, checkout: Path) -> None:
    docker.write_text("#!/bin/sh\n", encoding="utf-8")
    assert _smoke(checkout, docker.parent).startswith("smoke: no containers were tried: with a docker of its own")


def test_the_smoke_test_is_there(checkout: Path) -> None:
    words = (checkout / ".ci/smoke").read_text("utf-8").partition("SMOKE=(")[2].partition(")")[0].split()
    assert f"def test_{words[-1]}" in (checkout / words[-3]).read_text("utf-8")
