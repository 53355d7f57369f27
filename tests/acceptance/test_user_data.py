"""Export, erase, backup and restore through the command line, on a real Letta, PostgreSQL and Redis."""

from __future__ import annotations

import json
import os
import subprocess
import time
from urllib.parse import urlsplit

import psycopg
import pytest

from local_stack.programs import program

pytestmark = [pytest.mark.letta, pytest.mark.acceptance]

_HELD = """
    SELECT user_id, 'session' FROM letta_bridge.agent_sessions
    UNION ALL SELECT user_id, 'conversation' FROM letta_bridge.agent_conversations
"""


@pytest.fixture
def bridge(bridge_factory, letta, redis_url, postgres_url):
    return bridge_factory(redis_url, letta, DATABASE_URL=postgres_url)


@pytest.fixture
def command(bridge, tmp_path):
    """``letta-bridge ARGUMENTS`` against the same installation, or one with other variables."""

    def run(*arguments, code=0, **variables):
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


def held(postgres_url):
    """What the database holds: (user, kind) of each."""
    with psycopg.connect(postgres_url) as connection:
        return sorted(connection.execute(_HELD).fetchall())


def wait_for_journal(observe):
    """Until every turn settled is in the database, and nowhere else any more."""
    deadline = time.monotonic() + 60
    while waiting := observe.unjournalled():
        assert time.monotonic() < deadline, waiting
        time.sleep(0.1)


def test_one_user_is_exported_and_erased_and_no_other(command, observe, users, postgres_url, tmp_path):
    everybody = users(4)
    gone, others = everybody[1], [everybody[0], *everybody[2:]]
    observe.push_conversations(everybody, 2)
    observe.wait_settled(8)
    wait_for_journal(observe)

    def shown(user):
        counts = json.loads(command("user", "show", user, "--json"))
        assert counts.pop("permanent_memory") is True
        return counts

    before = {user: shown(user) for user in everybody}
    assert all(count["agents"] == count["sessions"] == count["conversations"] == 1 for count in before.values())

    folder = tmp_path / "export"
    command("user", "export", gone, "--to", str(folder))
    exported = "".join(path.read_text("utf-8") for path in folder.rglob("*") if path.is_file())
    assert "第1句" in json.dumps(json.loads(next((folder / "agents").iterdir()).read_bytes()), ensure_ascii=False)
    assert all(user not in exported for user in others)

    assert json.loads(command("user", "erase", gone, "--dry-run", "--json")) == before[gone]
    erased = json.loads(command("user", "erase", gone, "--yes", "--json"))
    assert {name: count for name, count in erased.items() if name in before[gone]} == before[gone]
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


@pytest.mark.parametrize("plain", [False, True])
def test_a_backup_comes_back_into_an_empty_place(
    command, observe, users, postgres_server, postgres_url, tmp_path, plain
):
    everybody = users(2)
    observe.push_conversations(everybody, 1)
    observe.wait_settled(2)
    wait_for_journal(observe)
    path = f"{postgres_server.programs}{os.pathsep}{os.environ['PATH']}"
    made = json.loads(command("backup", str(tmp_path / "backup"), "--json", *["--plain"] * plain, PATH=path))
    assert made["method"] == ("copy" if plain else "pg_dump")
    assert made["agents"] >= 2
    assert urlsplit(postgres_url).password not in (tmp_path / "backup" / "config.json").read_text("utf-8")

    name = f"restored_{plain:d}"
    postgres_server.create_database(name)
    empty = postgres_server.url(name)
    try:
        restored = json.loads(command("restore", str(tmp_path / "backup"), "--json", DATABASE_URL=empty, PATH=path))
        assert restored["agents_imported"] == 0  # their users have them
        assert held(empty) == held(postgres_url)
        command("restore", str(tmp_path / "backup"), code=1, DATABASE_URL=empty, PATH=path)
    finally:
        postgres_server.drop_database(name)
