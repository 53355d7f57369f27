"""What every session store promises, and what the one in a file promises beyond that."""

from __future__ import annotations

import asyncio
import multiprocessing
import resource
import sqlite3
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from shared_utils.persistence.file_sessions import FileSessionStore
from shared_utils.persistence.memory_sessions import InMemorySessionStore
from shared_utils.persistence.sessions import SessionStoreError, StaleSession


@pytest.fixture
def path(tmp_path):
    return tmp_path / "data" / "sessions.db"


@pytest.fixture(params=["memory", "file"])
async def store(request, path):
    store = InMemorySessionStore() if request.param == "memory" else FileSessionStore(path)
    yield store
    await store.close()


@pytest.fixture
async def file_store(path):
    store = FileSessionStore(path)
    yield store
    await store.close()


async def test_nobody_has_a_session_at_first(store):
    assert await store.find("ada", "default") is None
    assert await store.count() == {"active": 0, "reserved": 0}


async def test_a_reserved_session_has_no_agent_yet(store):
    session = await store.reserve("ada", "default")
    assert (session.user_id, session.persona, session.agent_id) == ("ada", "default", None)
    assert (session.version, session.is_active, session.permanent_memory) == (1, True, True)
    assert await store.find("ada", "default") == session
    assert await store.count() == {"active": 1, "reserved": 1}


async def test_reserving_again_finds_the_same_session(store):
    first = await store.reserve("ada", "default")
    saved = await store.save(replace(first, agent_id="agent-1"))
    assert await store.reserve("ada", "default") == saved


async def test_users_and_personas_are_kept_apart(store):
    pairs = [("ada", "default"), ("ada", "luna"), ("bo", "default"), ("Ada", "default"), ("ada ", "default")]
    sessions = [await store.reserve(*pair) for pair in pairs]
    assert len({session.session_id for session in sessions}) == len(pairs)
    assert [await store.find(*pair) for pair in pairs] == sessions


async def test_what_is_saved_is_found(store):
    session = await store.reserve("小明", "默认")
    saved = await store.save(
        replace(
            session,
            agent_id="agent-1",
            session_data={"轮次": [1, {"深": None}]},
            metadata={"permanent_memory": False, "昵称": "小明 🌸 'quoted' \"\\\n"},
            expires_at=datetime(2030, 1, 2, 3, 4, 5, 678, tzinfo=UTC),
        )
    )
    assert await store.find("小明", "默认") == saved
    assert saved.metadata["昵称"] == "小明 🌸 'quoted' \"\\\n"
    assert (saved.version, saved.created_at, saved.permanent_memory) == (2, session.created_at, False)
    assert saved.last_updated >= session.last_updated
    assert await store.count() == {"active": 1, "reserved": 0}


async def test_a_stale_write_is_refused_and_changes_nothing(store):
    session = await store.reserve("ada", "default")
    saved = await store.save(replace(session, agent_id="agent-1"))
    with pytest.raises(StaleSession) as caught:
        await store.save(replace(session, agent_id="agent-2"))
    assert caught.value.code == "stale_session"
    assert await store.find("ada", "default") == saved
    assert (await store.save(replace(saved, agent_id="agent-3"))).version == 3


async def test_of_two_writes_at_once_one_is_refused(store):
    session = await store.reserve("ada", "default")
    writes = (store.save(replace(session, agent_id=f"agent-{number}")) for number in range(5))
    results = await asyncio.gather(*writes, return_exceptions=True)
    assert sorted(type(result).__name__ for result in results) == ["Session", *["StaleSession"] * 4]
    (winner,) = [result for result in results if not isinstance(result, StaleSession)]
    assert await store.find("ada", "default") == winner


async def test_an_unknown_session_cannot_be_saved(store):
    session = await store.reserve("ada", "default")
    with pytest.raises(StaleSession):
        await store.save(replace(session, session_id="another"))


async def test_after_a_session_was_ended_a_new_one_can_be_reserved(store):
    session = await store.reserve("ada", "default")
    await store.save(replace(session, agent_id="agent-1", is_active=False))
    assert await store.find("ada", "default") is None
    assert (await store.reserve("ada", "default")).session_id != session.session_id
    assert await store.count() == {"active": 1, "reserved": 1}


async def test_touching_marks_use_and_is_no_write(store):
    session = await store.reserve("ada", "default")
    other = await store.reserve("bo", "default")
    await store.touch([session.session_id, "unknown"])
    touched = await store.find("ada", "default")
    assert touched == replace(session, last_updated=touched.last_updated)
    assert session.last_updated <= touched.last_updated <= datetime.now(UTC) + timedelta(seconds=1)
    assert await store.find("bo", "default") == other
    await store.save(replace(session, agent_id="agent-1"))


async def test_reserving_at_once_makes_one_session(store):
    sessions = await asyncio.gather(*(store.reserve("ada", "default") for _ in range(20)))
    assert len({session.session_id for session in sessions}) == 1


async def test_a_store_in_memory_can_be_broken():
    store = InMemorySessionStore()
    store.broken = True
    with pytest.raises(SessionStoreError):
        await store.find("ada", "default")
    store.broken = False
    assert await store.find("ada", "default") is None


async def test_the_file_outlives_its_store(path, file_store):
    session = await file_store.reserve("ada", "default")
    await file_store.close()
    with_agent = replace(session, agent_id="agent-1")
    other = FileSessionStore(path)
    assert await other.find("ada", "default") == session
    saved = await other.save(with_agent)
    await other.close()
    assert await file_store.find("ada", "default") == saved


async def test_two_stores_on_one_file_agree(path, file_store):
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


def reserve_all(path, users, start, results):
    async def reserve():
        store = FileSessionStore(path)
        sessions = [await store.reserve(user, "default") for user in users]
        await store.close()
        return [session.session_id for session in sessions]

    start.wait()
    try:
        results.put(asyncio.run(reserve()))
    except SessionStoreError as error:
        results.put(str(error))


def test_several_processes_reserving_the_same_users_make_one_session_each(path):
    # fork: the function needs no import of this file; no threads run here yet.
    processes = multiprocessing.get_context("fork")
    users = [f"user-{number}" for number in range(20)]
    start, results = processes.Barrier(4), processes.Queue()
    workers = [processes.Process(target=reserve_all, args=(path, users, start, results)) for _ in range(4)]
    for worker in workers:
        worker.start()
    outcomes = [results.get(timeout=30) for _ in workers]
    for worker in workers:
        worker.join(timeout=30)
    assert outcomes == [outcomes[0]] * len(workers)
    assert len(set(outcomes[0])) == len(users)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM agent_sessions").fetchone() == (len(users),)


async def refused(store, path):
    with pytest.raises(SessionStoreError) as caught:
        await store.reserve("ada", "default")
    assert type(caught.value) is SessionStoreError
    assert caught.value.retryable
    assert str(path) in str(caught.value)
    assert "check that its directory can be written and the disk is not full" in str(caught.value)


async def test_a_file_in_an_impossible_place_is_an_error_until_the_place_exists(path, file_store):
    path.parent.write_text("a file where the directory should be")
    await refused(file_store, path)
    path.parent.unlink()
    assert await file_store.reserve("ada", "default")


async def test_a_directory_in_the_files_place_is_an_error_until_it_is_gone(path, file_store):
    path.mkdir(parents=True)
    await refused(file_store, path)
    path.rmdir()
    assert await file_store.reserve("ada", "default")


async def test_a_file_that_is_no_database_is_an_error_until_it_is_replaced(path, file_store):
    path.parent.mkdir()
    path.write_bytes(b"this is no database" * 100)
    await refused(file_store, path)
    path.unlink()
    assert await file_store.reserve("ada", "default")


async def test_a_full_disk_is_an_error_until_there_is_room(path, file_store):
    kept = await file_store.reserve("bo", "default")
    with file_size_limit(1):
        await refused(file_store, path)
    assert await file_store.reserve("ada", "default")
    assert await file_store.find("bo", "default") == kept


@contextmanager
def file_size_limit(size):
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
async def test_a_row_that_cannot_be_read_is_named_and_can_be_mended(path, file_store, damage):
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
