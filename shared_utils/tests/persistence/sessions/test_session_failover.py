"""The session store in the database, with the file while the database is away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from local_stack.fixtures import ProxyFactory
from shared_utils.persistence.database.config import DatabaseConfig
from shared_utils.persistence.database.database import Database
from shared_utils.persistence.errors import ValueRefused
from shared_utils.persistence.sessions.database_store import DatabaseSessionStore
from shared_utils.persistence.sessions.failover_store import FailoverSessionStore
from shared_utils.persistence.sessions.file_store import FileSessionStore
from shared_utils.persistence.sessions.memory_store import InMemorySessionStore
from shared_utils.persistence.sessions.outage_log import SessionOutageLog, record
from shared_utils.persistence.sessions.port import (
    Session,
    SessionStore,
    SessionStoreAway,
    SessionStoreError,
)


class SlowToDie(InMemorySessionStore):
    """Writes, and then is gone before it can answer."""

    dies_after_writing = False

    async def save(self, session: Any, *, expires_in_hours: Any = None) -> Any:
        saved = await super().save(session, expires_in_hours=expires_in_hours)
        if self.dies_after_writing:
            self.broken = True
            raise SessionStoreAway
        return saved


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sessions.db"


@pytest.fixture
def database() -> SlowToDie:
    return SlowToDie()


@pytest.fixture
async def open_store(database: Any, path: Any) -> AsyncIterator[Callable[..., Any]]:
    opened = []

    def make() -> FailoverSessionStore:
        opened.append(FailoverSessionStore(database, path, pause=0.01))
        return opened[-1]

    yield make
    for store in opened:
        await store.close()


@pytest.fixture
def store(open_store: Callable[..., Any]) -> Any:
    return open_store()


async def back(store: Any, database: Any) -> None:
    database.broken = False
    async with asyncio.timeout(10):
        await store.count()
        while store.last_error is not None:
            await asyncio.sleep(0.005)


async def with_agent(store: Any, user: str, agent: str, **values: Any) -> Any:
    return await store.save(replace(await store.reserve(user, "default"), agent_id=agent, **values))


async def test_while_the_database_is_there_it_has_everything(store: Any, database: Any) -> None:
    session = await with_agent(store, "ada", "agent-1")
    assert await database.find("ada", "default") == session == await store.find("ada", "default")
    assert await store.count() == {"active": 1, "reserved": 0, "waiting": 0, "conflicts": 0}
    assert store.last_error is None


async def test_known_users_keep_their_agents_during_an_outage(
    store: Any, database: Any, open_store: Callable[..., Any]
) -> None:
    session = await with_agent(database, "ada", "agent-1")
    await store.find("ada", "default")
    restored = await with_agent(database, "bo", "agent-2")
    await store.restore(limit=10)
    database.broken = True
    assert await store.find("ada", "default") == session
    assert "the session file is used instead" in store.last_error
    assert await open_store().find("bo", "default") == restored


async def test_writes_during_an_outage_are_replayed_into_the_database(store: Any, database: Any) -> None:
    known = await with_agent(store, "ada", "agent-1")
    database.broken = True
    saved = await store.save(replace(known, metadata={"permanent_memory": False}))
    new = await with_agent(store, "bo", "agent-2")
    ended = await with_agent(store, "cy", "agent-3")
    await store.delete(ended.session_id)
    removed = await store.reserve("di", "default")
    await store.delete(removed.session_id, hard=True)
    await store.touch([known.session_id, "unknown"], messages={known.session_id: 2})
    assert (await store.count())["waiting"] == 8
    await back(store, database)
    assert (await database.find("ada", "default")).metadata == saved.metadata
    assert (await database.find("ada", "default")).message_count == 2
    assert await database.find("bo", "default") == new
    assert (await database.load(ended.session_id)).is_active is False
    assert await database.load(removed.session_id) is None
    assert await store.count() == {"active": 2, "reserved": 0, "waiting": 0, "conflicts": 0}


async def test_writes_of_an_outage_outlive_the_bridge(
    store: Any, database: Any, open_store: Callable[..., Any]
) -> None:
    database.broken = True
    new = await with_agent(store, "ada", "agent-1")
    await store.close()
    database.broken = False
    other = open_store()
    assert await other.find("ada", "default") == new
    await back(other, database)
    assert await database.find("ada", "default") == new


async def test_a_write_whose_answer_was_lost_is_not_a_conflict(store: Any, database: Any) -> None:
    session = await with_agent(store, "ada", "agent-1")
    database.dies_after_writing = True
    saved = await store.save(replace(session, metadata={"a": 1}))
    database.dies_after_writing = False
    await store.save(replace(saved, metadata={"a": 2}))
    await back(store, database)
    assert (await database.find("ada", "default")).metadata == {"a": 2}
    assert (await store.count())["conflicts"] == 0


async def test_the_higher_version_stays_and_the_other_is_kept(store: Any, database: Any) -> None:
    session = await with_agent(store, "ada", "agent-1")
    await store.find("ada", "default")
    database.broken = True
    for number in range(2):
        session = await store.save(replace(session, metadata={"here": number}))
    database.broken = False
    theirs = await database.find("ada", "default")
    await database.save(replace(theirs, metadata={"there": 0}))
    with capture_logs() as logs:
        await back(store, database)
    assert (await database.find("ada", "default")).metadata == {"here": 1}
    assert await store.find("ada", "default") == await database.find("ada", "default")
    kept = [conflict.lost["metadata"] for conflict in await store.conflicts()]
    assert '{"there": 0}' in kept
    assert (await store.count())["conflicts"] == len(kept)
    assert [line["event"] for line in logs].count("session_conflict") == len(kept)


async def test_the_database_stays_where_it_is_ahead(store: Any, database: Any) -> None:
    session = await with_agent(store, "ada", "agent-1")
    database.broken = True
    await store.save(replace(session, metadata={"here": 1}))
    database.broken = False
    theirs = session
    for number in range(3):
        theirs = await database.save(replace(theirs, metadata={"there": number}))
    await back(store, database)
    assert await store.find("ada", "default") == theirs
    [conflict] = await store.conflicts()
    assert (conflict.lost["metadata"], conflict.won["metadata"]) == ('{"here": 1}', '{"there": 2}')


async def test_an_agent_in_the_database_is_never_replaced(store: Any, database: Any) -> None:
    session = await store.reserve("ada", "default")
    database.broken = True
    for number in range(4):
        session = await store.save(replace(session, agent_id="agent-here", metadata={"n": number}))
    database.broken = False
    theirs = await with_agent(database, "ada", "agent-there")
    with capture_logs() as logs:
        await back(store, database)
    assert await store.find("ada", "default") == theirs
    assert {line["lost_agent"] for line in logs if line["event"] == "session_conflict"} == {"agent-here"}
    database.broken = True
    assert await store.find("ada", "default") == theirs


async def test_another_session_in_the_database_stays(store: Any, database: Any) -> None:
    database.broken = True
    await with_agent(store, "ada", "agent-here")
    database.broken = False
    theirs = await with_agent(database, "ada", "agent-there")
    await back(store, database)
    assert await store.find("ada", "default") == theirs
    [conflict] = await store.conflicts()
    assert conflict.lost["agent_id"] == "agent-here"
    assert "another agent" in conflict.reason


async def test_a_reservation_in_the_database_gets_the_agent(store: Any, database: Any) -> None:
    database.broken = True
    await with_agent(store, "ada", "agent-1")
    database.broken = False
    theirs = await database.reserve("ada", "default")
    await back(store, database)
    found = await store.find("ada", "default")
    assert (found.session_id, found.agent_id) == (theirs.session_id, "agent-1")
    assert (await store.count())["conflicts"] == 0


async def test_the_same_agent_in_two_sessions_is_no_conflict(store: Any, database: Any) -> None:
    database.broken = True
    await with_agent(store, "ada", "agent-1")
    database.broken = False
    theirs = await with_agent(database, "ada", "agent-1")
    await back(store, database)
    assert await store.find("ada", "default") == theirs
    assert (await store.count())["conflicts"] == 0


async def test_replay_does_not_restore_rows_removed_from_the_database(store: Any, database: Any) -> None:
    session = await with_agent(store, "ada", "agent-1")
    database.broken = True
    await store.save(replace(session, metadata={"a": 1}))
    database.broken = False
    await database.delete(session.session_id, hard=True)
    await back(store, database)
    assert await database.load(session.session_id) is None
    assert await store.find("ada", "default") is None
    [conflict] = await store.conflicts()
    assert "removed" in conflict.reason


async def test_replay_continues_after_a_refused_session(
    store: Any, database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    database.broken = True
    refused = await with_agent(store, "ada", "agent-1")
    await with_agent(store, "bo", "agent-2")
    put = database.merge

    async def picky(sessions: list[Session], *, dry_run: bool = False) -> Any:
        if sessions[0].session_id == refused.session_id:
            raise ValueRefused("too large")
        return await put(sessions, dry_run=dry_run)

    monkeypatch.setattr(database, "merge", picky)
    await back(store, database)
    assert (await database.find("bo", "default")).agent_id == "agent-2"
    assert {conflict.session_id for conflict in await store.conflicts()} == {refused.session_id}


async def test_an_outage_during_the_replay_loses_nothing(
    store: Any, database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    database.broken = True
    for number in range(5):
        await with_agent(store, f"user-{number}", f"agent-{number}")
    put, calls = database.merge, []

    async def fragile(sessions: list[Session], *, dry_run: bool = False) -> Any:
        calls.append(sessions)
        if len(calls) in (2, 5):
            raise SessionStoreAway("gone again")
        return await put(sessions, dry_run=dry_run)

    monkeypatch.setattr(database, "merge", fragile)
    await back(store, database)
    assert [(await database.find(f"user-{n}", "default")).agent_id for n in range(5)] == [
        f"agent-{n}" for n in range(5)
    ]
    assert (await store.count())["conflicts"] == 0


async def test_replay_merges_sessions_of_many_users_in_batches(store: Any, database: Any, monkeypatch: Any) -> None:
    for number in range(20):
        await with_agent(store, f"known-{number}", f"agent-{number}")
    taken = await database.reserve("elsewhere", "default")
    database.broken = True
    for number in range(20):
        known = await store.find(f"known-{number}", "default")
        await store.save(replace(known, session_data={"n": number}))
    for number in range(300):
        await with_agent(store, f"new-{number}", f"agent-of-{number}")
    mine = await with_agent(store, "elsewhere", "agent-here")
    puts, loads = [], []
    put, load = database.merge, database.load

    async def merge(sessions: list[Session], **how: Any) -> Any:
        puts.append(len(sessions))
        return await put(sessions, **how)

    async def load_one(session_id: str) -> Any:
        loads.append(session_id)
        return await load(session_id)

    monkeypatch.setattr(database, "merge", merge)
    monkeypatch.setattr(database, "load", load_one)
    await back(store, database)
    assert sum(puts) >= 320
    assert len(puts) + len(loads) < 20
    assert [(await database.find(f"new-{n}", "default")).agent_id for n in (0, 299)] == ["agent-of-0", "agent-of-299"]
    assert (await database.find("known-7", "default")).session_data == {"n": 7}
    found = await database.find("elsewhere", "default")
    assert (found.session_id, found.agent_id) == (taken.session_id, mine.agent_id)
    assert (await store.count())["waiting"] == 0


async def test_writes_during_the_replay_come_after_it(store: Any, database: Any) -> None:
    database.broken = True
    session = await with_agent(store, "ada", "agent-1")
    database.broken = False
    for number in range(30):
        session = await store.save(replace(session, metadata={"n": number}))
    await back(store, database)
    assert await database.find("ada", "default") == session
    assert session.metadata == {"n": 29}
    assert (await store.count())["conflicts"] == 0


async def test_after_an_outage_every_user_may_have_changed(store: Any, database: Any) -> None:
    await with_agent(store, "ada", "agent-1")
    _, then = await store.changed(None)
    database.broken = True
    _, then = await store.changed(then)
    await back(store, database)
    keys, then = await store.changed(then)
    assert ("ada", "default") in keys


async def test_nothing_is_cleaned_up_during_an_outage(store: SessionStore, database: Any) -> None:
    await store.save(await store.reserve("ada", "default"), expires_in_hours=-1)
    database.broken = True
    await store.find("ada", "default")
    assert (await store.cleanup(grace=timedelta(0))).ended == 0
    assert await store.find("ada", "default")


async def test_a_session_ended_elsewhere_is_not_found_in_the_next_outage(store: Any, database: Any) -> None:
    session = await with_agent(store, "ada", "agent-1")
    await database.delete(session.session_id)
    assert await store.find("ada", "default") is None
    database.broken = True
    assert await store.find("ada", "default") is None


async def test_a_broken_file_does_not_stop_the_database(store: Any, database: Any, path: Path) -> None:
    path.mkdir()
    session = await with_agent(store, "ada", "agent-1")
    assert await store.find("ada", "default") == session
    assert "the next outage of the database cannot be bridged" in store.last_error
    database.broken = True
    with pytest.raises(SessionStoreError):
        await store.find("ada", "default")
    path.rmdir()
    assert await store.find("ada", "default") is None


async def test_two_bridges_of_one_host_share_the_file(open_store: Callable[..., Any], database: Any) -> None:
    one, other = open_store(), open_store()
    database.broken = True
    session = await with_agent(one, "ada", "agent-1")
    saved = await other.save(replace(await other.find("ada", "default"), metadata={"a": 1}))
    assert saved.version == session.version + 1
    database.broken = False
    await asyncio.gather(back(one, database), back(other, database))
    assert await database.find("ada", "default") == saved


@pytest.fixture
async def behind_proxy(database_config: DatabaseConfig, tcp_proxy: ProxyFactory, path: Path) -> AsyncIterator[Any]:
    proxy = tcp_proxy(database_config.conninfo)
    changes = {"db_url": proxy.url, "connection_timeout": 1.0, "query_timeout": 0.5}
    config = DatabaseConfig.model_validate(database_config.model_dump() | changes)
    store = FailoverSessionStore(DatabaseSessionStore(Database(config)), path, pause=0.05)
    yield proxy, store
    await store.close()


@pytest.mark.integration
@pytest.mark.parametrize("engine", ["postgresql"], indirect=True)
async def test_a_database_that_falls_silent_costs_one_wait(behind_proxy: Any) -> None:
    proxy, store = behind_proxy
    known = await with_agent(store, "ada", "agent-1")
    proxy.blackhole()
    assert await store.find("ada", "default") == known
    assert "the session file is used instead" in store.last_error
    async with asyncio.timeout(5):  # many more answers than there could be looks for the database
        for number in range(20):
            await with_agent(store, f"user-{number}", f"agent-{number}")
            for _ in range(5):
                assert await store.find("ada", "default") == known
    proxy.resume()
    async with asyncio.timeout(30):
        while store.last_error is not None:
            await asyncio.sleep(0.05)
            await store.count()
    assert await store.count() == {"active": 21, "reserved": 0, "waiting": 0, "conflicts": 0}
    [row] = await store._database._database.fetch("SELECT agent_id FROM agent_sessions WHERE user_id = 'user-7'")
    assert row == {"agent_id": "agent-7"}


async def test_a_journal_keeps_its_order(path: Path) -> None:
    store = FileSessionStore(path, record=record)
    session = await store.reserve("ada", "default")
    saved = await store.save(session)
    await store.delete(saved.session_id, hard=True)
    await store.merge([Session("bo", "default", version=5)])
    journal, found = SessionOutageLog(path), []
    for entry in await journal.oldest(10):
        found.append((entry.base, entry.session and entry.session.version))
        assert (await journal.oldest(1))[0] == entry
        await journal.done(entry)
    assert found == [(0, 1), (1, 2), (None, None), (0, 5)]
    journal.close()
    await store.close()


async def test_erasure_removes_sessions_writes_and_conflicts_of_a_user(store: Any, database: Any, path: Path) -> None:
    for user in ("ada", "bo"):
        database.broken = True
        await with_agent(store, user, "agent-here")
        database.broken = False
        await with_agent(database, user, "agent-there")
        await back(store, database)
    database.broken = True
    await store.save(replace(await store.find("ada", "default"), metadata={"a": 1}))
    journal = SessionOutageLog(path)
    assert await journal.erase("ada") == 2
    assert await journal.counts() == {"waiting": 0, "conflicts": 1}
    journal.close()
