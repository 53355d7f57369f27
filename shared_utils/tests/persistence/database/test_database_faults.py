"""What happens to the pool when something outside goes wrong: callers that leave, sessions cut, passwords changed."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import psycopg
import pytest
from psycopg_pool import AsyncConnectionPool

from local_stack.databases import DIRECT
from local_stack.fixtures import ProxyFactory
from local_stack.postgres import Postgres
from opengauss_double import Accounts, Double, ThreadedDouble
from shared_utils.persistence.database import database as layer
from shared_utils.persistence.database.config import DatabaseConfig
from shared_utils.persistence.database.database import Database
from shared_utils.persistence.errors import DatabaseUnavailable, LoginRefused, PoolExhausted, ValueRefused

pytestmark = pytest.mark.integration

ONE = [{"one": 1}]
PID = "SELECT pg_backend_pid() AS pid"
on_postgresql = pytest.mark.parametrize("engine", ["postgresql"], indirect=True)


@pytest.fixture
async def make(database_config: DatabaseConfig) -> AsyncIterator[Callable[..., Any]]:
    """Makes databases from changed settings, closed with the test."""
    made = []

    def make(**changes: Any) -> Any:
        config = DatabaseConfig.model_validate(database_config.model_dump() | changes)
        made.append(Database(config))
        return made[-1]

    yield make
    for database in made:
        await database.close()


async def answers(database: Database) -> Any:
    """Ask until it answers, for a few seconds."""
    for _ in range(100):
        try:
            return await database.fetch("SELECT 1 AS one")
        except DatabaseUnavailable:
            await asyncio.sleep(0.1)
    return pytest.fail("the database was not found again")


@on_postgresql
async def test_a_caller_that_leaves_while_it_gives_its_connection_back_does_not_take_it_along(
    make: Callable[..., Any],
) -> None:
    database = make(max_connections=1, connection_timeout=2)
    begun, release = asyncio.Event(), asyncio.Event()

    async def hold(connection: Any) -> None:
        begun.set()
        await release.wait()
        await database.rows(connection, "SELECT 1")
        begun.clear()

    holding = asyncio.create_task(database.run(hold, transaction=False))
    await begun.wait()
    async with database._pool._lock:
        release.set()
        while begun.is_set():
            await asyncio.sleep(0)
        for _ in range(5):
            await asyncio.sleep(0)
        holding.cancel()
        with pytest.raises(asyncio.CancelledError):
            await holding
    assert await database.fetch("SELECT 1 AS one") == ONE


@on_postgresql
async def test_callers_that_leave_take_no_connection_with_them(make: Callable[..., Any]) -> None:
    database = make(max_connections=2, min_connections=2, connection_timeout=5)
    await database.open()
    dice = random.Random(7)
    for _ in range(10):
        asking = [asyncio.create_task(database.fetch("SELECT 1 AS one")) for _ in range(8)]
        for task in asking:
            for _ in range(dice.randrange(12)):
                await asyncio.sleep(0)
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)

    both = asyncio.Barrier(2)

    async def meet(connection: Any) -> Any:
        await both.wait()
        return await database.rows(connection, "SELECT 1 AS one")

    assert list(await asyncio.gather(database.run(meet), database.run(meet))) == [ONE, ONE]


@on_postgresql
async def test_cancelled_open_does_not_block_other_callers(make: Callable[..., Any]) -> None:
    database = make(min_connections=5)
    for where in ("pool-", ""):
        opening = asyncio.create_task(database.open())
        while not any(task.get_name().startswith(where) for task in asyncio.all_tasks()):
            await asyncio.sleep(0)
        opening.cancel()
        await asyncio.gather(opening, return_exceptions=True)
    assert await database.fetch("SELECT 1 AS one") == ONE
    await database.close()
    async with asyncio.timeout(10):
        while any(task.get_name().startswith("pool-") for task in asyncio.all_tasks()):
            await asyncio.sleep(0.01)


async def test_no_connection_needs_to_be_kept_open(make: Callable[..., Any]) -> None:
    database = make(min_connections=0, max_connections=2)
    assert await asyncio.gather(*(database.fetch("SELECT 1 AS one") for _ in range(6))) == [ONE] * 6


@on_postgresql
async def test_however_many_wait_each_gets_its_turn(make: Callable[..., Any]) -> None:
    database = make(max_connections=2, connection_timeout=60)
    assert await asyncio.gather(*(database.fetch("SELECT pg_sleep(0.005), 1 AS one") for _ in range(200)))


@on_postgresql
async def test_wait_for_a_connection_times_out(make: Callable[..., Any]) -> None:
    database = make(max_connections=1, connection_timeout=1)
    begun, release = asyncio.Event(), asyncio.Event()

    async def hold(connection: Any) -> Any:
        begun.set()
        await release.wait()
        return await database.rows(connection, "SELECT 1 AS one")

    holding = asyncio.create_task(database.run(hold))
    await begun.wait()
    waiting = [asyncio.create_task(database.fetch("SELECT 1 AS one")) for _ in range(9)]
    done, _ = await asyncio.wait(waiting, timeout=30)
    for refused in done:
        with pytest.raises(PoolExhausted, match=r"DB_CONNECTION_TIMEOUT.*DB_MAX_CONNECTIONS"):
            refused.result()
    assert len(done) == 9
    release.set()
    assert await holding == ONE


@pytest.mark.parametrize("engine", DIRECT, indirect=True)
async def test_dead_pool_connection_is_detected_before_use(make: Callable[..., Any], engine_url: str) -> None:
    database = make(min_connections=1, max_connections=1)
    [row] = await database.fetch(PID)
    with psycopg.connect(engine_url, autocommit=True) as other:
        other.execute("SELECT pg_terminate_backend(%s)", [row["pid"]])
        while other.execute("SELECT 1 FROM pg_stat_activity WHERE pid = %s", [row["pid"]]).fetchall():
            await asyncio.sleep(0.01)
    assert await database.fetch("SELECT 1 AS one") == ONE


@on_postgresql
async def test_however_many_connections_died_in_the_pool_the_next_question_is_answered(
    make: Callable[..., Any], postgres_server: Postgres
) -> None:
    database = make(min_connections=5, max_connections=5, connection_timeout=5)
    await asyncio.gather(*(database.fetch("SELECT pg_sleep(0.1), 1 AS one") for _ in range(5)))
    with psycopg.connect(postgres_server.url(), autocommit=True) as other:
        ended = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'letta-bridge'"
        ending = other.execute(ended).fetchone()
        assert ending is not None
        assert ending >= (5,)
        while other.execute("SELECT 1 FROM pg_stat_activity WHERE application_name = 'letta-bridge'").fetchall():
            await asyncio.sleep(0.01)
    assert await asyncio.gather(*(database.fetch("SELECT 1 AS one") for _ in range(5))) == [ONE] * 5


async def test_a_connection_just_used_is_not_asked_whether_it_is_there(
    make: Callable[..., Any], monkeypatch: Any
) -> None:
    database = make(min_connections=1, max_connections=1)
    await database.fetch(PID)
    asked = []
    real = AsyncConnectionPool.check_connection

    async def check(connection: Any) -> None:
        asked.append(connection)
        await real(connection)

    monkeypatch.setattr(AsyncConnectionPool, "check_connection", check)
    await database.fetch(PID)
    assert not asked
    monkeypatch.setattr(layer, "_TRUSTED_IDLE_SECONDS", 0.0)
    await database.fetch(PID)
    assert asked


async def test_opengauss_is_asked_to_leave_idle_sessions_alone(opengauss: Any) -> None:
    made = opengauss("6.0", session_timeout="1s")
    database = Database(DatabaseConfig.model_validate({"db_url": made.url, "max_connections": 1}))
    before = await database.fetch(PID)
    with psycopg.connect(made.url, autocommit=True) as other:
        await asyncio.sleep(1.5)
        with pytest.raises(psycopg.OperationalError):
            other.execute("SELECT 1")  # who did not ask for it was cut
    assert await database.fetch(PID) == before
    await database.close()


@on_postgresql
async def test_a_restarted_server_is_found_again(
    make: Callable[..., Any], database_config: DatabaseConfig, tcp_proxy: ProxyFactory
) -> None:
    proxy = tcp_proxy(database_config.conninfo)
    database = make(db_url=proxy.url, connection_timeout=2)
    await database.open()
    proxy.refuse()
    with pytest.raises(DatabaseUnavailable):
        await database.fetch("SELECT 1 AS one")
    assert isinstance(database.last_error, DatabaseUnavailable)
    proxy.resume()
    assert await answers(database) == ONE
    assert database.last_error is None


@on_postgresql
async def test_concurrent_calls_fail_at_once_while_one_probes_the_database(
    make: Callable[..., Any], database_config: DatabaseConfig, tcp_proxy: ProxyFactory
) -> None:
    proxy = tcp_proxy(database_config.conninfo)
    database = make(db_url=proxy.url, connection_timeout=30)
    proxy.refuse()
    with pytest.raises(DatabaseUnavailable):
        await database.open()
    proxy.resume()
    proxy.blackhole()
    database._look_again = 0.0
    looking = asyncio.create_task(database.open())
    await asyncio.to_thread(proxy.wait_for, lambda proxy: proxy.accepted > 0)
    async with asyncio.timeout(10):
        with pytest.raises(DatabaseUnavailable):
            await database.fetch("SELECT 1 AS one")
    proxy.resume()
    await looking


@pytest.fixture
def accounts(postgres_server: Postgres) -> Iterator[Any]:
    """The accounts of a double, and the settings to log in there."""
    accounts = Accounts()
    accounts.set_password("postgres", "Right#2024")
    with ThreadedDouble(Double(postgres_server.url(), accounts=accounts)) as threaded:
        threaded.call(threaded.double.create_database("rotated"))
        yield accounts, threaded.double.url("rotated")
        threaded.call(threaded.double.drop_database("rotated"))


async def test_a_changed_password_costs_few_tries(accounts: Any) -> None:
    accounts, url = accounts
    account = accounts.by_name["postgres"]
    config = DatabaseConfig.model_validate({"db_url": url, "connection_timeout": 20, "max_connections": 3})
    database = Database(config)
    await database.open()
    account.password = "Changed#2024"
    # The connection that is open goes on to serve, and asking for more of them does not lock the account.
    for _ in range(3):
        assert await asyncio.gather(*(database.fetch("SELECT 1 AS one") for _ in range(10))) == [ONE] * 10
    assert account.failures == 1
    await database.close()


async def test_a_lost_connection_after_a_changed_password_is_a_refused_login(accounts: Any) -> None:
    accounts, url = accounts
    account = accounts.by_name["postgres"]
    database = Database(DatabaseConfig.model_validate({"db_url": url, "connection_timeout": 3}))
    [row] = await database.fetch(PID)
    account.password = "Changed#2024"

    async def crowd(connection: Any) -> Any:
        with pytest.raises(PoolExhausted):  # which is no reason to give up the connection that works
            await database.fetch("SELECT 1")
        return await database.rows(connection, "SELECT 1 AS one")

    assert await database.run(crowd) == ONE
    assert await database.fetch("SELECT 1 AS one") == ONE

    async def lose(connection: Any) -> None:
        await database.rows(connection, f"SELECT pg_terminate_backend({row['pid']})")

    with pytest.raises(DatabaseUnavailable):
        await database.run(lose)
    for _ in range(5):
        with pytest.raises(LoginRefused, match="check user, password"):
            await database.fetch("SELECT 1")
    assert account.failures <= 3

    account.password = "Right#2024"
    database._look_again = 0.0
    assert await database.fetch("SELECT 1 AS one") == ONE
    await database.close()


async def test_a_wrong_password_is_tried_ever_more_seldom(accounts: Any) -> None:
    accounts, url = accounts
    database = Database(DatabaseConfig.model_validate({"db_url": url.replace("Right", "Wrong")}))
    pauses = []
    for _ in range(12):
        now = time.monotonic()
        accounts.by_name["postgres"].failures = 0
        database._look_again = 0.0
        with pytest.raises(LoginRefused):
            await database.open()
        pauses.append(round(database._look_again - now))
    assert pauses[:4] == [1, 2, 4, 8]
    assert pauses[-1] == 300


@on_postgresql
async def test_half_a_surrogate_pair_is_refused(make: Callable[..., Any]) -> None:
    with pytest.raises(ValueRefused):
        await make().fetch("SELECT %s::text", ["\ud800"])
