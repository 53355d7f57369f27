"""Without this hook openGauss refuses each of Letta's upserts: ON CONFLICT is a syntax error there."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import Column, Index, Integer, MetaData, String, Table, UniqueConstraint, func, select
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import ProgrammingError

from letta_server.hooks import upserts, version

# Like Letta's tools: a random id, a key of names, and one with a column more.
TOOLS = Table(
    "tools",
    MetaData(),
    Column("id", String, primary_key=True),
    Column("name", String),
    Column("organization", String),
    Column("project", String),
    Column("source", String),
    Column("version", Integer),
    UniqueConstraint("name", "organization"),
)
Index("tools_project", TOOLS.c.organization, func.coalesce(TOOLS.c.project, "none"), TOOLS.c.name, unique=True)
ROW = {"id": "tool-1", "name": "search", "organization": "o", "project": "p", "source": "a", "version": 1}


def nothing() -> Any:
    return insert(TOOLS).values(**ROW).on_conflict_do_nothing(index_elements=["name", "organization"])


def everything(**values: Any) -> Any:
    """As Letta writes it: all columns, those of the keys too."""
    statement = insert(TOOLS).values(**(ROW | values))
    update = {column.name: statement.excluded[column.name] for column in TOOLS.columns if column.name != "id"}
    return statement.on_conflict_do_update(index_elements=["name", "organization"], set_=update)


def words(statement: Any) -> str:
    written = str(statement.compile(dialect=postgresql.dialect()))  # type: ignore[no-untyped-call]
    return " ".join(re.sub(r"::[A-Z]+", "", written).split())


def test_do_nothing_becomes_update_nothing(dialect: Any) -> None:
    assert "ON CONFLICT" in words(nothing())
    upserts.install(dialect(7, 0, 0))
    assert words(nothing()).endswith("ON DUPLICATE KEY UPDATE NOTHING")


def test_do_update_sets_no_column_of_a_key_not_even_of_one_inside_an_expression(dialect: Any) -> None:
    upserts.install(dialect(7, 0, 0))
    assert words(everything()).endswith("ON DUPLICATE KEY UPDATE source = excluded.source, version = excluded.version")


def test_values_conditions_and_returning_stay(dialect: Any) -> None:
    upserts.install(dialect(7, 0, 0))
    statement: Any = insert(TOOLS).values(**ROW)
    statement = statement.on_conflict_do_update(
        index_elements=[TOOLS.c.id], set_={"source": "b", TOOLS.c.version: func.now()}, where=TOOLS.c.version < 5
    ).returning(TOOLS.c.id)
    tail = words(statement).partition("UPDATE ")[2]
    assert tail == "source = %(param_1)s, version = now() WHERE tools.version < %(version_1)s RETURNING tools.id"


def test_where_only_keys_are_set_nothing_is(dialect: Any) -> None:
    upserts.install(dialect(7, 0, 0))
    statement = insert(TOOLS).values(**ROW).on_conflict_do_update(index_elements=["id"], set_={"name": "x"})
    assert words(statement).endswith("ON DUPLICATE KEY UPDATE NOTHING")


@pytest.fixture
def rows(opengauss: Any, engine_on: Any, dialect: Any) -> Iterator[Callable[..., list[Any]]]:
    """Execute statements on an empty table of openGauss; the rows that are there then."""
    version.install(dialect(6, 0, 2))
    with engine_on(opengauss("6.0.2")).connect() as connection:
        TOOLS.metadata.create_all(connection)

        def execute(*statements: Any) -> list[Any]:
            for statement in statements:
                connection.execute(statement)
            return [tuple(row) for row in connection.execute(select(TOOLS))]

        yield execute


@pytest.mark.integration
def test_without_the_hook_opengauss_refuses_both(rows: Callable[..., list[Any]]) -> None:
    with pytest.raises(ProgrammingError, match='syntax error at or near "CONFLICT"'):
        rows(nothing())


@pytest.mark.integration
def test_with_it_opengauss_takes_both(rows: Callable[..., list[Any]], dialect: Any) -> None:
    upserts.install(dialect(6, 0, 2))
    assert rows(nothing(), nothing()) == [("tool-1", "search", "o", "p", "a", 1)]
    assert rows(everything(source="b", version=2)) == [("tool-1", "search", "o", "p", "b", 2)]
