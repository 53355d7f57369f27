"""The database layer on every engine: arrival, pool, timeouts, errors."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from local_stack.fixtures import ProxyFactory
from shared_utils.persistence.database.config import DatabaseConfig
from shared_utils.persistence.database.database import Database
from shared_utils.persistence.dialects import OpenGauss, PostgreSQL
from shared_utils.persistence.errors import (
    Conflict,
    DatabaseUnavailable,
    PoolExhausted,
    QueryTimeout,
    SchemaMissing,
    ValueRefused,
)

pytestmark = pytest.mark.integration

_INSERT = """
    INSERT INTO agent_sessions (session_id, user_id, persona, session_data, metadata, created_at, last_updated,
                                changed_at, version, is_active)
    VALUES (%(id)s, %(user)s, 'default', '{}', '{}', now(), now(), now(), 1, true)
"""


@pytest.fixture
def opened() -> Iterator[Callable[..., Any]]:
    """Makes databases that are closed with the test."""
    made = []

    def make(config: Any, **changes: Any) -> Database:
        database = Database(config.model_copy(update=changes))
        made.append(database)
        return database

    yield make
    assert all(database._pool is None for database in made), "a test left a pool open"


async def test_the_dialect_is_reported(database: Database, engine: str) -> None:
    dialect = await database.open()
    assert isinstance(dialect, PostgreSQL if engine.startswith("postgresql") else OpenGauss)


async def test_rows_come_back_as_they_were_sent(database: Database) -> None:
    [row] = await database.fetch("SELECT %(text)s::text AS text, '' AS empty", {"text": "你好，世界 %s {}"})
    assert row == {"text": "你好，世界 %s {}", "empty": ""}


async def test_work_is_done_completely_or_not_at_all(database: Database) -> None:
    async def work(connection: Any) -> None:
        await database.send(connection, _INSERT, {"id": "a", "user": "u"})
        raise LookupError

    with pytest.raises(LookupError):
        await database.run(work)
    assert await database.fetch("SELECT session_id FROM agent_sessions") == []


async def test_a_second_active_session_is_a_conflict(database: Database) -> None:
    await database.execute(_INSERT, {"id": "a", "user": "u"})
    with pytest.raises(Conflict):
        await database.execute(_INSERT, {"id": "b", "user": "u"})
    await database.execute(f"{_INSERT} {{or_ignore}}", {"id": "b", "user": "u"})
    assert await database.fetch("SELECT session_id FROM agent_sessions") == [{"session_id": "a"}]


async def test_a_value_no_text_can_hold_is_refused(database: Database) -> None:
    with pytest.raises(ValueRefused):
        await database.fetch("SELECT %(text)s::text", {"text": "a\0b"})


async def test_a_deadlock_is_tried_again(database: Database) -> None:
    for name in ("a", "b"):
        await database.execute(_INSERT, {"id": name, "user": name})
    both = asyncio.Barrier(2)
    tries = []

    def crossing(first: Any, second: Any) -> Callable[..., Any]:
        async def work(connection: Any) -> None:
            again = first in tries
            tries.append(first)
            for name in (first, second):
                await database.send(
                    connection,
                    "UPDATE agent_sessions SET version = version + 1 WHERE session_id = %(id)s",
                    {"id": name},
                )
                if name == first and not again:
                    await both.wait()

        return work

    await asyncio.gather(database.run(crossing("a", "b")), database.run(crossing("b", "a")))
    rows = await database.fetch("SELECT version FROM agent_sessions")
    assert [row["version"] for row in rows] == [3, 3]
    assert len(tries) > 2  # once more than without a deadlock, or oftener where the retries met again


async def test_a_slow_statement_ends(database_config: DatabaseConfig, opened: Callable[..., Any]) -> None:
    database = opened(database_config, query_timeout=0.3)
    with pytest.raises(QueryTimeout):
        await database.fetch("SELECT pg_sleep(60)")
    assert await database.fetch("SELECT 1 AS one") == [{"one": 1}]
    await database.close()


async def test_full_pool_raises_an_explaining_error(
    database_config: DatabaseConfig, opened: Callable[..., Any]
) -> None:
    database = opened(database_config, max_connections=1, connection_timeout=1.0)
    held = asyncio.Event()
    release = asyncio.Event()

    async def hold(connection: Any) -> Any:
        held.set()
        await release.wait()
        return await database.rows(connection, "SELECT 1 AS one")

    holding = asyncio.create_task(database.run(hold))
    await held.wait()
    with pytest.raises(PoolExhausted, match="DB_MAX_CONNECTIONS"):
        await database.fetch("SELECT 1")
    release.set()
    assert await holding == [{"one": 1}]
    await database.close()


async def test_a_killed_connection_is_replaced(database: Database, engine_url: str) -> None:
    async def kill(connection: Any) -> None:
        [row] = await database.rows(connection, "SELECT pg_backend_pid() AS pid")
        async with await psycopg.AsyncConnection.connect(engine_url, autocommit=True) as other:
            await other.execute("SELECT pg_terminate_backend(%s)", [row["pid"]])
        await database.rows(connection, "SELECT 1")

    with pytest.raises(DatabaseUnavailable):
        await database.run(kill)
    assert await database.fetch("SELECT 1 AS one") == [{"one": 1}]


async def test_an_absent_server_is_reported_and_found_again(
    database_config: DatabaseConfig, tcp_proxy: ProxyFactory
) -> None:
    proxy = tcp_proxy(database_config.conninfo)
    changes = {"connection_timeout": 1.0, "query_timeout": 0.5, "db_url": proxy.url}
    config = DatabaseConfig.model_validate(database_config.model_dump() | changes)
    database = Database(config)
    await database.open()
    proxy.blackhole()
    with pytest.raises(DatabaseUnavailable):
        await database.fetch("SELECT 1")
    with pytest.raises(DatabaseUnavailable):
        await database.fetch("SELECT 1")
    proxy.resume()
    for _ in range(100):
        try:
            assert await database.fetch("SELECT 1 AS one") == [{"one": 1}]
            break
        except DatabaseUnavailable:
            await asyncio.sleep(0.1)
    else:
        pytest.fail("the database was not found again")
    await database.close()


async def test_missing_schema_without_generate_schemas_names_migrate(
    database_config: DatabaseConfig, opened: Callable[..., Any]
) -> None:
    database = opened(database_config, generate_schemas=False)
    with pytest.raises(SchemaMissing, match="migrate`"):
        await database.open()
