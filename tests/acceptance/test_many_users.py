"""Many users at once against the real Letta, with bridges that are killed in the middle of it."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Any

import pytest

from local_stack.fixtures import BridgeFactory
from local_stack.letta import Letta
from local_stack.valkey import Valkey

pytestmark = [pytest.mark.acceptance, pytest.mark.letta]

LEASE = "5"


def test_two_hundred_tasks_of_twenty_users_at_once(
    observe: Any, users: Callable[..., Any], redis_url: str, letta: Letta, bridge_factory: BridgeFactory
) -> None:
    people = users(20)
    observe.push_conversations(people, 10)
    bridge_factory(redis_url, letta)
    observe.wait_for(200)
    observe.assert_promises_kept(people, 10)


def test_the_bridge_killed_in_the_middle_of_it(
    observe: Any, users: Callable[..., Any], redis_url: str, letta: Letta, bridge_factory: BridgeFactory
) -> None:
    people = users(12)
    observe.push_conversations(people, 6)
    bridge = bridge_factory(redis_url, letta, LEASE_SECONDS=LEASE)
    observe.wait_for(18)
    bridge.kill()
    bridge.start()
    observe.wait_for(72)
    observe.assert_promises_kept(people, 6)
    assert observe.counters()["redelivered"] > 0


def test_one_of_two_bridges_killed(
    observe: Any, users: Callable[..., Any], redis_url: str, letta: Letta, bridge_factory: BridgeFactory
) -> None:
    people = users(12)
    bridges = [bridge_factory(redis_url, letta, LEASE_SECONDS=LEASE) for _ in range(2)]
    observe.push_conversations(people, 6)
    observe.wait_for(18)
    _kill_one_with_turns_in_hand(observe, bridges)
    killed_at = time.monotonic()
    while observe.counters().get("redelivered", 0) == 0:
        assert time.monotonic() - killed_at < 6 * float(LEASE), "nobody took the dead bridge's turns over"
        time.sleep(0.05)
    observe.wait_for(72)
    observe.assert_promises_kept(people, 6)


def _kill_one_with_turns_in_hand(observe: Any, bridges: Any) -> None:
    """Two may share the work as unevenly as they like: the one that has turns is killed, and is frozen for the look."""
    deadline = time.monotonic() + 60
    for bridge in itertools.cycle(bridges):
        bridge.pause()
        if len(observe.in_hand(bridge.pid)) > 1:
            bridge.kill()
            return
        bridge.resume()
        assert time.monotonic() < deadline, "neither bridge ever had two turns at once"


def test_a_bridge_that_was_stopped_for_longer_than_its_lease(
    observe: Any, users: Callable[..., Any], redis_url: str, letta: Letta, bridge_factory: BridgeFactory
) -> None:
    people = users(6)
    zombie = bridge_factory(redis_url, letta, LEASE_SECONDS="3")
    observe.push_conversations(people, 4)
    observe.wait_for(4)
    zombie.pause()
    bridge_factory(redis_url, letta, LEASE_SECONDS="3")
    observe.wait_for(16)
    zombie.resume()
    observe.wait_for(24)
    observe.assert_promises_kept(people, 4)


def test_stopped_bridge_finishes_started_turns_and_leaves_the_others(
    observe: Any, users: Callable[..., Any], redis_url: str, letta: Letta, bridge_factory: BridgeFactory
) -> None:
    people = users(6)
    bridge = bridge_factory(redis_url, letta)
    observe.push_conversations(people, 4)
    observe.wait_for(4)
    bridge.stop()
    assert bridge.returncode == 0
    assert observe.counters().get("redelivered", 0) == 0
    bridge.start()
    observe.wait_for(24)
    observe.assert_promises_kept(people, 4)


@pytest.mark.usefixtures("redis_url")
def test_redis_restarted_in_the_middle_of_it(
    observe: Any, users: Callable[..., Any], redis_server: Valkey, letta: Letta, bridge_factory: BridgeFactory
) -> None:
    people = users(10)
    bridge = bridge_factory(redis_server.url, letta)
    observe.push_conversations(people, 6)
    observe.wait_for(15)
    redis_server.kill()
    redis_server.start()
    redis_server.wait_ready()
    observe.wait_for(60)
    observe.assert_promises_kept(people, 6)
    assert bridge.running
