"""Backups of databases: between both products, with vectors, of earlier releases, and broken off at any step."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from letta_bridge import fail_points
from letta_bridge.backup import manifest, state
from letta_bridge.backup.backup import make_backup
from letta_bridge.backup.errors import BackupDamaged
from letta_bridge.backup.restore import restore_backup
from letta_bridge.letta import AgentSpec, Block, TurnMessage
from letta_bridge.settings import BridgeSettings
from letta_bridge.testing.agent_store import InMemoryAgentStore
from letta_bridge.testing.letta import InMemoryLetta
from letta_bridge.vectors.state import DatabaseSyncState
from local_stack.postgres import Postgres
from shared_utils.persistence.checkpoints.database_store import DatabaseCheckpoints
from shared_utils.persistence.checkpoints.port import Blob, Checkpoint
from shared_utils.persistence.choices.database_store import DatabaseChoiceStore
from shared_utils.persistence.choices.port import Choice, user_key
from shared_utils.persistence.conversations.service import ConversationService
from shared_utils.persistence.database.config import DatabaseConfig
from shared_utils.persistence.database.database import Database
from shared_utils.persistence.database.migration import migrate
from shared_utils.persistence.erasures.log import DatabaseErasureLog, user_hash
from shared_utils.persistence.errors import Conflict, DatabaseRefused
from shared_utils.persistence.sessions.database_store import DatabaseSessionStore
from shared_utils.persistence.sessions.port import Session
from shared_utils.persistence.table_copy import copy_in, migrated_tables
from shared_utils.persistence.table_copy.inward import CopyIn
from shared_utils.persistence.vectors import (
    DatabasePassageStore,
    Passage,
    Scope,
    VectorSettings,
    vector_database,
)
from shared_utils.persistence.vectors.memories import user_source

pytestmark = pytest.mark.integration

numbers = count(1)
USERS = ("小明", "../../etc", "a\nb", "ada")


@pytest.fixture
def place(url_of: Any, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Makes settings of an installation with a schema of its own on a server."""
    made = []

    def make(server: str, **more: Any) -> BridgeSettings:
        schema, number = f"backup_{next(numbers)}", next(numbers)
        config = {"db_url": url_of(server), "schema_name": schema, "max_connections": 3}
        settings = BridgeSettings.model_validate(
            {"storage": {"data_dir": str(tmp_path / f"data-{number}")}, "database": config, **more}
        )
        made.append(settings.database)
        return settings

    yield make
    for config in made:
        with psycopg.connect(config.conninfo, autocommit=True) as connection:
            connection.execute(f"DROP SCHEMA IF EXISTS {config.schema_name} CASCADE")


@pytest.fixture
async def letta() -> InMemoryLetta:
    letta = InMemoryLetta()
    for user in USERS:
        tags = ("bridge", f"user:{user}", "persona:default")
        spec = AgentSpec("x", tags, "m", None, "letta_v1_agent", (Block("human", user),), ())
        agent = await letta.create_agent(spec)
        for number in range(3):
            await letta.send(agent.agent_id, [TurnMessage("user", f"{user} {number}", f"{user}-{number}")], timeout=5)
        letta.note(agent.agent_id, f"{user} likes cats")
    return letta


async def lived_in(settings: BridgeSettings, letta: InMemoryLetta) -> None:
    """Sessions, conversations and vectors of every user."""
    database = Database(settings.database)
    sessions, service = DatabaseSessionStore(database), ConversationService(database)
    vectors = DatabasePassageStore(Database(vector_config(settings)), VectorSettings())
    for number, user in enumerate(USERS):
        [agent] = await letta.find_agents([f"user:{user}"])
        session = await sessions.reserve(user, "default")
        await sessions.save(type(session)(**{**as_dict(session), "agent_id": agent.agent_id}))
        conversation = await service.create("t", user_id=user)
        await service.add_message(conversation.id, "user", f"你好 {user}")
        vector: dict[str, Any] = {"embedding": [1.0, number / 3], "model": "small"}
        await vectors.store(Passage(passage_id=f"p{number}", agent_id=agent.agent_id, text=f"of {user}", **vector))
    await vectors.close()
    await database.close()


def vector_config(settings: BridgeSettings) -> DatabaseConfig:
    return vector_database(settings.vectors, settings.database)


def as_dict(session: Session) -> dict[str, Any]:
    return {name: getattr(session, name) for name in session.__dataclass_fields__}


async def content(settings: BridgeSettings, letta: InMemoryLetta) -> dict[str, list[Any]]:
    """Everything an installation holds, with ids of agents as their users."""
    database = Database(settings.database)
    users = {agent.ref.agent_id: agent.ref.tags[1] for agent in letta.agents.values()}
    sessions = await database.fetch("SELECT session_id, user_id, agent_id FROM agent_sessions ORDER BY user_id")
    messages = await database.fetch("SELECT content FROM agent_messages ORDER BY content")
    await database.close()
    vectors = DatabasePassageStore(Database(vector_config(settings)), VectorSettings())
    page = await vectors.page(Scope.everything())
    found = await vectors.search({"small": [1.0, 0.5]}, Scope.everything(), k=3)
    await vectors.close()
    return {
        "sessions": [(row["session_id"], row["user_id"], users[row["agent_id"]]) for row in sessions],
        "messages": [row["content"] for row in messages],
        "vectors": [(passage.passage_id, users[str(passage.agent_id)], passage.text) for passage in page.passages],
        "found": [match.passage.passage_id for match in found],
        "agents": sorted(
            (agent.ref.tags[1], tuple(str(message["content"]) for message in agent.history[1:]))
            for agent in letta.agents.values()
        ),
    }


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("postgresql", "postgresql"),
        ("postgresql", "opengauss-5.0"),
        ("postgresql", "opengauss-7.0"),
        ("opengauss-5.0", "postgresql"),
        ("opengauss-7.0", "postgresql"),
    ],
)
async def test_an_installation_moves_between_servers(
    place: Callable[..., Any], letta: InMemoryLetta, tmp_path: Path, source: str, target: str
) -> None:
    here, there, other = place(source), place(target), InMemoryLetta()
    await lived_in(here, letta)
    made = await make_backup(here, InMemoryAgentStore(letta), tmp_path / "backup", configuration={})
    assert {table.name for table in made.tables} > migrated_tables()
    assert all(table.rows is not None and table.digest for table in made.tables)
    report = await restore_backup(there, InMemoryAgentStore(other), tmp_path / "backup")
    assert report.whole
    assert report.lacks == ()
    assert report.state.compared == len(made.tables)
    assert report.state.moved_sessions == len(USERS)
    assert await content(there, other) == await content(here, letta)
    again = await restore_backup(there, InMemoryAgentStore(other), tmp_path / "backup")
    assert again.state.done_before
    assert again.outcomes == {"restored_before": len(USERS)}


class Killed(BaseException):
    """As SIGKILL does."""


async def test_restore_interrupted_at_any_step_can_be_repeated(
    place: Callable[..., Any], letta: InMemoryLetta, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = place("postgresql")
    await lived_in(here, letta)
    await make_backup(here, InMemoryAgentStore(letta), tmp_path / "backup", configuration={})
    expected = await content(here, letta)

    reached: list[Any] = []
    monkeypatch.setattr(fail_points, "reach", reached.append)
    await restore_backup(place("postgresql"), InMemoryAgentStore(InMemoryLetta()), tmp_path / "backup")
    steps = list(reached)
    assert set(steps) >= {"agent_written", "agent_archive", "agent_complete", "agent_restored", "agents_restored"}
    for number in range(len(steps)):
        there, other = place("postgresql"), InMemoryLetta()
        left = iter(range(number, -1, -1))

        def kill(_step: str, left: Any = left) -> None:
            if next(left, 1) == 0:
                raise Killed

        monkeypatch.setattr(fail_points, "reach", kill)
        with pytest.raises(Killed):
            await restore_backup(there, InMemoryAgentStore(other), tmp_path / "backup")
        monkeypatch.setattr(fail_points, "reach", fail_points.armed(None))
        report = await restore_backup(there, InMemoryAgentStore(other), tmp_path / "backup")
        assert report.whole, steps[number]
        assert await content(there, other) == expected, steps[number]


async def test_backup_interrupted_at_any_step_is_invalid(
    place: Callable[..., Any], letta: InMemoryLetta, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = place("postgresql")
    await lived_in(here, letta)
    reached: list[Any] = []
    monkeypatch.setattr(fail_points, "reach", reached.append)
    await make_backup(here, InMemoryAgentStore(letta), tmp_path / "whole", configuration={})
    for number in range(len(reached)):
        left = iter(range(number, -1, -1))

        def kill(_step: str, left: Any = left) -> None:
            if next(left, 1) == 0:
                raise Killed

        monkeypatch.setattr(fail_points, "reach", kill)
        folder = tmp_path / f"broken-{number}"
        with pytest.raises(Killed):
            await make_backup(here, InMemoryAgentStore(letta), folder, configuration={})
        with pytest.raises(BackupDamaged, match="incomplete"):
            manifest.read(folder)


async def test_vectors_with_a_database_of_their_own_are_saved_too(
    place: Callable[..., Any], letta: InMemoryLetta, tmp_path: Path, url_of: Any
) -> None:
    """And a backup of one kind of installation can be brought back into the other."""
    parts: Any = psycopg.conninfo.conninfo_to_dict(url_of("opengauss-7.0"))
    own = {
        "enabled": True,
        "host": parts["host"],
        "port": int(parts["port"]),
        "database": parts["dbname"],
        "username": parts["user"],
        "password": parts["password"],
        "ssl_mode": "disable",
    }
    here, there, other = place("postgresql", vectors={"opengauss": own}), place("postgresql"), InMemoryLetta()
    await lived_in(here, letta)
    made = await make_backup(here, InMemoryAgentStore(letta), tmp_path / "backup", configuration={})
    assert [state.name for state in made.state] == ["vectors", "database"]
    report = await restore_backup(there, InMemoryAgentStore(other), tmp_path / "backup")
    assert report.whole
    assert await content(there, other) == await content(here, letta)

    await make_backup(there, InMemoryAgentStore(other), tmp_path / "again", configuration={})
    back, third = place("postgresql", vectors={"opengauss": own}), InMemoryLetta()
    assert (await restore_backup(back, InMemoryAgentStore(third), tmp_path / "again")).whole
    assert await content(back, third) == await content(here, letta)
    with psycopg.connect(vector_config(back).conninfo, autocommit=True) as connection:
        for settings in (here, back):
            connection.execute(f"DROP SCHEMA IF EXISTS {settings.database.schema_name} CASCADE")


def old_manifest(folder: Path, method: str, rows: dict[str, Any]) -> None:
    (folder / "config.json").write_text("{}\n")
    old = {
        "format": 1,
        "release": "0.1.0",
        "created_at": "2026-11-20T12:00:00Z",
        "method": method,
        "rows": rows,
        "agents": 0,
        "parts": [part.model_dump() for part in manifest.parts_of(folder)],
    }
    (folder / "manifest.json").write_text(json.dumps(old))


async def test_a_backup_that_pg_dump_made_is_still_read(
    place: Callable[..., Any],
    letta: InMemoryLetta,
    tmp_path: Path,
    postgres_server: Postgres,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here, there = place("postgresql"), place("postgresql")
    await lived_in(here, letta)
    folder = tmp_path / "backup"
    folder.mkdir()
    programs = {**os.environ, "PATH": f"{postgres_server.programs}{os.pathsep}{os.environ['PATH']}"}
    dump = ["pg_dump", "--format=custom", "--no-owner", "--no-privileges", f"--schema={here.database.schema_name}"]
    dump += [f"--file={folder / 'database.dump'}", here.database.conninfo]
    await asyncio.to_thread(subprocess.run, dump, env=programs, check=True)
    old_manifest(folder, "pg_dump", {})

    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DatabaseRefused, match="pg_restore is not installed"):
        await restore_backup(there, None, folder)
    monkeypatch.setenv("PATH", programs["PATH"])
    report = await restore_backup(there, None, folder)
    [lack] = report.lacks
    assert "checksums" in lack
    assert await content(there, letta) == await content(here, letta)
    assert (await restore_backup(there, None, folder)).state.done_before


async def test_a_copy_of_an_earlier_release_brings_its_vectors_too(
    place: Callable[..., Any], letta: InMemoryLetta, tmp_path: Path
) -> None:
    here, there = place("postgresql"), place("opengauss-7.0")
    await lived_in(here, letta)
    made = await make_backup(here, None, tmp_path / "new", configuration={})
    folder = tmp_path / "old"
    (tmp_path / "new" / "database").rename(tmp_path / "database")
    folder.mkdir()
    (tmp_path / "database").rename(folder / "database")
    old_manifest(folder, "copy", {table.name: table.rows for table in made.tables})
    report = await restore_backup(there, None, folder)
    assert report.whole
    assert any("checksums" in lack for lack in report.lacks)
    assert await content(there, letta) == await content(here, letta)


async def test_a_database_with_rows_is_refused_before_any_agent_is_written(
    place: Callable[..., Any], letta: InMemoryLetta, tmp_path: Path
) -> None:
    here, there, other = place("postgresql"), place("postgresql"), InMemoryLetta()
    await lived_in(here, letta)
    await make_backup(here, InMemoryAgentStore(letta), tmp_path / "backup", configuration={})
    database = Database(there.database)
    await DatabaseSessionStore(database).reserve("somebody", "default")
    await database.close()
    with pytest.raises(Conflict, match="already contains rows in agent_sessions"):
        await restore_backup(there, InMemoryAgentStore(other), tmp_path / "backup")
    assert other.agents == {}


@pytest.mark.parametrize("server", ["postgresql", "opengauss-5.0", "opengauss-7.0"])
async def test_restore_accepts_a_database_with_only_choices_and_audit_of_a_running_bridge(
    place: Callable[..., Any], letta: InMemoryLetta, tmp_path: Path, server: str
) -> None:
    here, there, other = place("postgresql"), place(server), InMemoryLetta()
    await lived_in(here, letta)
    saved, begun = Database(here.database), Database(there.database)
    await DatabaseChoiceStore(saved).merge([Choice("both", True, 8), Choice("tie", False, 5), Choice("old", False, 3)])
    made = await make_backup(here, InMemoryAgentStore(letta), tmp_path / "backup", configuration={})
    await migrate(there.database)
    choices = DatabaseChoiceStore(begun)
    await choices.merge([Choice("new", False, 7), Choice("both", False, 9), Choice("tie", True, 5)])
    state = DatabaseSyncState(begun)
    assert await state.claim("turns", "bridge-1", 60) == ""
    [now] = await begun.fetch("SELECT clock_timestamp() AS since")
    report = await restore_backup(there, InMemoryAgentStore(other), tmp_path / "backup")
    assert report.whole
    assert report.state.choices_found == 3
    assert report.state.compared == len(made.tables)
    expected = [
        Choice("both", False, 9),
        Choice("new", False, 7),
        Choice("old", False, 3),
        Choice("tie", False, 5),
    ]
    assert list(await choices.page()) == expected
    changed, _ = await choices.changed(now["since"])
    assert sorted(changed, key=lambda choice: choice.user_key) == expected  # a running bridge learns of all
    assert await state.claim("turns", "bridge-1", 60) == ""
    for database in (saved, begun):
        await database.close()


@pytest.mark.parametrize("server", ["postgresql", "opengauss-5.0", "opengauss-7.0"])
async def test_audit_of_erasures_at_the_new_place_is_merged_with_that_of_the_backup(
    place: Callable[..., Any], letta: InMemoryLetta, tmp_path: Path, server: str
) -> None:
    here, there = place("postgresql"), place(server)
    await lived_in(here, letta)
    saved, begun = Database(here.database), Database(there.database)
    for user in ("old", "both"):
        erasure = await DatabaseErasureLog(saved).begin(user)
        erasure.counts["agents"] = 2
        await DatabaseErasureLog(saved).note(erasure)
    await make_backup(here, None, tmp_path / "backup", configuration={})
    await migrate(there.database)
    await begun.execute(
        "INSERT INTO erasures VALUES (%s, %s, now(), now(), %s)",
        [erasure.erasure_id, user_hash("both"), Jsonb({"agents": 3})],
    )
    await DatabaseErasureLog(begun).begin("new")
    assert (await restore_backup(there, None, tmp_path / "backup")).whole
    histories = {user: await DatabaseErasureLog(begun).history(user) for user in ("old", "both", "new")}
    assert {user: [row["counts"] for row in rows] for user, rows in histories.items()} == {
        "old": [{"agents": 2}],
        "both": [{"agents": 3}],
        "new": [{}],
    }
    assert histories["both"][0]["finished_at"] is not None
    for database in (saved, begun):
        await database.close()


@pytest.mark.parametrize("server", ["postgresql", "opengauss-5.0", "opengauss-7.0"])
async def test_restore_leaves_out_every_row_of_a_user_who_was_erased_since(
    place: Callable[..., Any], letta: InMemoryLetta, tmp_path: Path, server: str
) -> None:
    here, there, other = place("postgresql"), place(server), InMemoryLetta()
    saved, target = Database(here.database), Database(there.database)
    await lived_in(here, letta)
    await write_passage(here, user_source("ada"))
    await write_threads(saved)
    await saved.execute(
        "UPDATE agent_sessions SET metadata = %s WHERE user_id = 'ada'", [Jsonb({"permanent_memory": False})]
    )
    made = await make_backup(here, InMemoryAgentStore(letta), tmp_path / "backup", configuration={})
    await migrate(there.database)
    await DatabaseErasureLog(target).begin("ada")
    report = await restore_backup(there, InMemoryAgentStore(other), tmp_path / "backup")
    assert report.whole
    assert report.erased_since == 1
    assert report.state.compared == len(made.tables)
    assert report.outcomes == {"restored": len(USERS) - 1, "erased": 1}
    names = [table.name for table in made.tables]
    left = {name: [str(row) for row in await target.fetch(f"SELECT * FROM {name}")] for name in names}  # noqa: S608
    for table in ("agent_sessions", "agent_conversations", "agent_messages"):
        assert len(left[table]) == len(USERS) - 1
        assert report.state.rows[table] == len(USERS) - 1
        assert not any("'ada'" in row or "你好 ada" in row for row in left[table])
    threads = {row["thread_id"] for row in await target.fetch("SELECT thread_id FROM agent_checkpoints")}
    assert threads == {"shared", "of-nobody"}
    assert [row for rows in left.values() for row in rows if user_source("ada") in row] == []
    # The opt-out of an earlier release outlives the erasure.
    assert Choice(user_key("ada"), False, 1) in await DatabaseChoiceStore(target).page()
    for database in (saved, target):
        await database.close()


async def test_restore_removes_rows_of_a_user_whose_erasure_begins_while_the_tables_are_copied(
    place: Callable[..., Any], letta: InMemoryLetta, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = place("postgresql"), place("postgresql")
    target = Database(there.database)
    await lived_in(here, letta)
    await make_backup(here, None, tmp_path / "backup", configuration={})

    async def copy_and_erase(*arguments: Any, **named: Any) -> CopyIn:
        done = await copy_in(*arguments, **named)
        await DatabaseErasureLog(target).begin("ada")
        return done

    monkeypatch.setattr(state, "copy_in", copy_and_erase)
    report = await restore_backup(there, None, tmp_path / "backup")
    assert report.erased_since == 1
    assert {row["user_id"] for row in await target.fetch("SELECT user_id FROM agent_sessions")} == {*USERS} - {"ada"}
    await target.close()


async def write_passage(settings: BridgeSettings, source: str) -> None:
    vectors = DatabasePassageStore(Database(vector_config(settings)), VectorSettings())
    await vectors.store(
        Passage(passage_id="turn", agent_id=None, source_id=source, text="a turn", embedding=[0.5, 0.5], model="small")
    )
    await vectors.close()


async def write_threads(database: Database) -> None:
    """Threads of one user, of two, and of nobody."""
    checkpoints = DatabaseCheckpoints(database)
    threads: dict[str, list[str | None]] = {"own": ["ada"], "shared": ["ada", "小明"], "of-nobody": [None]}
    for thread, users in threads.items():
        for number, user in enumerate(users):
            metadata = {} if user is None else {"user_id": user}
            blob = Blob("json", str(user).encode())
            values: dict[str, Any] = {"values": {"said": blob}, "versions": {"said": str(number)}}
            await checkpoints.put(
                Checkpoint(thread_id=thread, state=blob, checkpoint_id=str(number), metadata=metadata, **values)
            )


async def test_an_older_schema_gets_the_tables_of_this_release_empty(
    place: Callable[..., Any], letta: InMemoryLetta, tmp_path: Path
) -> None:
    here, there = place("postgresql"), place("postgresql")
    await lived_in(here, letta)
    made = await make_backup(here, None, tmp_path / "backup", configuration={})
    tables = tuple(table for table in made.tables if table.name != "erasures")
    (tmp_path / "backup" / "database" / "erasures.copy").unlink()
    state = made.state[0].model_copy(update={"tables": tables})
    parts = manifest.parts_of(tmp_path / "backup")
    manifest.write(tmp_path / "backup", made.model_copy(update={"state": (state,), "parts": parts}))
    report = await restore_backup(there, None, tmp_path / "backup")
    assert report.state.absent == ("erasures",)


async def test_a_backup_carries_no_notes_about_other_restores(
    place: Callable[..., Any], letta: InMemoryLetta, tmp_path: Path
) -> None:
    here, there = place("postgresql"), place("postgresql")
    await lived_in(here, letta)
    await make_backup(here, None, tmp_path / "one", configuration={})
    await restore_backup(there, None, tmp_path / "one")
    made = await make_backup(there, None, tmp_path / "two", configuration={})
    assert "restores" not in {table.name for table in made.tables}
    third = place("postgresql")
    await migrate(third.database)
    assert not (await restore_backup(third, None, tmp_path / "two")).state.done_before
    assert made.at <= datetime.now(UTC)
