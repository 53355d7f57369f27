"""SQLAlchemy as it was before, after each test; openGauss with and without a hook."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy
from sqlalchemy.dialects.postgresql.base import PGDialect
from sqlalchemy.dialects.postgresql.dml import OnConflictDoNothing, OnConflictDoUpdate
from sqlalchemy.ext.compiler import deregister

from opengauss_double.plugin import OpenGauss as Database
from shared_utils.persistence.dialects import OpenGauss


@pytest.fixture(autouse=True)
def _untouched_sqlalchemy(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Undo whatever a hook installs: a patched method, a registered compiler, a listener."""
    monkeypatch.setattr(PGDialect, "_get_server_version_info", PGDialect._get_server_version_info)
    heard: list[tuple[Any, ...]] = []
    listen = sqlalchemy.event.listen

    def remember(*arguments: Any, **options: Any) -> None:
        heard.append(arguments)
        listen(*arguments, **options)

    monkeypatch.setattr(sqlalchemy.event, "listen", remember)
    yield
    for arguments in heard:
        sqlalchemy.event.remove(*arguments)
    for construct in (OnConflictDoNothing, OnConflictDoUpdate):
        deregister(construct)


@pytest.fixture
def dialect() -> Callable[..., OpenGauss]:
    return lambda *version: OpenGauss(version)


@pytest.fixture
def engine_on() -> Iterator[Callable[[Database], Any]]:
    """An engine on a database of the double, closed with the test."""
    engines = []

    def make(database: Database) -> Any:
        made = sqlalchemy.create_engine(database.url.replace("postgresql://", "postgresql+psycopg://"))
        engines.append(made)
        return made

    yield make
    for made in engines:
        made.dispose()
