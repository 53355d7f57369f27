"""Where a run has several workers, each test goes where its servers are."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.acceptance

_TESTS = """
import pathlib, pytest

@pytest.fixture(autouse=True)
def note(request, worker_id):
    with pathlib.Path(worker_id).open("a") as file:
        print(request.node.name.partition("@")[0], file=file)

@pytest.mark.parametrize("number", range(3))
def test_quick(number): pass

@pytest.mark.acceptance
@pytest.mark.parametrize("number", range(6))
def test_slow(number): pass

@pytest.mark.letta
@pytest.mark.parametrize("number", range(6))
def test_shared(number): pass

@pytest.mark.letta
@pytest.mark.xdist_group("own")
def test_own(): pass
"""
_SETTINGS = """
[pytest]
addopts = -p xdist -p local_stack.workers --dist=loadgroup -p no:cacheprovider
markers =
    letta
    acceptance
"""


@pytest.fixture
def ran(tmp_path: Path) -> list[list[str]]:
    """What each of two workers ran, in order."""
    (tmp_path / "test_them.py").write_text(_TESTS)
    (tmp_path / "pytest.ini").write_text(_SETTINGS)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    subprocess.run(
        [sys.executable, "-m", "pytest", "-n", "2"],
        cwd=tmp_path,
        env=environment | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        check=True,
        capture_output=True,
    )
    return [(tmp_path / worker).read_text().splitlines() for worker in ("gw0", "gw1")]


def test_one_worker_has_all_that_need_the_real_letta_and_the_longest_kind_begins_first(ran: list[list[str]]) -> None:
    (shared,) = [names for names in ran if "test_shared[0]" in names]
    assert sorted(shared[:6]) == [f"test_shared[{number}]" for number in range(6)]
    (other,) = [names for names in ran if "test_own" in names]
    assert other[0] == "test_own"
    for names in ran:
        kinds = [name.partition("[")[0] for name in names]
        assert kinds == sorted(kinds, key=["test_shared", "test_own", "test_slow", "test_quick"].index)
