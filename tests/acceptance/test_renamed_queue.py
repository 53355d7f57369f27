"""A bridge that is started with another name of the request list says what it left behind under the old one."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
import redis

from local_stack.fixtures import BridgeFactory
from local_stack.ports import HOST, free_port

pytestmark = pytest.mark.acceptance


def eventually(found: Any, says: Any) -> Any:
    """Wait until ``found()`` is true; returns its value."""
    deadline = time.monotonic() + 60
    while not (value := found()):
        assert time.monotonic() < deadline, says()
        time.sleep(0.05)
    return value


def test_work_in_flight_under_the_old_name_is_named_at_the_start(redis_url: str, bridge_factory: BridgeFactory) -> None:
    nobody = f"http://{HOST}:{free_port()}"
    names = {"LETTA_REQUESTS": "old_requests", "FALLBACK_TIMEOUT_SECONDS": "300"}
    old = bridge_factory(redis_url, nobody, LETTA_ENABLED="false", **names)
    with redis.Redis.from_url(redis_url) as client:
        client.lpush("old_requests", json.dumps({"user_id": "ada", "task_id": "1", "content": "hi"}))
        eventually(lambda: client.hlen("{old_requests}:turns"), old.log_tail)
        old.kill()
        client.delete("{old_requests}:bridges")  # as it is some seconds later
    new = bridge_factory(redis_url, nobody, LETTA_ENABLED="false")

    def told() -> list[Any]:
        lines = [json.loads(line) for line in new.log.read_text(encoding="utf-8").splitlines()]
        return [line for line in lines if line["event"] == "unserved_queue_found"]

    (line,) = eventually(told, new.log_tail)
    assert (line["queue"], line["in_flight"]) == ("old_requests", 1)


def test_two_queues_on_one_redis_take_only_their_own_interrupts(redis_url: str, bridge_factory: BridgeFactory) -> None:
    nobody = f"http://{HOST}:{free_port()}"
    lists = {"letta_requests": "letta_control", "other": "{other}:control"}
    bridges = [
        bridge_factory(redis_url, nobody, data=queue, LETTA_ENABLED="false", LETTA_REQUESTS=queue) for queue in lists
    ]
    with redis.Redis.from_url(redis_url) as client:
        for queue, control in lists.items():
            client.lpush(control, json.dumps({"type": "interrupt", "user_id": "ada", "task_id": queue}))
        for queue in lists:
            noted = f"{{{queue}}}:interrupts"
            eventually(lambda noted=noted: client.exists(noted), bridges[0].log_tail)
            assert client.hkeys(noted) == [f"ada:{queue}".encode()]
        eventually(lambda: not client.exists(*lists.values()), bridges[0].log_tail)
