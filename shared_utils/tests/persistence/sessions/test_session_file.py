"""What the session store in a file promises beyond the contract."""

from __future__ import annotations

import asyncio
import resource
import sqlite3
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from shared_utils.persistence.sessions.file_store import FileSessionStore
from shared_utils.persistence.sessions.port import Session, SessionStoreError, StaleSession

_FIRST_RELEASE = """
CREATE TABLE agent_sessions (
    session_id TEXT PRIMARY KEY, user_id TEXT NOT NULL, persona TEXT NOT NULL, agent_id TEXT,
    session_data TEXT NOT NULL, metadata TEXT NOT NULL, created_at TEXT NOT NULL, last_updated TEXT NOT NULL,
    expires_at TEXT, version INTEGER NOT NULL, is_active INTEGER NOT NULL
);
CREATE UNIQUE INDEX agent_sessions_one_active ON agent_sessions (user_id, persona) WHERE is_active = 1;
CREATE INDEX agent_sessions_last_updated ON agent_sessions (last_updated);
INSERT INTO agent_sessions VALUES ('s1', 'ada', 'default', 'agent-1', '{"a": 1}', '{"permanent_memory": false}',
    '2026-01-02T03:04:05.000006+00:00', '2026-01-02T03:04:05+00:00', NULL, 3, 1);
"""

_READ_AND_CLOSE = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
connection.execute("SELECT * FROM agent_sessions").fetchall()
connection.close()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "sessions.db"


@pytest.fixture
async def file_store(path: Path) -> AsyncIterator[FileSessionStore]:
    store = FileSessionStore(path)
    yield store
    await store.close()


async def test_a_file_of_the_first_release_is_brought_up_to_date(path: Path, file_store: Any) -> None:
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(_FIRST_RELEASE)
    session = await file_store.find("ada", "default")
    assert (session.session_id, session.agent_id, session.version, session.message_count) == ("s1", "agent-1", 3, 0)
    assert session.permanent_memory is False
    await file_store.touch(["s1"], messages={"s1": 1})
    saved = await file_store.save(replace(session, agent_id="agent-2"))
    assert (saved.version, saved.message_count) == (4, 1)
    await file_store.close()
    with closing(sqlite3.connect(path)) as connection, connection:  # as the first release writes
        connection.execute("INSERT INTO agent_sessions (session_id, user_id, persona, session_data, metadata, "
                           "created_at, last_updated, version, is_active) VALUES ('s2', 'bo', 'default', '{}', '{}', "
                           "'2026-01-02T03:04:05+00:00', '2026-01-02T03:04:05+00:00', 1, 1)")  # fmt: skip
    assert (await file_store.find("bo", "default")).session_id == "s2"


async def test_a_process_that_closes_the_file_takes_nothing_from_two_stores_that_have_it_open(
    path: Path, file_store: FileSessionStore
) -> None:
    """SQLite deletes the log with the last connection; where locks got lost, another process takes its own for that."""
    await file_store.reserve("ada", "default")
    second = FileSessionStore(path)  # as a bridge has several, each with its own connection
    await second.find("ada", "default")
    other = await asyncio.create_subprocess_exec(sys.executable, "-c", _READ_AND_CLOSE, path)
    assert await other.wait() == 0
    session = await file_store.reserve("bo", "default")
    await second.close()
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT session_id FROM agent_sessions WHERE user_id = 'bo'").fetchall() == [
            (session.session_id,)
        ]


async def test_mirrored_session_replaces_the_local_one(file_store: FileSessionStore) -> None:
    here = await file_store.reserve("ada", "default")
    there = Session("ada", "default", agent_id="agent-1", version=4)
    await file_store.mirror([there])
    assert await file_store.find("ada", "default") == there
    assert await file_store.load(here.session_id) is None
    await file_store.mirror([replace(there, agent_id="older", version=3)])
    assert await file_store.find("ada", "default") == there


async def test_rows_that_cannot_be_read_are_named_and_stop_no_others(path: Path, file_store: FileSessionStore) -> None:
    sessions = [await file_store.reserve(f"user-{number}", "default") for number in range(3)]
    broken = sessions[1].session_id
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE agent_sessions SET metadata = '[]' WHERE session_id = ?", [broken])
    for restoration in (await file_store.restore(limit=10), await file_store.part(after="", limit=10)):
        assert len(restoration.sessions) == 2
        assert list(restoration.failed) == [broken]
        assert f"session {broken} in the session file cannot be read" in restoration.failed[broken]


async def test_the_file_outlives_its_store(path: Path, file_store: FileSessionStore) -> None:
    session = await file_store.reserve("ada", "default")
    await file_store.close()
    with_agent = replace(session, agent_id="agent-1")
    other = FileSessionStore(path)
    assert await other.find("ada", "default") == session
    saved = await other.save(with_agent)
    await other.close()
    assert await file_store.find("ada", "default") == saved


async def test_two_stores_on_one_file_agree(path: Path, file_store: FileSessionStore) -> None:
    other = FileSessionStore(path)
    users = [f"user-{number}" for number in range(20)]
    reservations = [store.reserve(user, "default") for user in users for store in (file_store, other)]
    sessions = await asyncio.gather(*reservations)
    assert len({session.session_id for session in sessions}) == len(users)
    session = await file_store.reserve("ada", "default")
    await other.save(session)
    with pytest.raises(StaleSession):
        await file_store.save(session)
    assert await file_store.count() == await other.count() == {"active": 21, "reserved": 21}
    await other.close()


async def refused(store: FileSessionStore, path: Path) -> None:
    with pytest.raises(SessionStoreError) as caught:
        await store.reserve("ada", "default")
    assert type(caught.value) is SessionStoreError
    assert caught.value.retryable
    assert str(path) in str(caught.value)
    assert "check that its directory can be written and the disk is not full" in str(caught.value)


async def test_a_file_in_an_impossible_place_is_an_error_until_the_place_exists(path: Path, file_store: Any) -> None:
    path.parent.write_text("a file where the directory should be")
    await refused(file_store, path)
    path.parent.unlink()
    assert await file_store.reserve("ada", "default")


async def test_a_directory_in_the_files_place_is_an_error_until_it_is_gone(path: Path, file_store: Any) -> None:
    path.mkdir(parents=True)
    await refused(file_store, path)
    path.rmdir()
    assert await file_store.reserve("ada", "default")


async def test_a_file_that_is_no_database_is_an_error_until_it_is_replaced(path: Path, file_store: Any) -> None:
    path.parent.mkdir()
    path.write_bytes(b"this is no database" * 100)
    await refused(file_store, path)
    path.unlink()
    assert await file_store.reserve("ada", "default")


async def test_a_full_disk_is_an_error_until_there_is_room(path: Path, file_store: Any) -> None:
    kept = await file_store.reserve("bo", "default")
    with file_size_limit(1):
        await refused(file_store, path)
    assert await file_store.reserve("ada", "default")
    assert await file_store.find("bo", "default") == kept


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """No file of this process may grow beyond ``size`` bytes, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE agent_sessions SET metadata = '{broken'",
        "UPDATE agent_sessions SET session_data = ''",
        "UPDATE agent_sessions SET created_at = 'yesterday'",
    ],
)
async def test_a_row_that_cannot_be_read_is_named_and_can_be_mended(path: Path, file_store: Any, damage: str) -> None:
    session = await file_store.reserve("ada", "default")
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(damage)
    with pytest.raises(SessionStoreError, match=f"session {session.session_id} in the session file cannot be read"):
        await file_store.find("ada", "default")
    other = await file_store.reserve("bo", "default")
    assert await file_store.find("bo", "default") == other
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DELETE FROM agent_sessions WHERE user_id = 'ada'")
    assert await file_store.reserve("ada", "default")
