"""The figures: each module has a ``FIGURE``, its definition, and ``run``, which measures its rows."""

from __future__ import annotations

from types import ModuleType
from typing import Final

from bridge_bench.figures import (
    backlog,
    bridges,
    client,
    distance,
    hooks,
    latency,
    letta,
    memory,
    recovery,
    sessions,
    setup,
    streaming,
    throughput,
    turn,
)

FIGURES: Final[dict[str, ModuleType]] = {
    module.FIGURE.name: module
    for module in (
        throughput,
        latency,
        memory,
        streaming,
        recovery,
        backlog,
        bridges,
        letta,
        setup,
        turn,
        hooks,
        distance,
        client,
        sessions,
    )
}
"""In the order of the report."""

USUAL: Final = ("throughput", "latency", "memory")
"""Those the targets speak of, and nothing that takes long."""
