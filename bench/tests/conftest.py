from __future__ import annotations

import pytest

from bridge_bench.runs import Bench, Options
from bridge_bench.stage import Stage
from bridge_bench.subjects import BRIDGE, FLOORS


@pytest.fixture(scope="session")
def bench(tmp_path_factory):
    """A stage with small rounds, and nobody on it yet."""
    options = Options(
        tasks=200, rounds=1, concurrency=32, users=50, subjects=(BRIDGE, *FLOORS), patience=30.0, large=False
    )
    with Stage(tmp_path_factory.mktemp("bench")) as stage:
        yield Bench(stage, options)
