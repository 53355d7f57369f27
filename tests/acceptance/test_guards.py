"""Limits hold over all bridges of a queue together."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from local_stack.fixtures import BridgeFactory
from local_stack.ports import HOST, free_port

pytestmark = pytest.mark.acceptance


def test_two_bridges_count_one_users_rate_together(
    bridge_factory: BridgeFactory, make_observer: Any, redis_url: str
) -> None:
    limits = {
        "LETTA_BRIDGE_LIMITS_TURNS_PER_MINUTE": "0.01",
        "LETTA_BRIDGE_LIMITS_BURST": "3",
        "LETTA_BRIDGE_LETTA_FALLBACK_TO_MEMORY": "false",
        "LETTA_RETRY_ATTEMPTS": "0",
    }
    for _ in range(2):
        bridge_factory(redis_url, f"http://{HOST}:{free_port()}", **limits)
    observer = make_observer(redis_url)
    for number in range(20):
        observer.push("ada", f"t{number}", "hi")
    observer.wait_settled(20)
    codes = Counter(reply["code"] for reply in observer.replies())
    assert codes == {"letta_unavailable": 3, "user_rate_limited": 17}
    counters = observer.counters()
    assert counters["taken"] == counters["settled:error"] == 20
    observer.client.close()
