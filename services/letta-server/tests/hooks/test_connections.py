"""Statement cache and ping on Letta's driver: an engine made as Letta makes its own, on both servers."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

pytestmark = [pytest.mark.integration, pytest.mark.letta, pytest.mark.xdist_group("letta-server")]

ENGINE: Final = """
import asyncio, os, uuid
import sqlalchemy as sa
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine
from letta_server.hooks import idle_ping, statement_cache, version
from shared_utils.persistence.dialects import OpenGauss

if os.environ["PRODUCT"] == "opengauss":
    version.install(OpenGauss((7, 0, 0)))
arguments = {
    "prepared_statement_name_func": lambda: f"__asyncpg_{uuid.uuid4()}__",
    "statement_cache_size": 0,
    "prepared_statement_cache_size": 0,
}
url = sa.URL.create(
    "postgresql+asyncpg", os.environ["LETTA_PG_USER"], os.environ["LETTA_PG_PASSWORD"],
    os.environ["LETTA_PG_HOST"], int(os.environ["LETTA_PG_PORT"]), "postgres",
)
engine = create_async_engine(url, connect_args=arguments)

async def value(sql):
    async with engine.connect() as connection:
        return (await connection.execute(text(sql))).scalar()

def run(main):
    asyncio.run(main())
"""
PREPARED: Final = "SELECT count(*) FROM pg_prepared_statements WHERE statement = 'SELECT 1'"
PINGS: Final = """
from sqlalchemy.dialects.postgresql.asyncpg import AsyncAdapt_asyncpg_connection as Connection
pings, ping = [], Connection.ping
Connection.ping = lambda self: (pings.append(1), ping(self))[1]
idle_ping.install()
"""


@pytest.fixture
def run(run_with_letta: Callable[..., Any], server: Any, tmp_path: Path) -> Callable[[str], list[str]]:
    """Runs a program after ``ENGINE``; returns the lines it prints."""
    product = "opengauss" if hasattr(server, "double") else "postgresql"

    def run(program: str) -> list[str]:
        ran = run_with_letta(ENGINE + program, tmp_path, PRODUCT=product, **server.variables("postgres"))
        assert ran.returncode == 0, ran.stderr
        lines: list[str] = ran.stdout.splitlines()
        return lines

    return run


@pytest.mark.parametrize(("pooled", "kept"), [(False, "1"), (True, "0")], ids=["direct", "behind a pooler"])
def test_statements_are_kept_where_no_pooler_stands_between(
    run: Callable[[str], list[str]], pooled: bool, kept: str
) -> None:
    assert run(f"""
statement_cache.install(pooled={pooled})
async def main():
    for _ in range(3):
        await value("SELECT 1")
    print(await value("{PREPARED}"))
run(main)
""") == [kept]


def test_after_a_change_of_a_table_one_statement_fails_and_the_next_works(run: Callable[[str], list[str]]) -> None:
    assert run("""
statement_cache.install(pooled=False)
async def main():
    try:
        async with engine.begin() as other:
            await other.execute(text("CREATE TABLE changing (a int)"))
            await other.execute(text("INSERT INTO changing VALUES (1)"))
        for _ in range(2):
            print(await value("SELECT * FROM changing"))
        # A second engine, as an operator's psql is: this one's caches know nothing of the change.
        operator = create_async_engine(url)
        async with operator.begin() as other:
            await other.execute(text("ALTER TABLE changing ALTER a TYPE text"))
        await operator.dispose()
        try:
            print(await value("SELECT * FROM changing"))
        except sa.exc.DBAPIError as error:
            print(type(error).__name__)
        print(repr(await value("SELECT * FROM changing")))
    finally:
        async with engine.begin() as other:
            await other.execute(text("DROP TABLE changing"))
run(main)
""") == ["1", "1", "NotSupportedError", "'1'"]


def test_busy_connection_is_not_pinged_and_an_idle_one_once(run: Callable[[str], list[str]]) -> None:
    assert run(f"""{PINGS}
async def main():
    for _ in range(20):
        await value("SELECT 1")
    print(len(pings))
    idle_ping._IDLE_SECONDS = 0
    await value("SELECT 1")
    print(len(pings))
run(main)
""") == ["0", "1"]


def test_idle_connection_that_the_server_closed_is_replaced(run: Callable[[str], list[str]]) -> None:
    assert run(f"""{PINGS}
async def main():
    pid = await value("SELECT pg_backend_pid()")
    operator = create_async_engine(url)
    async with operator.connect() as other:
        await other.execute(text(f"SELECT pg_terminate_backend({{pid}})"))
    idle_ping._IDLE_SECONDS = 0
    print(await value("SELECT 1"), await value("SELECT pg_backend_pid()") != pid)
run(main)
""") == ["1 True"]


def test_busy_connection_that_the_server_closed_is_replaced_without_a_ping(run: Callable[[str], list[str]]) -> None:
    assert run(f"""{PINGS}
async def main():
    idle_ping._IDLE_SECONDS = 600
    async with engine.connect() as connection:
        pid = (await connection.execute(text("SELECT pg_backend_pid()"))).scalar()
        driver = (await connection.get_raw_connection()).driver_connection
    operator = create_async_engine(url)
    async with operator.connect() as other:
        await other.execute(text(f"SELECT pg_terminate_backend({{pid}})"))
    async with asyncio.timeout(30):
        while not driver.is_closed():
            await asyncio.sleep(0.01)
    print(await value("SELECT pg_backend_pid()") != pid, len(pings))
run(main)
""") == ["True 0"]


def test_busy_connection_that_breaks_unnoticed_fails_one_statement(run: Callable[[str], list[str]]) -> None:
    assert run(f"""{PINGS}
async def main():
    idle_ping._IDLE_SECONDS = 600
    pid = await value("SELECT pg_backend_pid()")
    try:
        await value(f"SELECT pg_terminate_backend({{pid}})")
    except sa.exc.DBAPIError as error:
        print(error.connection_invalidated)
    print(await value("SELECT 1"))
run(main)
""") == ["True", "1"]


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="a socket option of Linux")
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_connection_whose_server_acknowledges_nothing_is_given_up_within_seconds(
    run: Callable[[str], list[str]], loop: str
) -> None:
    assert run(f"""
import socket
import {loop} as loop
from letta_server.hooks import lost_servers
lost_servers.install()
async def main():
    async with engine.connect() as connection:
        driver = (await connection.get_raw_connection()).driver_connection
        kept = driver._transport.get_extra_info("socket")
        print(kept.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE))
        print(kept.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT))
loop.run(main())
""") == ["1", "20000"]
