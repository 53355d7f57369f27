"""One double and one database per profile for all tests here; each test's changes are rolled back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from local_stack.postgres import Postgres
from opengauss_double import PROFILES
from opengauss_double.plugin import OpenGauss, running

Answer = tuple[str, str]
Connection = psycopg.Connection[Any]


@pytest.fixture(scope="session", params=PROFILES)
def gauss(request: pytest.FixtureRequest, postgres_server: Postgres) -> Iterator[OpenGauss]:
    with running(postgres_server.url(), request.param) as made:
        with psycopg.connect(made.url) as connection:
            connection.execute("CREATE TABLE sample (id int PRIMARY KEY, name text)")
            connection.execute("CREATE TYPE mood AS ENUM ('glad')")
        yield made


@pytest.fixture
def profile(gauss: OpenGauss) -> str:
    return gauss.double.profile.name


@pytest.fixture
def connection(gauss: OpenGauss) -> Iterator[Connection]:
    with psycopg.connect(gauss.url) as opened:
        yield opened
        opened.rollback()


@pytest.fixture
def refused(connection: Connection) -> Callable[..., Answer]:
    """`refused(statement, *values)`: SQLSTATE and message, empty where it succeeds. Changes nothing."""

    def run(statement: str, *values: object) -> Answer:
        connection.rollback()
        try:
            connection.execute(statement.encode(), values or None)
        except psycopg.Error as error:
            return error.sqlstate or "", error.diag.message_primary or ""
        finally:
            connection.rollback()
        return "", ""

    return run
