"""The tables of vectors: who makes them, what is sent, and what is said where there is no vector type."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from shared_utils.persistence.database.config import DatabaseConfig
from shared_utils.persistence.database.database import Database
from shared_utils.persistence.database.migration import migrate
from shared_utils.persistence.vectors import (
    DatabasePassageStore,
    Scope,
    VectorSettings,
    VectorTableMissing,
    reembed,
)

pytestmark = pytest.mark.integration

ALL = Scope.everything()
EAST = (1.0, 0.0, 0.0)
only_postgresql = pytest.mark.parametrize("engine", ["postgresql"], indirect=True)


class Same:
    model = "other"

    async def embed(self, texts: Any) -> list[Any]:
        return [list(EAST) for _ in texts]


@pytest.fixture
def opened() -> Iterator[Callable[..., Any]]:
    """Makes stores that are closed with the test."""
    made = []

    async def make(config: Any, **settings: Any) -> Any:
        made.append(DatabasePassageStore(Database(config), VectorSettings.model_validate(settings)))
        return made[-1]

    yield make
    assert all(store._database._pool is None for store in made)


@only_postgresql
async def test_role_without_the_right_to_create_tables_gets_the_command(
    database_config: DatabaseConfig, engine_url: str, passage: Callable[..., Any], opened: Callable[..., Any]
) -> None:
    role = f"reader_{database_config.schema_name}"
    with psycopg.connect(engine_url, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'reader'").format(sql.Identifier(role)))
    await migrate(database_config, grant=role)
    parts = conninfo_to_dict(engine_url)
    url = f"postgresql://{role}:reader@{parts['host']}:{parts['port']}/{parts['dbname']}"
    config = database_config.model_copy(
        update=DatabaseConfig.model_validate({"db_url": url}).model_dump(include={"db_url"})
    )
    poor, owner = await opened(config), await opened(database_config)
    command = "vectors prepare small 3"
    with pytest.raises(VectorTableMissing, match=command):
        await poor.store(passage("p"))
    await owner.prepare("small", 3)
    assert await poor.store(passage("p"))
    with pytest.raises(VectorTableMissing, match="vectors prepare other 3"):
        await poor.begin_reembedding("other", 3)
    await owner.begin_reembedding("other", 3)
    await reembed(poor, Same(), 3)
    with pytest.raises(VectorTableMissing, match="may not drop tables"):
        await poor.drop_retired()
    assert await owner.drop_retired() == 1
    assert len(await poor.search({"other": EAST}, ALL)) == 1
    assert await poor.delete(ALL) == 1
    await poor.close()
    await owner.close()


@only_postgresql
async def test_tables_are_not_made_where_that_is_switched_off(
    database_config: DatabaseConfig, passage: Callable[..., Any], opened: Callable[..., Any]
) -> None:
    await migrate(database_config)
    store = await opened(database_config.model_copy(update={"generate_schemas": False}))
    with pytest.raises(VectorTableMissing, match="vectors prepare small 3"):
        await store.store(passage("p"))
    await store.close()


@only_postgresql
async def test_arrays_can_be_asked_for(
    database_config: DatabaseConfig, passage: Callable[..., Any], opened: Callable[..., Any]
) -> None:
    store = await opened(database_config, arrays=True)
    await store.store(passage("p"))
    [table] = (await store.statistics()).tables
    assert table.kind == "float8"
    assert "no vector type" in table.index.note
    await store.close()


@pytest.mark.parametrize("engine", ["postgresql", "opengauss-6.0"], indirect=True)
async def test_a_thousand_passages_are_one_round_trip(
    database_config: DatabaseConfig, passage: Callable[..., Any]
) -> None:
    sent: list[Any] = []
    database = Database(database_config, observe=sent.append)
    store = DatabasePassageStore(database)
    await store.prepare("small", 3)
    sent.clear()
    batch = [passage(f"p-{number}", (1.0, float(number), 0.0)) for number in range(2000)]
    assert (await store.store_all(batch)).added == 2000
    assert len(sent) == 2
    assert (await store.store_all(batch)).unchanged == 2000
    assert len(sent) == 4
    await store.close()
