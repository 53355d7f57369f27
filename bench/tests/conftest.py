from __future__ import annotations

from collections.abc import Iterator

import pytest

from bridge_bench.contenders import BASELINES, BRIDGE
from bridge_bench.harness import Harness
from bridge_bench.runs import Bench, Options


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """A stage with small rounds, and nobody on it yet."""
    options = Options(
        tasks=200, rounds=1, concurrency=32, users=50, contenders=(BRIDGE, *BASELINES), patience=30.0, large=False
    )
    with Harness(tmp_path_factory.mktemp("bench")) as harness:
        yield Bench(harness, options)
