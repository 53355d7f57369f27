"""The doctor's look at the database: on a real PostgreSQL and on openGauss's double."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from psycopg import sql

from letta_bridge.doctor import Level, database
from letta_bridge.settings import BridgeSettings
from local_stack.databases import bouncing
from local_stack.postgres import Postgres
from opengauss_double import Accounts
from shared_utils.persistence.database.database import Database
from shared_utils.persistence.database.migration import migrate
from shared_utils.persistence.table_copy import mend_vector_tables
from shared_utils.persistence.vectors import DatabasePassageStore, VectorSettings

pytestmark = pytest.mark.integration


def settings_for(url: str, **changes: bool | int) -> BridgeSettings:
    return BridgeSettings.model_validate({"database": {"db_url": url, **changes}})


async def report(settings: BridgeSettings) -> dict[str, tuple[Level, str]]:
    """Subject → (level, text)."""
    return {
        finding.subject: (finding.level, f"{finding.says}; {finding.advice}")
        async for finding in database.examine(settings)
    }


@pytest.fixture(params=["postgresql", "5.0", "7.0"])
def url(request: Any) -> Any:
    """An empty database."""
    if request.param == "postgresql":
        return request.getfixturevalue("postgres_url")
    return request.getfixturevalue("opengauss")(request.param).url


@pytest.fixture
def clerk(postgres_url: str) -> Iterator[str]:
    """A role that may only log in, and its URL."""
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("CREATE ROLE clerk LOGIN PASSWORD 'clerk'")
        yield f"postgresql://clerk:clerk@{postgres_url.rpartition('@')[2]}"
        connection.execute(sql.SQL("DROP OWNED BY clerk; DROP ROLE clerk"))


async def test_without_a_database_nothing_is_wrong() -> None:
    found = await report(BridgeSettings())
    assert list(found) == ["database"]
    assert found["database"][0] is Level.OK
    assert "DATABASE_URL" in found["database"][1]


async def test_a_fit_database_has_nothing_wrong(url: str) -> None:
    settings = settings_for(url)
    await migrate(settings.database)
    found = await report(settings)
    assert {subject: level for subject, (level, _) in found.items()} == dict.fromkeys(
        ("database", "database.schema", "database.rights", "database.connections"), Level.OK
    )
    assert found["database"][1].startswith(("PostgreSQL 1", "openGauss 5.0.0", "openGauss 7.0.0"))


async def test_a_list_of_vectors_without_its_tables_is_named_and_migrate_mends_it(url: str) -> None:
    """What a restore by an earlier release left."""
    settings = settings_for(url)
    store = DatabasePassageStore(Database(settings.database), VectorSettings())
    await store.prepare("small", 3)
    await store.close()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("DROP TABLE letta_bridge.passage_embeddings_1")
    found = await report(settings)
    assert found["database.vectors"][0] is Level.FAIL
    assert "passage_embeddings_1 are missing; run letta-bridge migrate" in found["database.vectors"][1]
    assert await mend_vector_tables(settings.database) == ["passage_embeddings_1"]
    assert "database.vectors" not in await report(settings)


@pytest.mark.parametrize(("generate", "level"), [(True, Level.WARN), (False, Level.FAIL)])
async def test_missing_migrations_are_named(postgres_url: str, generate: bool, level: Level) -> None:
    found = await report(settings_for(postgres_url, generate_schemas=generate))
    assert found["database.schema"][0] is level
    assert "0001 sessions" in found["database.schema"][1]
    assert "letta-bridge migrate" in found["database.schema"][1]


async def test_doctor_creates_no_schema(postgres_url: str) -> None:
    await report(settings_for(postgres_url))
    with psycopg.connect(postgres_url) as connection:
        assert connection.execute("SELECT 1 FROM pg_namespace WHERE nspname = 'letta_bridge'").fetchone() is None


@pytest.mark.parametrize(("generate", "level"), [(True, Level.WARN), (False, Level.FAIL)])
async def test_a_missing_database_is_named(postgres_server: Postgres, generate: bool, level: Level) -> None:
    found = await report(settings_for(postgres_server.url("absent"), generate_schemas=generate))
    assert found["database"][0] is level
    assert "does not exist" in found["database"][1]


async def test_a_server_that_is_unavailable_is_named() -> None:
    found = await report(settings_for("postgresql://bo:hunter2@127.0.0.1:1/db"))
    assert found["database"][0] is Level.FAIL
    assert "is away" in found["database"][1]


async def test_mode_a_is_named_with_the_statement_that_helps(opengauss: Callable[..., Any]) -> None:
    found = await report(settings_for(opengauss("6.0", mode="A").url))
    assert found["database"][0] is Level.FAIL
    assert "mode A" in found["database"][1]
    assert "DBCOMPATIBILITY 'PG'" in found["database"][1]


async def test_an_account_of_the_wrong_kind_is_named_with_each_step(opengauss: Callable[..., Any]) -> None:
    accounts = Accounts(password_encryption_type=2)
    accounts.set_password("postgres", "Right#2024")
    found = await report(settings_for(opengauss("6.0", accounts=accounts).url))
    assert found["database"][0] is Level.FAIL
    assert "password_encryption_type=1" in found["database"][1]


async def test_a_changed_migration_and_a_newer_schema_are_named(postgres_url: str) -> None:
    settings = settings_for(postgres_url)
    await migrate(settings.database)
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("UPDATE letta_bridge.schema_migrations SET compatible_from = 9999 WHERE number = 1")
        found = await report(settings)
        assert found["database.schema"][0] is Level.FAIL
        assert "newer release" in found["database.schema"][1]
        connection.execute("UPDATE letta_bridge.schema_migrations SET checksum = 'x' WHERE number = 1")
        assert "0001" in (await report(settings))["database.schema"][1]


async def test_missing_rights_are_named(postgres_url: str, clerk: str) -> None:
    found = await report(settings_for(clerk))
    assert found["database.rights"][0] is Level.FAIL
    assert "may not create a schema" in found["database.rights"][1]
    await migrate(settings_for(postgres_url).database)
    assert "migrate --grant clerk" in (await report(settings_for(clerk)))["database.rights"][1]
    await migrate(settings_for(postgres_url).database, grant="clerk")
    assert (await report(settings_for(clerk)))["database.rights"][0] is Level.OK
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("REVOKE UPDATE ON letta_bridge.agent_sessions FROM clerk")
    found = await report(settings_for(clerk))
    assert found["database.rights"][0] is Level.FAIL
    assert "agent_sessions" in found["database.rights"][1]


async def test_too_few_free_connections_are_named(postgres_url: str) -> None:
    found = await report(settings_for(postgres_url, max_connections=1000))
    assert found["database.connections"][0] is Level.WARN
    assert "DB_MAX_CONNECTIONS" in found["database.connections"][1]


async def test_text_in_the_clear_is_named(postgres_url: str) -> None:
    port = postgres_url.rpartition(":")[2].partition("/")[0]
    far = postgres_url.replace(f"127.0.0.1:{port}", f"db.example:{port}") + "?hostaddr=127.0.0.1"
    found = await report(settings_for(far))
    assert found["database.tls"][0] is Level.WARN
    assert "db.example" in found["database.tls"][1]


@pytest.mark.parametrize("mode", ["session", "transaction"])
async def test_doctor_names_a_pooler_without_a_warning(postgres_url: Any, tmp_path: Any, mode: Any) -> None:
    with bouncing(postgres_url, tmp_path / "pgbouncer", mode) as pooler:
        found = await report(settings_for(pooler.url()))
    assert found["database.pooler"][0] is Level.OK
    assert "pooler" in found["database.pooler"][1]
    assert "database.pooler" not in await report(settings_for(postgres_url))
