"""Places for turns: what is in use and what is requested counts, and a closed bridge has none."""

from __future__ import annotations

import asyncio

from letta_bridge.turn.intake.capacity import Capacity


class Bridge:
    """What a capacity asks about."""

    def __init__(self, limit: int) -> None:
        self.in_use = 0
        self.accepting = True
        self.stopping = asyncio.Event()
        self.capacity = Capacity(limit, lambda: self.in_use, lambda: self.accepting, self.stopping)


async def test_places_in_use_and_requested_turns_are_not_free() -> None:
    bridge = Bridge(limit=10)
    bridge.in_use = 3
    bridge.capacity.request(2)
    bridge.capacity.request(4)
    assert bridge.capacity.free() == 1
    bridge.capacity.arrived(2)
    assert bridge.capacity.free() == 3
    bridge.capacity.arrived(4)
    assert bridge.capacity.free() == 7


async def test_a_lowered_limit_leaves_no_negative_places() -> None:
    bridge = Bridge(limit=10)
    bridge.in_use = 8
    bridge.capacity.limit = 5
    assert bridge.capacity.free() == 0


async def test_nothing_is_free_while_the_bridge_does_not_accept() -> None:
    bridge = Bridge(limit=10)
    bridge.accepting = False
    assert bridge.capacity.free() == 0
    assert not bridge.capacity.accepts


async def test_nothing_is_free_once_the_bridge_stops() -> None:
    bridge = Bridge(limit=10)
    bridge.stopping.set()
    assert bridge.capacity.free() == 0
    assert not bridge.capacity.accepts
