"""Export and erase through the command line, on a real Letta, PostgreSQL and Redis."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from local_stack.fixtures import BridgeFactory
from local_stack.letta import Letta
from local_stack.programs import program

pytestmark = [pytest.mark.letta, pytest.mark.acceptance]

_HELD = """
    SELECT user_id, 'session' FROM letta_bridge.agent_sessions
    UNION ALL SELECT user_id, 'conversation' FROM letta_bridge.agent_conversations
"""


@pytest.fixture
def bridge(bridge_factory: BridgeFactory, letta: Letta, redis_url: str, postgres_url: str) -> Any:
    return bridge_factory(redis_url, letta, DATABASE_URL=postgres_url)


@pytest.fixture
def command(bridge: Any, tmp_path: Path) -> Callable[..., Any]:
    """``letta-bridge ARGUMENTS`` against the same installation, or one with other variables."""

    def run(*arguments: Any, code: int = 0, **variables: Any) -> Any:
        done = subprocess.run(
            [program("letta-bridge"), *arguments],
            env={**bridge.environment, **variables},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout

    return run


def held(postgres_url: Any) -> list[Any]:
    """What the database holds: (user, kind) of each."""
    with psycopg.connect(postgres_url) as connection:
        return sorted(connection.execute(_HELD).fetchall())


def wait_for_journal(observe: Any) -> None:
    """Until every turn settled is in the database, and nowhere else any more."""
    deadline = time.monotonic() + 60
    while waiting := observe.unjournalled():
        assert time.monotonic() < deadline, waiting
        time.sleep(0.1)


def test_one_user_is_exported_and_erased_and_no_other(
    command: Callable[..., Any], observe: Any, users: Callable[..., Any], postgres_url: str, tmp_path: Path
) -> None:
    everybody = users(4)
    gone, others = everybody[1], [everybody[0], *everybody[2:]]
    observe.push_conversations(everybody, 2)
    observe.wait_settled(8)
    wait_for_journal(observe)

    def shown(user: str) -> Any:
        counts = json.loads(command("user", "show", user, "--json"))
        assert counts.pop("permanent_memory") is True
        return counts

    before = {user: shown(user) for user in everybody}
    assert all(count["agents"] == count["sessions"] == count["conversations"] == 1 for count in before.values())

    folder = tmp_path / "export"
    command("user", "export", gone, "--to", str(folder))
    exported = "".join(path.read_text("utf-8") for path in folder.rglob("*") if path.is_file())
    [snapshot], [agent_file] = ([*(folder / "agents").glob(f"agent-*.{ending}")] for ending in ("jsonl", "af"))
    rows = [json.loads(line) for line in snapshot.read_text("utf-8").splitlines()]
    said = [row["row"]["content"][0]["text"] for row in rows if row["part"] == "message"]
    assert said[1:] == [text for n in range(2) for text in (f"第{n}句 from {gone}", f"echo: 第{n}句 from {gone}")]
    assert len(json.loads(agent_file.read_bytes())["agents"][0]["messages"]) == len(said)
    assert all(user not in exported for user in others)
    assert {oct(path.stat().st_mode & 0o777) for path in folder.rglob("*") if path.is_file()} == {"0o600"}

    assert json.loads(command("user", "erase", gone, "--dry-run", "--json")) == before[gone]
    erased = json.loads(command("user", "erase", gone, "--yes", "--json"))
    assert erased["complete"]
    assert erased["found"] == before[gone]
    assert set(erased["left"].values()) == {0}
    # The bridge of this host may be quicker with its session file.
    assert erased["removed"] | {"sessions_in_file": 0} == before[gone] | {"sessions_in_file": 0}
    assert set(shown(gone).values()) == {0}
    assert gone not in {user for user, _ in held(postgres_url)}
    for user in others:
        assert shown(user) == before[user]
    with psycopg.connect(postgres_url) as connection:
        [(audit, finished)] = connection.execute("SELECT user_hash, finished_at FROM letta_bridge.erasures").fetchall()
    assert finished
    assert gone not in audit

    observe.push(gone, "again", "你好")
    observe.wait_settled(9)
    assert observe.said(gone) == {gone: ["你好"]}
