"""SQLAlchemy's start-up query, and its reflection at the version it has to be told."""

from __future__ import annotations

from typing import Any

import pytest

from opengauss_double.plugin import OpenGauss

sqlalchemy = pytest.importorskip("sqlalchemy")  # the extra `drivers`
pytestmark = pytest.mark.integration


def _engine(gauss: OpenGauss) -> Any:
    return sqlalchemy.create_engine(gauss.url.replace("postgresql://", "postgresql+psycopg://"))


def test_sqlalchemy_cannot_read_the_version(gauss: OpenGauss) -> None:
    with pytest.raises(AssertionError, match=r"Could not determine version from string '\(openGauss"):
        _engine(gauss).connect()


def test_sqlalchemy_with_the_version_given(gauss: OpenGauss, monkeypatch: pytest.MonkeyPatch) -> None:
    dialect = pytest.importorskip("sqlalchemy.dialects.postgresql.base").PGDialect
    monkeypatch.setattr(dialect, "_get_server_version_info", lambda *_: (9, 2, 4))
    engine = _engine(gauss)
    table = sqlalchemy.Table(
        "made_by_sqlalchemy",
        sqlalchemy.MetaData(),
        sqlalchemy.Column("id", sqlalchemy.Integer, primary_key=True),
        sqlalchemy.Column("name", sqlalchemy.String(20), index=True),
    )
    try:
        with engine.begin() as connection:
            table.metadata.create_all(connection)
            connection.execute(table.insert(), [{"name": "a"}, {"name": "b"}])
            assert connection.execute(sqlalchemy.select(table.c.name).order_by(table.c.id)).scalars().all() == [
                "a",
                "b",
            ]
            columns = sqlalchemy.inspect(connection).get_columns("made_by_sqlalchemy")
            assert [column["name"] for column in columns] == ["id", "name"]
            table.metadata.drop_all(connection)
    finally:
        engine.dispose()
