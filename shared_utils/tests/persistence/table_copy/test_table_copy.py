"""Everything in the schema goes out as text and comes back the same, from each engine to each."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

import psycopg
import pytest

from shared_utils.persistence.database.config import DatabaseConfig
from shared_utils.persistence.database.database import Database
from shared_utils.persistence.errors import Conflict, PersistenceError
from shared_utils.persistence.table_copy import (
    BOOKKEEPING,
    Expected,
    RestoreMarker,
    absent_vector_tables,
    copy_in,
    copy_out,
    mend_vector_tables,
    migrated_tables,
    outward,
    require_empty,
    tables,
)
from shared_utils.persistence.table_copy.inward import RestoreMismatch
from shared_utils.persistence.vectors import DatabasePassageStore, Passage, Scope, VectorSettings

pytestmark = pytest.mark.integration

MARKER = RestoreMarker("the-backup", datetime(2026, 11, 20, tzinfo=UTC))
_FILL = """
    INSERT INTO agent_sessions (session_id, user_id, persona, agent_id, session_data, metadata, created_at,
                                last_updated, expires_at, version, is_active, changed_at)
    SELECT 's' || i, %(user)s || i, 'default', CASE WHEN i %% 3 = 0 THEN NULL ELSE 'agent-' || i END,
           %(data)s, '{}'::jsonb, now(), now(), NULL, i, i %% 2 = 0, now()
    FROM generate_series(1, 500) AS i
"""
_ROWS = "SELECT * FROM agent_sessions ORDER BY session_id"
TEXT = '{"说": "它\\"\\\\ \\t\\n 一 %% {}", "n": 1.5, "null": null}'
numbers = count(1)
both = pytest.mark.parametrize("engine", ["postgresql", "opengauss-6.0", "opengauss-7.0"], indirect=True)


def expected(folder: Any, copied: Any) -> dict[Any, Expected]:
    return {table.name: Expected(folder / table.file, table.rows, table.digest) for table in copied.tables}


async def fill(database: Database, user: str = "用户\t\\N ") -> None:
    await database.execute(_FILL, {"user": user, "data": psycopg.types.json.Jsonb({"text": TEXT})})


@pytest.fixture
async def empty(database_config: DatabaseConfig) -> AsyncIterator[Any]:
    """A second schema beside the test's."""
    config = database_config.model_copy(update={"schema_name": f"{database_config.schema_name}_again"})
    yield config
    copied = Database(config)
    await copied.execute(f"DROP SCHEMA IF EXISTS {config.schema_name} CASCADE")
    await copied.close()


@pytest.fixture
async def copied(empty: Any) -> AsyncIterator[Database]:
    """The second schema, opened when it is first asked."""
    database = Database(empty)
    yield database
    await database.close()


async def test_every_table_of_the_schema_is_known(database: Database, database_config: DatabaseConfig) -> None:
    """Where this fails, a migration makes a table in a way that the registry does not see: no backup would hold it."""
    rows = await database.fetch(
        "SELECT tablename::text AS name FROM pg_tables WHERE schemaname = %(schema)s",
        {"schema": database_config.schema_name},
    )
    assert {row["name"] for row in rows} == migrated_tables() | BOOKKEEPING


async def test_out_and_in_again(
    database: Database, database_config: DatabaseConfig, empty: Any, copied: Database, tmp_path: Path
) -> None:
    await fill(database)
    before = await database.fetch(_ROWS)
    out = await copy_out(database_config, tmp_path / "out")
    assert {table.name for table in out.tables} == migrated_tables()
    assert out.left_out == ()
    assert {table.name: table.rows for table in out.tables}["agent_sessions"] == len(before) == 500
    assert {oct(file.stat().st_mode & 0o777) for file in (tmp_path / "out").iterdir()} == {"0o600"}
    with pytest.raises(Conflict, match="already contains rows in agent_sessions"):
        await copy_in(database_config, expected(tmp_path / "out", out), MARKER, {})
    done = await copy_in(empty, expected(tmp_path / "out", out), MARKER, {})
    assert done.rows == {table.name: table.rows for table in out.tables}
    assert done.compared == len(out.tables)
    assert await copied.fetch(_ROWS) == before


async def test_done_before_it_changes_nothing(
    database: Database, database_config: DatabaseConfig, empty: Any, copied: Database, tmp_path: Path
) -> None:
    await fill(database)
    out = await copy_out(database_config, tmp_path)
    assert not await require_empty(empty, MARKER)
    await copy_in(empty, expected(tmp_path, out), MARKER, {})
    await copied.execute("DELETE FROM agent_sessions WHERE session_id = 's1'")
    assert await require_empty(empty, MARKER)
    again = await copy_in(empty, expected(tmp_path, out), MARKER, {})
    assert again.done_before
    assert len(await copied.fetch(_ROWS)) == 499
    with pytest.raises(Conflict):
        await require_empty(empty, replace(MARKER, backup_id="another"))


async def test_sessions_get_the_ids_their_agents_have_now(
    database: Database, database_config: DatabaseConfig, empty: Any, copied: Database, tmp_path: Path
) -> None:
    await fill(database)
    out = await copy_out(database_config, tmp_path)
    moved = {f"agent-{number}": f"agent-new-{number}" for number in range(1, 11)}
    done = await copy_in(empty, expected(tmp_path, out), MARKER, moved)
    assert done.moved_sessions == 7
    rows = {row["session_id"]: row for row in await copied.fetch(_ROWS)}
    assert (rows["s1"]["agent_id"], rows["s1"]["version"]) == ("agent-new-1", 2)
    assert (rows["s3"]["agent_id"], rows["s3"]["version"]) == (None, 3)
    assert (rows["s11"]["agent_id"], rows["s11"]["version"]) == ("agent-11", 11)

    again = await copy_in(empty, expected(tmp_path, out), MARKER, {**moved, "agent-11": "agent-restored-later"})
    assert (again.done_before, again.moved_sessions) == (True, 1)
    rows = {row["session_id"]: row for row in await copied.fetch(_ROWS)}
    assert (rows["s11"]["agent_id"], rows["s11"]["version"]) == ("agent-restored-later", 12)


@both
async def test_everything_is_of_one_moment(
    database: Database, database_config: DatabaseConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody writes to two tables at once while they are copied one after the other."""
    write = outward._write

    async def interrupted(connection: Any, schema: Any, table: Any, *arguments: Any) -> Any:
        written = await write(connection, schema, table, *arguments)
        if table == "agent_conversations":  # the first one
            await database.execute(
                "INSERT INTO agent_conversations VALUES ('late', 'u', 's', 't', '{}'::jsonb, now(), now())"
            )
            await fill(database, f"late {next(numbers)}")
        return written

    monkeypatch.setattr(outward, "_write", interrupted)
    out = await copy_out(database_config, tmp_path)
    assert {table.name: table.rows for table in out.tables if table.rows} == {}
    assert len(await database.fetch(_ROWS)) == 500


async def test_a_table_that_is_not_ours_is_left_out_by_name(
    database: Database, database_config: DatabaseConfig, tmp_path: Path
) -> None:
    await database.execute("CREATE TABLE somebody_elses (secret text)")
    out = await copy_out(database_config, tmp_path)
    assert out.left_out == ("somebody_elses",)
    assert not (tmp_path / "somebody_elses.copy").exists()


@pytest.mark.parametrize("harm", ["cut", "fewer", "changed", "unknown"])
async def test_damaged_copy_leaves_the_tables_empty(
    database: Database, database_config: DatabaseConfig, empty: Any, copied: Database, tmp_path: Path, harm: str
) -> None:
    await fill(database)
    out = await copy_out(database_config, tmp_path)
    tables = expected(tmp_path, out)
    file = tmp_path / "agent_sessions.copy"
    match harm:
        case "cut":
            file.write_bytes(file.read_bytes()[:-40])
        case "fewer":
            file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:-1]))
        case "changed":
            file.write_bytes(file.read_bytes().replace(b"agent-7\t", b"agent-8\t"))
        case "unknown":
            tables["of_a_newer_release"] = Expected(file)
    with pytest.raises(PersistenceError, match=r"refused|cannot hold|rows|not know"):
        await copy_in(empty, tables, MARKER, {})
    assert await copied.fetch(_ROWS) == []
    assert not await require_empty(empty, MARKER)


# -- vectors


SERVERS = ("postgresql", "opengauss-5.0", "opengauss-7.0")
"""pgvector; no vector type at all; one that is built in."""


@pytest.fixture
def config_of(url_of: Any) -> Iterator[Callable[..., Any]]:
    """Makes a configuration with a schema of its own on a server."""
    made = []

    def make(server: Any) -> DatabaseConfig:
        schema = f"moved_{next(numbers)}"
        config = DatabaseConfig.model_validate({"db_url": url_of(server), "schema_name": schema, "max_connections": 5})
        made.append(config)
        return config

    yield make
    for config in made:
        with psycopg.connect(config.conninfo, autocommit=True) as connection:
            connection.execute(f"DROP SCHEMA IF EXISTS {config.schema_name} CASCADE")


def passages(model: str = "small", size: int = 3) -> list[Passage]:
    return [
        Passage(
            passage_id=f"passage-{number}",
            embedding=[(number * 7 + place) / 3.0 for place in range(size)],
            model=model,
            agent_id=f"agent-{number % 4}",
            source_id=f"user:用户{number % 2}",
            text=f"第{number}条\t\n",
            metadata={"kind": "passage", "number": number},
        )
        for number in range(40)
    ]


async def opened(config: Any) -> DatabasePassageStore:
    return DatabasePassageStore(Database(config), VectorSettings())


@pytest.mark.parametrize("target", SERVERS)
@pytest.mark.parametrize("source", SERVERS)
async def test_vectors_come_along_between_any_two_servers(
    config_of: Callable[..., Any], tmp_path: Path, source: Any, target: Any
) -> None:
    here, there = config_of(source), config_of(target)
    store = await opened(here)
    await store.store_all(passages())
    await store.begin_reembedding("other", 4)  # a second table, half-filled
    question = {"small": [1.0, 2.0, 3.0]}
    before = [match.passage.passage_id for match in await store.search(question, Scope.everything(), k=5)]
    await store.close()

    out = await copy_out(here, tmp_path)
    names = {table.name for table in out.tables} - migrated_tables()
    assert len(names) == 2
    done = await copy_in(there, expected(tmp_path, out), MARKER, {"agent-1": "agent-new"})
    assert done.compared == len(out.tables)
    store = await opened(there)
    found = await store.search(question, Scope.everything(), k=5)
    assert [match.passage.passage_id for match in found] == before
    statistics = await store.statistics()
    assert statistics.passages == 40
    assert {table.kind for table in statistics.tables} == {
        "float8" if "opengauss-5.0" in {source, target} else "vector"
    }
    got = await store.get(["passage-5"], Scope.everything())
    assert got[0].agent_id == "agent-new"
    assert got[0].embedding == pytest.approx([(5 * 7 + place) / 3.0 for place in range(3)], rel=1e-6)
    await store.store_all([replace(passages()[0], passage_id="one more")])
    await store.abandon_reembedding()
    await store.close()


@both
async def test_vectors_that_are_listed_and_not_in_the_backup_are_refused(
    database: Database, database_config: DatabaseConfig, empty: Any, tmp_path: Path
) -> None:
    store = await opened(database_config)
    await store.store_all(passages())
    await store.close()
    out = await copy_out(database_config, tmp_path)
    tables = {name: file for name, file in expected(tmp_path, out).items() if name in migrated_tables()}
    with pytest.raises(RestoreMismatch, match="lacks their file"):
        await copy_in(empty, tables, MARKER, {})
    assert not await require_empty(empty, MARKER)


@both
async def test_a_table_of_vectors_dropped_meanwhile_does_not_end_the_copy(
    database: Database, database_config: DatabaseConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await opened(database_config)
    await store.store_all(passages())
    await store.begin_reembedding("other", 4)
    lock = tables.lock
    dropped: list[Any] = []

    async def dropping(connection: Any, schema: Any, tables: Any, mode: str) -> None:
        if not dropped:
            dropped.append("reembedding")
            await store.abandon_reembedding()
        await lock(connection, schema, tables, mode)

    monkeypatch.setattr(outward, "lock", dropping)
    out = await copy_out(database_config, tmp_path)
    await store.close()
    assert [table.rows for table in out.tables if table.name not in migrated_tables()] == [40]


@both
async def test_bookkeeping_without_its_tables_is_seen_and_mended(
    database: Database, database_config: DatabaseConfig, tmp_path: Path
) -> None:
    """What an older restore left: the list of tables came back, the tables did not."""
    store = await opened(database_config)
    await store.store_all(passages())
    [row] = await database.fetch("SELECT collection, table_number FROM vector_models")
    name = f"{row['collection']}_{row['table_number']}"
    await database.execute(f"DROP TABLE {name}")
    assert await absent_vector_tables(database_config) == [name]
    out = await copy_out(database_config, tmp_path)
    assert out.left_out == (name,)
    assert await mend_vector_tables(database_config) == [name]
    assert await mend_vector_tables(database_config) == []
    assert await absent_vector_tables(database_config) == []
    assert (await store.statistics()).passages == 0
    await store.store_all(passages())
    assert (await store.statistics()).passages == 40
    await store.close()
