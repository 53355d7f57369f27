"""The schema: made once by however many start, kept by whoever is newer, used by who may not change it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from itertools import count
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
from psycopg import sql

from local_stack.databases import DIRECT
from shared_utils.persistence.database.config import DatabaseConfig
from shared_utils.persistence.database.database import Database
from shared_utils.persistence.database.migration import migrate, migrations
from shared_utils.persistence.errors import DatabaseRefused, MigrationChanged, SchemaMissing, UnfitDatabase

pytestmark = pytest.mark.integration

STARTER = """
import asyncio, sys
from shared_utils.persistence.database.database import Database
from shared_utils.persistence.database.config import DatabaseConfig

async def main():
    database = Database(DatabaseConfig.from_env())
    await database.open()
    await database.close()

print("ready", flush=True)
sys.stdin.readline()
asyncio.run(main())
"""
PASSWORD = "Bridge#2024"
NEWEST = migrations()[-1].number
numbers = count(1)
one_of_each = pytest.mark.parametrize("engine", ["postgresql", "opengauss-5.0"], indirect=True)


async def opened(config: Any) -> Database:
    database = Database(config)
    await database.open()
    return database


async def applied(config: Any) -> list[Any]:
    """The number of each migration the database remembers."""
    database = await opened(config)
    rows = await database.fetch("SELECT number FROM schema_migrations ORDER BY number")
    await database.close()
    return [row["number"] for row in rows]


async def change(config: Any, statement: Any, *params: Any) -> None:
    database = await opened(config)
    await database.execute(statement, params)
    await database.close()


async def test_each_step_is_applied_once(database_config: DatabaseConfig) -> None:
    everything = [migration.number for migration in migrations()]
    assert [migration.number for migration in await migrate(database_config)] == everything
    assert await migrate(database_config) == ()
    assert await applied(database_config) == everything


async def test_concurrent_starts_create_one_schema(database_config: DatabaseConfig) -> None:
    databases = [Database(database_config) for _ in range(8)]
    await asyncio.gather(*(database.open() for database in databases))
    for database in databases:
        await database.close()
    assert len(await applied(database_config)) == len(migrations())


@pytest.mark.parametrize("engine", ["postgresql"], indirect=True)
def test_many_processes_that_start_at_once_make_one_schema(database_config: DatabaseConfig) -> None:
    environment = {"DATABASE_URL": database_config.conninfo, "DB_SCHEMA": database_config.schema_name}
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen([sys.executable, "-c", STARTER], env=environment, **pipes) for _ in range(8)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        assert process.stdin is not None
        process.stdin.flush()
    for process in processes:
        process.communicate()
    assert [process.returncode for process in processes] == [0] * 8
    assert len(asyncio.run(applied(database_config))) == len(migrations())


@one_of_each
async def test_a_changed_step_is_refused(database_config: DatabaseConfig) -> None:
    await change(database_config, "UPDATE schema_migrations SET checksum = 'other' WHERE number = 1")
    with pytest.raises(MigrationChanged, match=r"0001.*restore the file"):
        await opened(database_config)
    with pytest.raises(MigrationChanged):
        await migrate(database_config)


NEWER = "INSERT INTO schema_migrations (number, name, checksum, compatible_from) VALUES (%s, 'newer', 'x', %s)"


@one_of_each
async def test_a_newer_schema_that_still_suits_this_release_is_used(database_config: DatabaseConfig) -> None:
    await change(database_config, NEWER, NEWEST + 1, NEWEST)
    assert await applied(database_config) == [migration.number for migration in migrations()] + [NEWEST + 1]


@one_of_each
async def test_a_newer_schema_that_does_not_is_refused(database_config: DatabaseConfig) -> None:
    await change(database_config, NEWER, NEWEST + 1, NEWEST + 1)
    with pytest.raises(UnfitDatabase, match=r"newer release.*upgrade"):
        await opened(database_config)


@one_of_each
async def test_a_step_that_fails_leaves_nothing_behind(
    database_config: DatabaseConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = migrations()[0].__class__(NEWEST + 1, "broken", "CREATE TABLE half (a int); SELECT nothing", "x", 1)
    monkeypatch.setattr("shared_utils.persistence.database.migration.migrations", lambda: (*migrations(), broken))
    with pytest.raises(SchemaMissing, match="nothing"):
        await opened(database_config)
    monkeypatch.undo()
    database = await opened(database_config)
    with pytest.raises(SchemaMissing):
        await database.fetch("SELECT * FROM half")
    await database.close()
    assert await applied(database_config) == [migration.number for migration in migrations()]


directly = pytest.mark.parametrize("engine", DIRECT, indirect=True)  # the pooler knows one account


@pytest.fixture
def humble(database_config: DatabaseConfig, engine_url: str) -> Iterator[Any]:
    """A role that may nothing, and the same database seen by it."""
    role = f"humble_{next(numbers)}"
    parts = urlsplit(engine_url)
    url = urlunsplit(parts._replace(netloc=f"{role}:Bridge%232024@{parts.hostname}:{parts.port}"))
    with psycopg.connect(engine_url, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE USER {} PASSWORD {}").format(sql.Identifier(role), sql.Literal(PASSWORD)))
        yield role, DatabaseConfig.model_validate(database_config.model_dump() | {"db_url": url})
        connection.execute(sql.SQL("DROP OWNED BY {} CASCADE").format(sql.Identifier(role)))
        connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))


@directly
async def test_role_without_rights_gets_the_grant_command(database_config: DatabaseConfig, humble: Any) -> None:
    role, its_config = humble
    with pytest.raises(SchemaMissing, match=f"migrate --grant {role}"):
        await opened(its_config)
    await migrate(database_config)
    with pytest.raises(DatabaseRefused, match=f"migrate --grant {role}"):
        await opened(its_config)


@directly
async def test_a_role_without_rights_works_after_a_grant(database_config: DatabaseConfig, humble: Any) -> None:
    role, its_config = humble
    await migrate(database_config, grant=role)
    database = await opened(its_config)
    assert await database.fetch("SELECT count(*) AS rows FROM agent_sessions") == [{"rows": 0}]
    assert await database.execute("DELETE FROM agent_sessions") == 0
    for forbidden in ("CREATE TABLE mine (a int)", "DELETE FROM schema_migrations", "DROP TABLE agent_sessions"):
        with pytest.raises(DatabaseRefused):
            await database.execute(forbidden)
    # What a later release's migration makes belongs to it as well.
    await change(database_config, "CREATE TABLE later (a int)")
    assert await database.execute("INSERT INTO later VALUES (1)") == 1
    await database.close()
    await migrate(database_config, grant=role)  # again is no error


@one_of_each
async def test_a_role_that_does_not_exist_is_named(database_config: DatabaseConfig) -> None:
    with pytest.raises(DatabaseRefused, match="nobody_here"):
        await migrate(database_config, grant="nobody_here")
