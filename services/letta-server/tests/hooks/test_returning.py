"""Without this hook openGauss before 6.0.2 refuses an upsert that returns something."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import Column, MetaData, String, Table
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import NotSupportedError
from sqlalchemy.orm import Session

from letta_server.hooks import returning, upserts, version

pytestmark = pytest.mark.integration

TOOLS = Table(
    "tools",
    MetaData(),
    Column("name", String, primary_key=True),
    Column("id", String),
    Column("source", String),
)


def upsert(*rows: dict[str, str]) -> Any:
    statement = insert(TOOLS).values(rows[0] if len(rows) == 1 else list(rows))
    update = {"source": statement.excluded.source}
    return statement.on_conflict_do_update(index_elements=["name"], set_=update).returning(TOOLS.c.id, TOOLS.c.source)


def row(name: str, number: str, source: str) -> dict[str, str]:
    return {"name": name, "id": number, "source": source}


@pytest.fixture
def session(opengauss: Any, engine_on: Any, dialect: Any) -> Any:
    version.install(dialect(6, 0, 0))
    upserts.install(dialect(6, 0, 0))
    with Session(engine_on(opengauss("6.0"))) as session:
        TOOLS.metadata.create_all(session.connection())
        yield session


def test_without_the_hook_it_is_refused(session: Any) -> None:
    with pytest.raises(NotSupportedError, match="RETURNING clause is not yet supported"):
        session.execute(upsert(row("a", "1", "x")))


def test_with_it_the_row_that_is_there_is_returned(session: Any, dialect: Any) -> None:
    returning.install(dialect(6, 0, 0))
    assert session.execute(upsert(row("a", "1", "x"))).one() == ("1", "x")
    assert session.execute(upsert(row("a", "2", "y"))).one() == ("1", "y")
    several = session.execute(upsert(row("a", "3", "z"), row("b", "4", "z"))).all()
    assert sorted(several) == [("1", "z"), ("4", "z")]


def test_since_602_there_is_nothing_to_do(dialect: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[Any] = []
    monkeypatch.setattr("sqlalchemy.event.listen", lambda *arguments: heard.append(arguments))
    returning.install(dialect(6, 0, 2))
    assert heard == []
