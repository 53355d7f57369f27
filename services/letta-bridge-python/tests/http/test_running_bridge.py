"""The API of a bridge that really runs, on a real PostgreSQL."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
import redis

from local_stack.fixtures import BridgeFactory, DoubleFactory
from local_stack.programs import program

pytestmark = pytest.mark.acceptance

TOKEN = "c0ffee-c0ffee"
BASE = "/api/sessions/postgres"


@pytest.fixture
def letta(letta_double: DoubleFactory) -> Any:
    """The address of something that answers as Letta does."""
    return letta_double().url


@pytest.fixture
def say(redis_url: str) -> Iterator[Callable[..., Any]]:
    """Send a task; returns the reply."""
    with redis.Redis.from_url(redis_url) as client:

        def say(task_id: str, user: str) -> Any:
            task = {"task_id": task_id, "user_id": user, "content": "你好"}
            client.lpush("letta_requests", json.dumps(task, ensure_ascii=False))
            last = "0"
            until = time.monotonic() + 30
            while time.monotonic() < until:
                for _, entries in client.xread({"{letta_requests}:replies": last}, block=1000):
                    for last, fields in entries:  # noqa: B007  # xread goes on after it
                        reply = json.loads(fields[b"reply"])
                        if reply["task_id"] == task_id:
                            return reply
            return pytest.fail("no reply")

        yield say


def test_api_serves_sessions(
    bridge_factory: BridgeFactory, redis_url: str, letta: Any, postgres_url: str, say: Callable[..., Any]
) -> None:
    bridge = bridge_factory(redis_url, letta, DATABASE_URL=postgres_url, BRIDGE_API_TOKEN=TOKEN)
    assert httpx.get(f"{bridge.url}{BASE}/sessions").status_code == 401
    assert httpx.get(f"{bridge.url}/metrics").status_code == 200
    with httpx.Client(base_url=bridge.url, headers={"Authorization": f"Bearer {TOKEN}"}) as api:
        assert "PostgreSQL" in api.get(f"{BASE}/connection/test").json()["store"]
        assert say("t1", "小明")["source"] == "letta"
        [session] = api.get(f"{BASE}/sessions", params={"user_id": "小明"}).json()["sessions"]
        with psycopg.connect(postgres_url) as connection:
            rows = connection.execute("SELECT session_id, agent_id FROM letta_bridge.agent_sessions").fetchall()
        assert rows == [(session["session_id"], session["agent_id"])]
        assert api.post("/api/sessions/restore").json() == {"restored": 1, "failed": {}}
        assert api.get("/api/sessions/restored").json()["total"] == 1

        # The user's choice holds from the next task on, and the agent is the same one afterwards.
        api.put("/api/users/小明/settings", json={"permanent_memory": False})
        assert say("t2", "小明")["source"] != "letta"
        api.put("/api/users/小明/settings", json={"permanent_memory": True})
        assert say("t3", "小明")["source"] == "letta"
        path = f"{BASE}/sessions/{session['session_id']}"
        assert api.delete(path).status_code == 200
        assert api.post(f"{path}/undelete").json()["agent_id"] == session["agent_id"]
        assert api.get(f"{BASE}/statistics").json()["active"] >= 1
    log = bridge.log.read_text("utf-8")
    assert "user_settings_changed" in log
    assert TOKEN not in log


def test_bridge_off_the_loopback_does_not_start_without_a_token(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    environment = {"LETTA_BRIDGE_CONFIG": str(tmp_path / "config.json"), "DATA_DIR": str(tmp_path)}
    command: Any = [program("letta-bridge"), "run", "--host", "0.0.0.0", "--port", "0"]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == 2
    [sentence] = ended.stderr.splitlines()
    assert "BRIDGE_API_TOKEN" in sentence
