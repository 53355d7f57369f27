"""A pytest plugin: which test runs in which worker, where there are several (`pytest -n 3 --dist loadgroup`).

Each worker is a process with servers of its own, started when its first test asks for one. Most are cheap; the real
Letta is not, so all tests marked `letta` share one and run in one worker, one after the other. A test that starts a
Letta of its own may run anywhere: it says `xdist_group("…")`, as do tests that must not run beside each other.

The kinds that take longest begin first, so that no worker is left with a long test at the end. Within a kind the order
stays the random one.
"""

from __future__ import annotations

import pytest

_LONGEST_FIRST = ("letta", "acceptance", "integration")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Groups and sorts in the workers; a run in one process keeps its order."""
    if not hasattr(config, "workerinput"):
        return
    for item in items:
        if item.get_closest_marker("letta") and not item.get_closest_marker("xdist_group"):
            item.add_marker(pytest.mark.xdist_group("letta"))
    items.sort(key=_rank)


def _rank(item: pytest.Item) -> int:
    kinds = [item.get_closest_marker(kind) is not None for kind in _LONGEST_FIRST]
    return kinds.index(True) if any(kinds) else len(kinds)
