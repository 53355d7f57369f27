"""``sessions`` and ``migrate`` as typed, on a real database and on the file."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql
from typer.testing import CliRunner, Result

from letta_bridge.main import app
from shared_utils.clock import utc_now
from shared_utils.persistence.database.config import DatabaseConfig
from shared_utils.persistence.database.database import Database
from shared_utils.persistence.database.migration import migrations
from shared_utils.persistence.sessions.database_store import DatabaseSessionStore
from shared_utils.persistence.sessions.file_store import FileSessionStore
from shared_utils.persistence.sessions.outage_log import Entry, SessionOutageLog
from shared_utils.persistence.sessions.port import Session

pytestmark = pytest.mark.integration

VARIABLES = ("DATABASE_URL", "LETTA_BRIDGE_CONFIG", "DB_SCHEMA", "DATA_DIR")


def printed(result: Result) -> Any:
    """The JSON of a command; only in a process of its own do log lines go elsewhere."""
    return json.loads(result.stdout.splitlines()[-1])


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """A command with an empty configuration and no database, unless the variables say so."""
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)

    def call(*arguments: str, code: int = 0, **environ: str) -> Result:
        variables = {
            "LETTA_BRIDGE_CONFIG": str(tmp_path / "config.json"),
            "DATA_DIR": str(tmp_path),
            "LETTA_API_URL": "http://127.0.0.1:1",
            **environ,
        }
        result = CliRunner().invoke(app, arguments, env=variables | {"TERM": "dumb"})
        assert result.exit_code == code, result.output
        return result

    return call


@pytest.fixture
def database_variables(postgres_url: str) -> dict[str, str]:
    return {"DATABASE_URL": postgres_url}


@pytest.fixture(params=["database", "file"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Any, ...]:
    """The variables that name a store, and the store itself for one piece of work."""
    if request.param == "file":
        return {}, lambda: FileSessionStore(tmp_path / "sessions.db")
    config = DatabaseConfig.model_validate({"db_url": request.getfixturevalue("postgres_url")})
    variables = request.getfixturevalue("database_variables")
    request.getfixturevalue("call")("migrate", **variables)
    return variables, lambda: DatabaseSessionStore(Database(config))


@pytest.fixture
def on(call: Callable[..., Any], place: tuple[Any, ...]) -> Any:
    """A command on that store; what it printed as JSON."""

    def on(*arguments: str, code: int = 0) -> Any:
        return printed(call(*arguments, "--json", code=code, **place[0]))

    on.text = lambda *arguments, code=0: call(*arguments, code=code, **place[0]).output  # type: ignore[attr-defined]
    return on


@pytest.fixture
def put(place: tuple[Any, ...]) -> Callable[..., Any]:
    """Write a session with an agent."""

    def put(user: str, persona: str = "default", **changes: Any) -> Any:
        async def write() -> Any:
            store = place[1]()
            session = await store.reserve(user, persona)
            saved = await store.save(replace(session, agent_id=f"agent-{user}", **changes))
            await store.close()
            return saved

        return asyncio.run(write())

    return put


def test_sessions_are_listed_and_shown(on: Any, put: Callable[..., Any]) -> None:
    ada, _ = put("ada"), put("小明", metadata={"permanent_memory": False}, session_data={"mood": "好\x1b[31m"})
    listed = on("sessions", "list")
    assert [one["user_id"] for one in listed["sessions"]] == ["小明", "ada"]
    assert listed["total"] == 2
    text = on.text("sessions", "list", "--user", "小明")
    assert "agent-小明" in text
    assert "off" in text
    assert "1 of 1 sessions" in text
    assert on("sessions", "show", ada.session_id)["agent_id"] == "agent-ada"
    shown = on.text("sessions", "show", on("sessions", "list", "--limit", "1")["sessions"][0]["session_id"])
    assert "\x1b" not in shown
    assert "sessions list --all" in on.text("sessions", "show", "nobody", code=1)


def test_a_session_is_deleted_and_undeleted(on: Any, put: Callable[..., Any]) -> None:
    session_id = put("ada").session_id
    assert on("sessions", "delete", session_id) == {"session_id": session_id, "hard": False}
    assert on("sessions", "list")["total"] == 0
    assert on("sessions", "list", "--all")["sessions"][0]["is_active"] is False
    assert "no active session" in on.text("sessions", "delete", session_id, code=1)
    assert on("sessions", "undelete", session_id)["is_active"] is True
    on("sessions", "delete", session_id)
    put("ada")
    assert "another active" in on.text("sessions", "undelete", session_id, code=1)
    assert "is removed" in on.text("sessions", "delete", session_id, "--hard")
    assert "no session" in on.text("sessions", "undelete", session_id, code=1)


def test_statistics_count_and_cleanup_ends_expired_sessions(on: Any, put: Callable[..., Any]) -> None:
    put("ada", expires_at=utc_now() - timedelta(hours=1))
    put("bo")
    assert on("sessions", "statistics")["expired"] == 1
    assert "last seen          1h: 2" in on.text("sessions", "statistics")
    assert on("sessions", "cleanup") == {"ended": 1, "removed": 0}
    assert on("sessions", "cleanup", "--grace-hours", "0") == {"ended": 0, "removed": 1}


def test_conflicts_of_an_outage_are_shown(call: Callable[..., Any], tmp_path: Path) -> None:
    assert printed(call("sessions", "conflicts", "--json", DATA_DIR=str(tmp_path))) == {"conflicts": []}
    lost = Session("小明", "default", agent_id="agent-1")

    async def write() -> None:
        journal = SessionOutageLog(tmp_path / "sessions.db")
        entry = Entry(1, lost.session_id, 0, lost)
        await journal.lost(entry, "the database has another session", lost=lost, won=None, drop=False)
        journal.close()

    asyncio.run(write())
    [conflict] = printed(call("sessions", "conflicts", "--json", DATA_DIR=str(tmp_path)))["conflicts"]
    assert (conflict["session_id"], conflict["lost"]["user_id"]) == (lost.session_id, "小明")
    assert "another session" in call("sessions", "conflicts", DATA_DIR=str(tmp_path)).output


def test_sessions_restore_counts_readable_sessions(on: Any, put: Callable[..., Any]) -> None:
    put("ada")
    assert on("sessions", "restore") == {"restored": 1, "failed": {}}
    assert "1 sessions can be read, 0 cannot" in on.text("sessions", "restore")


def test_a_user_is_switched_off_and_on(
    on: Any, put: Callable[..., Any], redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", redis_url)
    put("小明", persona="coach")
    assert on("sessions", "settings", "小明") == {"user_id": "小明", "permanent_memory": True}
    assert on("sessions", "settings", "小明", "--no-permanent-memory")["permanent_memory"] is False
    assert "permanent memory   no" in on.text("sessions", "settings", "小明")
    for session in on("sessions", "list")["sessions"]:
        on("sessions", "delete", session["session_id"], "--hard")
    put("小明", persona="a new one")
    assert on("sessions", "settings", "小明")["permanent_memory"] is False
    assert [session["permanent_memory"] for session in on("sessions", "list")["sessions"]] == [False]
    assert on("sessions", "settings", "小明", "--permanent-memory")["permanent_memory"] is True


def test_without_redis_an_opt_out_is_stored_and_an_opt_in_fails(on: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1")
    assert on("sessions", "settings", "ada")["permanent_memory"] is True
    opt_out = on.text("sessions", "settings", "ada", "--no-permanent-memory", code=4)
    assert "the opt-out is stored, but Redis is unavailable" in opt_out
    assert on("sessions", "settings", "ada")["permanent_memory"] is False
    assert "nothing was changed" in on.text("sessions", "settings", "ada", "--permanent-memory", code=4)
    assert on("sessions", "settings", "ada")["permanent_memory"] is False


def test_sessions_test_reports_the_database_or_the_session_file(on: Any, place: Any) -> None:
    assert on("sessions", "test")["connected"] is True
    assert ("PostgreSQL" in on.text("sessions", "test")) == bool(place[0])


def test_sessions_commands_exit_with_5_without_the_database(call: Callable[..., Any]) -> None:
    said = call("sessions", "list", code=5, DATABASE_URL="postgresql://bo:hunter2@127.0.0.1:1/db").stderr
    assert "is away" in said
    assert "hunter2" not in said
    assert call("migrate", "--check", code=5, DATABASE_URL="postgresql://bo@127.0.0.1:1/db")


def test_sessions_go_to_the_database_and_back(
    call: Callable[..., Any], database_variables: dict[str, str], tmp_path: Path
) -> None:
    async def write() -> None:
        store = FileSessionStore(tmp_path / "sessions.db")
        for user in ("ada", "小明"):
            await store.reserve(user, "default")
        await store.close()

    asyncio.run(write())

    def migrated(*arguments: str) -> Any:
        return printed(call("sessions", "migrate", *arguments, "--json", **database_variables))

    call("migrate", **database_variables)
    assert migrated("--to", "database", "--dry-run")["written"] == 2
    assert migrated("--to", "database")["written"] == 2
    assert migrated("--to", "database")["kept"] == 2
    listed = printed(call("sessions", "list", "--json", **database_variables))
    assert {one["user_id"] for one in listed["sessions"]} == {"ada", "小明"}
    assert migrated("--to", "file")["kept"] == 2
    (tmp_path / "sessions.db").unlink()
    assert migrated("--to", "file")["written"] == 2


def test_without_a_database_there_is_nothing_to_migrate(call: Callable[..., Any]) -> None:
    assert "DATABASE_URL" in call("migrate", code=2).stderr
    assert "DATABASE_URL" in call("sessions", "migrate", "--to", "database", code=2).stderr


def test_migrate_makes_a_listed_table_of_vectors_that_is_missing(
    call: Callable[..., Any], database_variables: dict[str, str]
) -> None:
    call("migrate", **database_variables)
    call("vectors", "prepare", "small", "3", **database_variables)
    with psycopg.connect(database_variables["DATABASE_URL"], autocommit=True) as connection:
        connection.execute("DROP TABLE letta_bridge.passage_embeddings_1")
    missing = printed(call("migrate", "--check", "--json", code=1, **database_variables))
    assert missing == {"missing": [], "vector_tables_missing": ["passage_embeddings_1"]}
    assert "letta-bridge vectors sync" in call("migrate", **database_variables).stdout
    call("migrate", "--check", **database_variables)
    call("vectors", "stats", **database_variables)


def test_migrate_names_and_creates_missing_tables(call: Callable[..., Any], database_variables: dict[str, str]) -> None:
    everything = [{"number": step.number, "name": step.name} for step in migrations()]
    missing = printed(call("migrate", "--check", "--json", code=1, **database_variables))
    assert missing == {"missing": everything}
    assert printed(call("migrate", "--json", **database_variables)) == {"applied": everything}
    assert "has all tables" in call("migrate", "--check", **database_variables).stdout
    assert printed(call("migrate", "--json", **database_variables)) == {"applied": []}


def test_a_service_may_run_as_a_role_that_can_change_no_table(
    call: Callable[..., Any], database_variables: dict[str, str], postgres_url: str, redis_url: str
) -> None:
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("CREATE ROLE clerk LOGIN PASSWORD 'clerk'")
        try:
            assert (
                "clerk may read and write the tables"
                in call("migrate", "--grant", "clerk", **database_variables).stdout
            )
            place = postgres_url.rpartition("@")[2]
            as_clerk = {"DATABASE_URL": f"postgresql://clerk:clerk@{place}", "REDIS_URL": redis_url}
            call("sessions", "settings", "ada", "--no-permanent-memory", **as_clerk)
            call("migrate", "--check", **as_clerk)
            assert (
                "no role nobody_here" in call("migrate", "--grant", "nobody_here", code=5, **database_variables).stderr
            )
        finally:
            connection.execute(sql.SQL("DROP OWNED BY clerk; DROP ROLE clerk"))
    call("migrate", "--check", "--grant", "clerk", code=2, **database_variables)
