"""Without this hook openGauss refuses two of Letta's tables."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import Column, MetaData, String, Table, UniqueConstraint
from sqlalchemy.exc import IntegrityError, ProgrammingError

from letta_server.hooks import nulls, version

pytestmark = pytest.mark.integration


def identities() -> Table:
    return Table(
        "identities",
        MetaData(),
        Column("id", String, primary_key=True),
        Column("key", String, nullable=False),
        Column("project", String),
        UniqueConstraint("key", "project", name="one_key_a_project", postgresql_nulls_not_distinct=True),
    )


@pytest.fixture
def connection(opengauss: Any, engine_on: Any, dialect: Any) -> Any:
    version.install(dialect(7, 0, 0))
    with engine_on(opengauss("7.0")).connect() as connection:
        yield connection


def test_without_the_hook_the_table_is_refused(connection: Any) -> None:
    with pytest.raises(ProgrammingError, match='syntax error at or near "NOT"'):
        identities().create(connection)


def test_with_it_null_equals_null_and_nothing_else(connection: Any, dialect: Any) -> None:
    nulls.install(dialect(7, 0, 0))
    table = identities()
    table.create(connection)
    rows = [("1", "k", None), ("2", "k", "p"), ("3", "k", ""), ("4", "l", None)]
    connection.execute(table.insert(), [dict(zip(("id", "key", "project"), row, strict=True)) for row in rows])
    with pytest.raises(IntegrityError, match="one_key_a_project"):
        connection.execute(table.insert(), {"id": "5", "key": "k", "project": None})
