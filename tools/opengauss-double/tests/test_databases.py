"""Databases made through a double are whole for everybody, as openGauss's are."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from opengauss_double.databases import Databases
from opengauss_double.plugin import OpenGauss

pytestmark = pytest.mark.integration

_NAME = "made_slowly"
_CREATE = f"CREATE DATABASE {_NAME} DBCOMPATIBILITY 'PG'"


@pytest.fixture
def preparing(monkeypatch: pytest.MonkeyPatch) -> tuple[threading.Event, threading.Event]:
    """Set when a new database is about to be prepared, and to be set so that it is."""
    begun, may_go_on = threading.Event(), threading.Event()
    prepare = Databases.prepare

    async def slowly(self: Databases, name: str, mode: str | None) -> None:
        begun.set()
        await asyncio.to_thread(may_go_on.wait, 60)
        await prepare(self, name, mode)

    monkeypatch.setattr(Databases, "prepare", slowly)
    return begun, may_go_on


def by_simple_query(connection: psycopg.Connection[tuple[object, ...]]) -> None:
    connection.execute(_CREATE)


def by_extended_query(connection: psycopg.Connection[tuple[object, ...]]) -> None:
    connection.execute(_CREATE, prepare=True)


@pytest.mark.parametrize("create", [by_simple_query, by_extended_query])
def test_who_enters_a_database_in_the_making_waits_until_it_is_whole(
    gauss: OpenGauss,
    preparing: tuple[threading.Event, threading.Event],
    create: Callable[[psycopg.Connection[tuple[object, ...]]], None],
) -> None:
    begun, may_go_on = preparing
    with (
        psycopg.connect(gauss.maintenance_url, autocommit=True) as maker,
        psycopg.connect(gauss.maintenance_url, autocommit=True) as other,
        ThreadPoolExecutor() as threads,
    ):
        try:
            making = threads.submit(create, maker)
            assert begun.wait(60)
            entering = threads.submit(lambda: psycopg.connect(gauss.double.url(_NAME), connect_timeout=60))
            with pytest.raises(psycopg.errors.DuplicateDatabase):
                other.execute(_CREATE)
            assert not entering.done()
            may_go_on.set()
            with entering.result(60) as entered:
                compatibility = "SELECT datcompatibility FROM pg_database WHERE datname = current_database()"
                assert entered.execute(compatibility).fetchone() == ("PG",)
            making.result(60)
        finally:
            may_go_on.set()
            maker.execute(f"DROP DATABASE IF EXISTS {_NAME}")


def test_statement_that_creates_no_database_blocks_no_client(gauss: OpenGauss) -> None:
    with psycopg.connect(gauss.maintenance_url, autocommit=True) as connection:
        with pytest.raises(psycopg.errors.DuplicateDatabase):
            connection.execute(f"CREATE DATABASE {gauss.database}")
        with psycopg.connect(gauss.url, connect_timeout=60) as entered:
            assert entered.execute("SELECT 1").fetchone() == (1,)
