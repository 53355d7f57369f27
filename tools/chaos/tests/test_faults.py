"""A short selection of the crash matrix; `./run chaos` tries all faults, and pairs of them."""

from __future__ import annotations

from typing import Any

import pytest

from bridge_chaos.catalogue import catalogue
from bridge_chaos.load import Load
from bridge_chaos.report import line
from bridge_chaos.runner import run_once
from bridge_chaos.scenario import Scenario, named_pair, with_load

pytestmark = [pytest.mark.acceptance, pytest.mark.xdist_group("chaos")]

LOAD = Load(users=8, messages=4, seconds=1.5)
SELECTION = [
    "bridge/kill-sent", "bridge/kill-settled", "bridge/stop-answered",
    "redis/kill", "redis/client-kill", "postgres/kill",
    "letta/429-after-tool", "letta/cut-answer", "letta/twice", "letta/twice-late",
]  # fmt: skip
PAIRS = [
    "bridge/kill-sent+redis/kill@together",
    "redis/kill+bridge/kill@recovery",
    "letta/cut-answer+postgres/kill@during",
]


@pytest.mark.parametrize("name", SELECTION)
def test_promises_hold_under_a_fault(environment: Any, name: str) -> None:
    run = run_once(environment, with_load(Scenario(catalogue()[name]), LOAD), seed=1)
    assert run.struck, line(run)
    assert not run.broken, line(run)


@pytest.mark.parametrize("name", PAIRS)
def test_promises_hold_under_two_faults(environment: Any, name: str) -> None:
    run = run_once(environment, named_pair(name, catalogue()), seed=1)
    assert run.struck, line(run)
    assert not run.broken, line(run)
