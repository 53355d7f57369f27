"""A short selection of the crash matrix; `./run chaos` tries them all."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bridge_chaos.campaign import run_once
from bridge_chaos.catalogue import catalogue
from bridge_chaos.load import Load
from bridge_chaos.report import line

pytestmark = [pytest.mark.acceptance, pytest.mark.xdist_group("chaos")]

LOAD = Load(users=8, messages=4, seconds=1.5)
SELECTION = [
    "bridge/kill-sent", "bridge/kill-settled", "bridge/stop-answered",
    "redis/kill", "redis/client-kill", "postgres/kill",
    "letta/429-after-tool", "letta/cut-answer", "letta/twice",
]  # fmt: skip


@pytest.mark.parametrize("name", SELECTION)
def test_promises_hold(rig, name):
    run = run_once(rig, replace(catalogue()[name], load=LOAD), seed=1)
    assert run.struck, line(run)
    assert not run.broken, line(run)
