"""Pause, drain and resume on a running bridge with a real Letta."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from typer.testing import CliRunner

from letta_bridge.main import app
from local_stack.fixtures import BridgeFactory
from local_stack.letta import Letta

pytestmark = pytest.mark.letta
Q = "{letta_requests}"


@pytest.fixture
def client(redis_url: str) -> Iterator[Any]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def call(redis_url: str, tmp_path: Path) -> Callable[..., Any]:
    config = tmp_path / "config.json"
    config.write_text("{}", encoding="utf-8")
    environ = {"LETTA_BRIDGE_CONFIG": str(config), "REDIS_URL": redis_url}
    return lambda *arguments: CliRunner().invoke(app, arguments, env=environ)


def push(client: Any, *task_ids: Any, user: str = "ada") -> None:
    for task_id in task_ids:
        client.lpush("letta_requests", json.dumps({"task_id": task_id, "user_id": user, "content": "hi"}))


def wait_until(holds: Any) -> None:
    until = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.02)


def replies(client: Any) -> list[Any]:
    return [json.loads(fields[b"reply"])["task_id"] for _, fields in client.xrange(f"{Q}:replies")]


def passes(client: Any, count: int) -> None:
    """Let the bridge look for work so many times."""
    for _ in range(count):
        (before,) = client.zrange(f"{Q}:bridges", 0, -1, withscores=True)
        wait_until(lambda before=before: client.zrange(f"{Q}:bridges", 0, -1, withscores=True) != [before])


def test_a_paused_bridge_leaves_the_list_alone_until_resume(
    bridge_factory: BridgeFactory, redis_url: str, letta: Letta, client: Any, call: Callable[..., Any]
) -> None:
    bridge_factory(redis_url, letta)
    assert call("pause").exit_code == 0
    passes(client, 2)
    push(client, "1", "2", "3")
    passes(client, 2)
    assert client.llen("letta_requests") + client.llen(f"{Q}:incoming") == 3
    assert client.llen("letta_requests") >= 2
    assert replies(client) == []
    assert call("resume").exit_code == 0
    wait_until(lambda: replies(client) == ["1", "2", "3"])


def test_a_drained_queue_has_answered_everything_it_took(
    bridge_factory: BridgeFactory, redis_url: str, letta: Letta, client: Any, call: Callable[..., Any]
) -> None:
    bridge_factory(redis_url, letta)
    push(client, *map(str, range(6)))
    wait_until(lambda: client.hlen(f"{Q}:turns"))
    wait_until(lambda: client.llen("letta_requests") + client.llen(f"{Q}:incoming") == 0)
    result = call("drain", "--timeout", "60", "--json")
    assert (result.exit_code, json.loads(result.stdout)["drained"]) == (0, True)
    assert replies(client) == list(map(str, range(6)))
    push(client, "late")
    passes(client, 2)
    assert "late" not in replies(client)
    call("resume")
    wait_until(lambda: "late" in replies(client))
