"""What every session store promises: in memory, in a file, in PostgreSQL and in openGauss."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from structlog.testing import capture_logs

from local_stack.databases import ENGINES
from shared_utils.clock import utc_now
from shared_utils.persistence.database.config import DatabaseConfig
from shared_utils.persistence.database.database import Database
from shared_utils.persistence.errors import Conflict, RowMissing, ValueRefused
from shared_utils.persistence.sessions.copying import copy_sessions
from shared_utils.persistence.sessions.database_store import DatabaseSessionStore
from shared_utils.persistence.sessions.file_store import FileSessionStore
from shared_utils.persistence.sessions.memory_store import InMemorySessionStore
from shared_utils.persistence.sessions.port import Session, SessionStore, StaleSession

pytestmark = [
    pytest.mark.integration,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.parametrize("engine", ["memory", "file", *ENGINES], indirect=True, scope="session"),
]


@pytest.fixture(scope="module")
def schema(engine: str, request: pytest.FixtureRequest) -> DatabaseConfig:
    """One for the whole module: a schema a test would cost more than the tests. It goes with its database."""
    url = request.getfixturevalue("engine_url")
    return DatabaseConfig.model_validate({"db_url": url, "schema_name": "session_contract", "max_connections": 5})


@pytest.fixture
def open_store(engine: str, request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., Any]:
    """Makes stores on the same rows; in memory there can only be one."""
    if engine == "memory":
        return lambda: InMemorySessionStore(max_bytes=10_000)
    if engine == "file":
        return lambda: FileSessionStore(tmp_path / "data" / "sessions.db", max_bytes=10_000)
    config = request.getfixturevalue("schema")
    return lambda: DatabaseSessionStore(Database(config), max_bytes=10_000)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def database_store(engine: str, request: pytest.FixtureRequest, statements_sent: Any) -> AsyncIterator[Any]:
    """Open for the whole module."""
    if engine not in ENGINES:
        yield None
        return
    config = request.getfixturevalue("schema")
    store = DatabaseSessionStore(Database(config, observe=statements_sent.add), max_bytes=10_000)
    yield store
    await store.close()


@pytest_asyncio.fixture(loop_scope="module")
async def store(database_store: Any, open_store: Callable[..., Any]) -> AsyncIterator[Any]:
    """Empty."""
    if database_store is not None:
        await database_store._database.execute("DELETE FROM agent_sessions")
        yield database_store
        return
    store = open_store()
    yield store
    await store.close()


async def test_empty_store_has_no_sessions(store: SessionStore) -> None:
    assert await store.find("ada", "default") is None
    assert await store.count() == {"active": 0, "reserved": 0}


async def test_a_reserved_session_has_no_agent_yet(store: SessionStore) -> None:
    session = await store.reserve("ada", "default")
    assert (session.user_id, session.persona, session.agent_id) == ("ada", "default", None)
    assert (session.version, session.is_active, session.permanent_memory) == (1, True, True)
    assert await store.find("ada", "default") == session
    assert await store.count() == {"active": 1, "reserved": 1}


async def test_reserving_again_finds_the_same_session(store: SessionStore) -> None:
    first = await store.reserve("ada", "default")
    saved = await store.save(replace(first, agent_id="agent-1"))
    assert await store.reserve("ada", "default") == saved


async def test_users_and_personas_are_kept_apart(store: SessionStore) -> None:
    pairs = [("ada", "default"), ("ada", "luna"), ("bo", "default"), ("Ada", "default"), ("ada ", "default")]
    sessions = [await store.reserve(*pair) for pair in pairs]
    assert len({session.session_id for session in sessions}) == len(pairs)
    assert [await store.find(*pair) for pair in pairs] == sessions


async def test_saved_session_is_found(store: SessionStore) -> None:
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


async def test_a_stale_write_is_refused_and_changes_nothing(store: SessionStore) -> None:
    session = await store.reserve("ada", "default")
    saved = await store.save(replace(session, agent_id="agent-1"))
    with pytest.raises(StaleSession) as caught:
        await store.save(replace(session, agent_id="agent-2"))
    assert caught.value.code == "stale_session"
    assert await store.find("ada", "default") == saved
    assert (await store.save(replace(saved, agent_id="agent-3"))).version == 3


async def test_of_two_writes_at_once_one_is_refused(store: SessionStore) -> None:
    session = await store.reserve("ada", "default")
    writes = (store.save(replace(session, agent_id=f"agent-{number}")) for number in range(5))
    results = await asyncio.gather(*writes, return_exceptions=True)
    assert sorted(type(result).__name__ for result in results) == ["Session", *["StaleSession"] * 4]
    (winner,) = [result for result in results if not isinstance(result, StaleSession)]
    assert await store.find("ada", "default") == winner


async def test_an_unknown_session_cannot_be_saved(store: SessionStore) -> None:
    session = await store.reserve("ada", "default")
    with pytest.raises(StaleSession):
        await store.save(replace(session, session_id="another"))


async def test_after_a_session_was_ended_a_new_one_can_be_reserved(store: SessionStore) -> None:
    session = await store.reserve("ada", "default")
    await store.save(replace(session, agent_id="agent-1", is_active=False))
    assert await store.find("ada", "default") is None
    assert (await store.reserve("ada", "default")).session_id != session.session_id
    assert await store.count() == {"active": 1, "reserved": 1}


async def test_touching_marks_use_and_is_no_write(store: SessionStore) -> None:
    session = await store.reserve("ada", "default")
    other = await store.reserve("bo", "default")
    assert await store.touch([session.session_id, "unknown"]) == ["unknown"]
    touched = await store.find("ada", "default")
    assert touched is not None
    assert touched == replace(session, last_updated=touched.last_updated)
    assert session.last_updated <= touched.last_updated <= datetime.now(UTC) + timedelta(seconds=1)
    assert await store.find("bo", "default") == other
    await store.save(replace(session, agent_id="agent-1"))


async def test_reserving_at_once_makes_one_session(store: SessionStore) -> None:
    sessions = await asyncio.gather(*(store.reserve("ada", "default") for _ in range(20)))
    assert len({session.session_id for session in sessions}) == 1


async def test_an_ended_session_is_reported_when_it_is_touched(store: SessionStore) -> None:
    session = await store.reserve("ada", "default")
    await store.delete(session.session_id)
    assert await store.touch([session.session_id]) == [session.session_id]
    assert await store.touch([]) == []


async def test_messages_are_counted_and_survive_a_save(store: Any) -> None:
    session = await store.reserve("ada", "default")
    other = await store.reserve("bo", "default")
    await store.touch([session.session_id, other.session_id], messages={session.session_id: 2})
    await store.touch([session.session_id], messages={session.session_id: 1})
    saved = await store.save(replace(session, agent_id="agent-1"))
    assert saved.message_count == 3
    assert (await store.find("bo", "default")).message_count == 0
    assert (await store.statistics()).average_messages == 3.0


async def test_only_one_owner_may_make_the_agent(store: SessionStore) -> None:
    session = await store.reserve("ada", "default")
    claims = await asyncio.gather(*(store.claim(session.session_id, f"owner-{n}", 60) for n in range(5)))
    assert sorted(claims) == [False, False, False, False, True]
    winner = f"owner-{claims.index(True)}"
    assert await store.claim(session.session_id, winner, 60)
    await store.save(replace(session, agent_id="agent-1"))
    assert not await store.claim(session.session_id, winner, 60)
    assert not await store.claim("unknown", winner, 60)


async def test_a_claim_ends_with_its_time(store: SessionStore) -> None:
    session = await store.reserve("ada", "default")
    assert await store.claim(session.session_id, "killed", 60)
    assert not await store.claim(session.session_id, "next", 60)
    assert await store.claim(session.session_id, "killed", 0)
    await asyncio.sleep(0.01)
    assert await store.claim(session.session_id, "next", 60)


async def test_a_session_may_expire(store: Any) -> None:
    session = await store.save(await store.reserve("ada", "default"), expires_in_hours=1.5)
    assert timedelta(minutes=89) < session.expires_at - utc_now() < timedelta(minutes=91)
    assert (await store.save(session)).expires_at == session.expires_at
    await store.touch([session.session_id], expires_in_hours=3)
    assert (await store.find("ada", "default")).expires_at - session.expires_at > timedelta(hours=1)


async def test_cleanup_ends_expired_sessions_and_removes_them_later(store: Any) -> None:
    expired = await store.save(await store.reserve("ada", "default"), expires_in_hours=-1)
    refusing = replace(await store.reserve("bo", "default"), metadata={"permanent_memory": False})
    await store.save(refusing, expires_in_hours=-1)
    kept = await store.save(await store.reserve("cy", "default"), expires_in_hours=1)
    done = await store.cleanup(grace=timedelta(hours=1))
    assert (done.ended, done.removed) == (1, 0)
    assert await store.find("ada", "default") is None
    assert (await store.find("bo", "default")).permanent_memory is False
    assert await store.find("cy", "default") == kept
    ended = await store.load(expired.session_id)
    assert (ended.is_active, ended.version) == (False, expired.version + 1)
    done = await store.cleanup(grace=timedelta(0))
    assert (done.ended, done.removed) == (0, 1)
    assert await store.load(expired.session_id) is None


@pytest.mark.parametrize("value", [False, None, 0, "false", "true", [], {}])
async def test_any_value_but_true_is_an_opt_out(store: SessionStore, value: Any) -> None:
    saved = await store.save(replace(await store.reserve("ada", "default"), metadata={"permanent_memory": value}))
    assert saved.permanent_memory is False
    assert set(await store.opted_out_users()) == {"ada"}


async def test_users_without_an_opt_out_are_not_listed(store: SessionStore) -> None:
    await store.reserve("ada", "default")
    await store.save(replace(await store.reserve("bo", "default"), metadata={"permanent_memory": True, "x": 1}))
    assert list(await store.opted_out_users()) == []


async def test_an_opt_out_in_an_ended_session_holds_until_the_user_opts_in(store: SessionStore) -> None:
    opted_out = await store.save(replace(await store.reserve("ada", "default"), metadata={"permanent_memory": False}))
    await store.delete(opted_out.session_id)
    unaware = await store.reserve("ada", "default")
    assert set(await store.opted_out_users()) == {"ada"}
    await store.save(replace(unaware, metadata={"permanent_memory": True}))
    assert list(await store.opted_out_users()) == []


async def test_a_page_lists_the_most_recently_used_first(store: SessionStore) -> None:
    sessions = [await store.reserve(f"user-{number}", "default") for number in range(5)]
    await store.delete(sessions[3].session_id)
    await store.touch([sessions[0].session_id])
    page = await store.page(limit=3)
    assert [session.user_id for session in page.sessions] == ["user-0", "user-4", "user-2"]
    assert page.total == 4
    rest = await store.page(limit=3, offset=3)
    assert [session.user_id for session in rest.sessions] == ["user-1"]
    assert (await store.page(limit=10, include_inactive=True)).total == 5
    assert await store.page(limit=1, offset=9) == replace(page, sessions=[])


async def test_a_page_of_one_user(store: Any) -> None:
    for persona in ("default", "luna"):
        await store.reserve("ada", persona)
    await store.reserve("bo", "default")
    ended = await store.find("ada", "luna")
    await store.delete(ended.session_id)
    page = await store.page(limit=10, user_id="ada")
    assert ([session.persona for session in page.sessions], page.total) == (["default"], 1)
    page = await store.page(limit=10, user_id="ada", include_inactive=True)
    assert ({session.persona for session in page.sessions}, page.total) == ({"default", "luna"}, 2)
    assert (await store.page(limit=10, user_id="nobody")).total == 0


async def test_an_ended_session_can_be_had_back(store: SessionStore) -> None:
    session = await store.save(replace(await store.reserve("ada", "default"), agent_id="agent-1"))
    assert await store.delete(session.session_id)
    assert not await store.delete(session.session_id)
    assert await store.find("ada", "default") is None
    again = await store.undelete(session.session_id)
    assert (again.agent_id, again.is_active, again.version) == ("agent-1", True, session.version + 2)
    assert await store.undelete(session.session_id) == again
    with pytest.raises(StaleSession):
        await store.save(session)


async def test_replaced_session_cannot_be_undeleted(store: SessionStore) -> None:
    session = await store.reserve("ada", "default")
    await store.delete(session.session_id)
    other = await store.reserve("ada", "default")
    with pytest.raises(Conflict):
        await store.undelete(session.session_id)
    assert await store.find("ada", "default") == other


async def test_a_removed_session_is_gone(store: SessionStore) -> None:
    session = await store.reserve("ada", "default")
    assert await store.delete(session.session_id, hard=True)
    assert not await store.delete(session.session_id, hard=True)
    assert await store.load(session.session_id) is None
    with pytest.raises(RowMissing):
        await store.undelete(session.session_id)


async def test_an_expired_session_that_is_had_back_does_not_expire_at_once(store: SessionStore) -> None:
    session = await store.save(await store.reserve("ada", "default"), expires_in_hours=-1)
    await store.cleanup(grace=timedelta(hours=1))
    assert (await store.undelete(session.session_id)).expires_at is None


async def test_writes_of_others_are_reported(store: SessionStore) -> None:
    await store.reserve("ada", "default")
    keys, begin = await store.changed(None)
    assert (keys, begin.tzinfo is not None) == (set(), True)
    session = await store.reserve("bo", "默认")
    keys, then = await store.changed(begin)
    assert ("bo", "默认") in keys
    assert then >= begin
    await store.delete(session.session_id)
    assert ("bo", "默认") in (await store.changed(then))[0]
    far = then + timedelta(hours=1)
    assert (await store.changed(far))[0] == set()


async def test_active_sessions_are_restored_newest_first(store: Any) -> None:
    for number in range(4):
        await store.reserve(f"user-{number}", "default")
    ended = await store.find("user-2", "default")
    await store.delete(ended.session_id)
    restoration = await store.restore(limit=2)
    assert [session.user_id for session in restoration.sessions] == ["user-3", "user-1"]
    assert restoration.failed == {}


async def test_more_sessions_than_one_part_holds_are_restored_in_order(store: SessionStore) -> None:
    """Many of one moment: a part may end among them."""
    now = utc_now()
    times = [now - timedelta(minutes=number // 900) for number in range(2500)]
    sessions = [Session(f"user-{number}", "default", last_updated=at) for number, at in enumerate(times)]
    for start in range(0, len(sessions), 500):
        await store.merge(sessions[start : start + 500])
    ordered = sorted(sessions, key=lambda one: (-one.last_updated.timestamp(), one.session_id))
    for limit in (2300, 5000):
        found = (await store.restore(limit=limit)).sessions
        assert [one.session_id for one in found] == [one.session_id for one in ordered[:limit]]


async def test_statistics_count_sessions_by_age(store: Any) -> None:
    assert (await store.statistics()).average_messages == 0.0
    now = utc_now()
    ages = {"a": timedelta(minutes=1), "b": timedelta(hours=2), "c": timedelta(days=2), "d": timedelta(days=40)}
    await store.merge(
        [Session(user, "default", created_at=now - age, last_updated=now - age) for user, age in ages.items()]
    )
    await store.merge([Session("e", "default", is_active=False), Session("f", "default", agent_id="agent-1")])
    await store.save(await store.find("b", "default"), expires_in_hours=-1)
    statistics = await store.statistics()
    assert (statistics.total, statistics.active, statistics.reserved, statistics.expired) == (6, 4, 3, 1)
    assert await store.count() == {"active": 4, "reserved": 3}
    assert statistics.last_seen == {"1h": 3, "1d": 0, "7d": 1, "30d": 0, "older": 1}
    assert sum(statistics.created.values()) == 5
    assert statistics.created[now.date().isoformat()] >= 3


@pytest.mark.parametrize("choice", [False, None, "no", 0, 1])
async def test_a_session_that_never_expires_counts_as_active(store: SessionStore, choice: Any) -> None:
    """A choice against permanent memory would be forgotten with it, so no cleanup ends it."""
    session = await store.reserve("ada", "default")
    await store.save(replace(session, metadata={"permanent_memory": choice}), expires_in_hours=-1)
    statistics = await store.statistics()
    assert (statistics.active, statistics.reserved, statistics.expired) == (1, 1, 0)
    assert await store.count() == {"active": 1, "reserved": 1}
    assert (await store.cleanup(grace=timedelta(days=1))).ended == 0


async def test_store_describes_itself(store: SessionStore, engine: str) -> None:
    says = await store.check()
    assert {"memory": "memory", "file": "SQLite", "postgresql": "PostgreSQL"}.get(
        engine.partition("/")[0], "openGauss"
    ) in says
    assert store.last_error is None


async def test_session_values_that_json_cannot_represent_are_left_out_and_named(store: Any) -> None:
    session = await store.reserve("ada", "default")
    loop: dict[str, Any] = {}
    loop["again"] = loop
    data = {
        "good": {"kept": 1, "bad": {1, 2}},
        "when": datetime(2026, 1, 1),  # noqa: DTZ001  # as somebody might
        "bytes": b"x",
        "nan": float("nan"),
        "list": [1, object()],
        "text": "a\0b\ud800c",
        "loop": loop,
        "tuple": (1, 2),
        7: "a number as key",
        "huge": 10**5000,
    }
    with capture_logs() as logs:
        saved = await store.save(replace(session, session_data=data, metadata={"m": {3}, "n\0": 1}))
    expected = {"good": {"kept": 1}, "text": "a\ufffdb\ufffdc", "tuple": [1, 2]}
    assert {key: value for key, value in saved.session_data.items() if key != "loop"} == expected
    assert saved.metadata == {"n\ufffd": 1}
    named = {line["key"] for line in logs if line["event"] == "session_value_skipped"}
    assert named >= {"session_data.good.bad", "session_data.when", "session_data.bytes", "session_data.nan",
                     "session_data.list", "session_data.7", "session_data.huge", "metadata.m"}  # fmt: skip
    assert {line["session_id"] for line in logs} == {session.session_id}
    assert await store.find("ada", "default") == saved


async def test_too_large_session_data_is_refused_by_name(store: SessionStore) -> None:
    session = await store.reserve("ada", "default")
    with pytest.raises(ValueRefused, match=r"session_data .* largest key essay has 9\d{3}: .*sessions.max_data_bytes"):
        await store.save(replace(session, session_data={"small": "x" * 1000, "essay": "é" * 4600}))
    assert await store.find("ada", "default") == session
    await store.save(replace(session, metadata={"essay": "x" * 9000}))


async def test_sessions_of_another_store_are_taken_over_as_they_are(store: SessionStore) -> None:
    old = datetime(2020, 1, 2, 3, 4, 5, 6, tzinfo=UTC)
    session = Session(
        "小明", "default", agent_id="agent-1", session_data={"深": [1, {"a": None}]}, metadata={"m": 1}, created_at=old,
        last_updated=old, expires_at=old, version=7, message_count=4,
    )  # fmt: skip
    ended = Session("小明", "default", is_active=False, version=2)
    dry = await store.merge([session, ended], dry_run=True)
    assert (dry.written, await store.load(session.session_id)) == (2, None)
    assert (await store.merge([session, ended])).written == 2
    assert await store.find("小明", "default") == session
    again = await store.merge([session, ended])
    assert (again.written, again.kept) == (0, 2)


async def test_of_two_versions_the_newer_one_stays(store: SessionStore) -> None:
    session = await store.reserve("ada", "default")
    saved = await store.save(replace(session, agent_id="agent-1"))
    assert (await store.merge([session])).kept == 1
    assert await store.find("ada", "default") == saved
    newer = replace(saved, agent_id="agent-2", version=9)
    assert (await store.merge([newer])).written == 1
    assert await store.find("ada", "default") == newer


async def test_a_second_active_session_is_not_taken_over(store: SessionStore) -> None:
    here = await store.reserve("ada", "default")
    other = Session("ada", "default")
    taken = await store.merge([other, Session("bo", "default")])
    assert (taken.written, list(taken.refused)) == (1, [other.session_id])
    assert await store.find("ada", "default") == here
    ended = replace(here, is_active=False, version=2)
    assert (await store.merge([other, ended])).written == 2
    assert await store.find("ada", "default") == other


async def test_all_sessions_are_read_in_parts(store: SessionStore) -> None:
    sessions = [Session(f"user-{number}", "default", is_active=number % 2 == 0) for number in range(7)]
    await store.merge(sessions)
    first = await store.part(after="", limit=4)
    rest = await store.part(after=first.sessions[-1].session_id, limit=4)
    ids = [session.session_id for session in (*first.sessions, *rest.sessions)]
    assert ids == sorted(session.session_id for session in sessions)
    assert (await store.part(after=ids[-1], limit=4)).sessions == []


async def test_sessions_are_copied_there_and_back(store: SessionStore, tmp_path: Path) -> None:
    sessions = [Session(f"user-{number}", "default", agent_id=f"agent-{number}") for number in range(12)]
    await store.merge(sessions)
    other = FileSessionStore(tmp_path / "other.db")
    mine = await other.reserve("user-3", "default")
    dry = await copy_sessions(store, other, dry_run=True)
    assert (dry.read, dry.written, dry.kept, len(dry.refused)) == (12, 11, 0, 1)
    assert (await other.count())["active"] == 1
    counts = await copy_sessions(store, other)
    assert counts == dry
    assert await other.find("user-3", "default") == mine
    assert await other.find("user-4", "default") == sessions[4]
    back = await copy_sessions(other, store)
    assert (back.read, back.written, back.kept, back.refused) == (12, 0, 11, (mine.session_id,))
    await other.close()
