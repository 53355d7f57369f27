"""Without this hook openGauss refuses a jsonb for a json column, which PostgreSQL casts by itself."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import Column, Integer, MetaData, Table, func, literal_column, select, update
from sqlalchemy.dialects.postgresql import JSON, JSONB
from sqlalchemy.exc import ProgrammingError

from letta_server.hooks import json_casts, version

pytestmark = pytest.mark.integration

NOTES = Table("notes", MetaData(), Column("id", Integer), Column("plain", JSON), Column("binary", JSONB))


@pytest.fixture
def made(opengauss: Any, engine_on: Any, dialect: Any) -> Any:
    version.install(dialect(7, 0, 0))
    with engine_on(opengauss("7.0")).connect() as connection:
        NOTES.metadata.create_all(connection)
        connection.execute(NOTES.insert(), {"id": 1, "plain": {"a": 1}, "binary": {"b": 2}})
        yield connection


def test_without_the_hook_it_is_refused(made: Any) -> None:
    with pytest.raises(ProgrammingError, match='"plain" is of type json but expression is of type jsonb'):
        made.execute(update(NOTES).values(plain=NOTES.c.binary))


def test_with_it_both_ways_are_stored(made: Any, dialect: Any) -> None:
    json_casts.install(dialect(7, 0, 0))
    made.execute(update(NOTES).values({NOTES.c.plain: NOTES.c.binary, NOTES.c.binary: NOTES.c.plain}))
    assert made.execute(select(NOTES.c.plain, NOTES.c.binary)).one() == ({"b": 2}, {"a": 1})
    made.execute(
        NOTES.insert().values(
            id=2, plain=literal_column("'[]'::jsonb", JSONB), binary=func.json_build_array(type_=JSON)
        )
    )
    assert made.execute(select(NOTES.c.plain).where(NOTES.c.id == 2)).scalar() == []
