"""Behind a real PgBouncer: two programs in one database, what leaks between its clients, and servers that go away.

The contract suites run on the engines ``…/transaction`` as well; here is what only a pooler brings about.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import psycopg
import pytest

from local_stack.databases import bouncing
from local_stack.fixtures import ProxyFactory
from local_stack.postgres import Postgres
from opengauss_double.plugin import running
from shared_utils.persistence.checkpoints.database_store import DatabaseCheckpoints
from shared_utils.persistence.checkpoints.port import Blob, Checkpoint
from shared_utils.persistence.conversations.service import ConversationService, NewMessage
from shared_utils.persistence.database.config import DatabaseConfig
from shared_utils.persistence.database.database import Database
from shared_utils.persistence.errors import DatabaseUnavailable, UnfitDatabase
from shared_utils.persistence.sessions.database_store import DatabaseSessionStore
from shared_utils.persistence.sessions.failover_store import FailoverSessionStore
from shared_utils.persistence.vectors import DatabasePassageStore, Passage, Scope, VectorSettings

pytestmark = pytest.mark.integration
numbers = count(1)
ALL = Scope.everything()


@pytest.fixture(params=["postgresql", "opengauss-6.0.2"])
def behind(request: pytest.FixtureRequest, postgres_server: Postgres) -> Iterator[Any]:
    """The URL of a database, without the pooler."""
    product, _, profile = request.param.partition("-")
    if product == "opengauss":
        with running(postgres_server.url(), profile) as gauss:
            yield gauss.url
        return
    yield request.getfixturevalue("postgres_url")


@pytest.fixture(params=["session", "transaction"])
def pooler(request: pytest.FixtureRequest, behind: Any, tmp_path: Path) -> Iterator[Any]:
    """A PgBouncer in front of it, with fewer sessions than it has clients."""
    with bouncing(behind, tmp_path / "pgbouncer", request.param, default_pool_size="3") as made:
        yield made


@pytest.fixture
async def make(pooler: Any) -> AsyncIterator[Callable[..., Any]]:
    """Makes databases through the pooler, each with a schema of its own, closed with the test."""
    made = []

    def make(**changes: Any) -> Any:
        schema = f"program_{next(numbers)}"
        settings = {"db_url": pooler.url(), "schema_name": schema, "max_connections": 5, "query_timeout": 10.0}
        if pooler.mode == "session":
            settings["max_connections"] = 1  # each holds a session of the server's for as long as it lives
        made.append(Database(DatabaseConfig.model_validate(settings | changes)))
        return made[-1]

    yield make
    for database in made:
        await database.close()


def passage(passage_id: Any, *numbers: Any) -> Passage:
    return Passage(passage_id=passage_id, model="small", embedding=numbers, text=passage_id, agent_id="ada")


async def use(database: Database, tag: str) -> None:
    """Every kind of work, at once; what must be found again afterwards."""
    sessions, checkpoints = DatabaseSessionStore(database), DatabaseCheckpoints(database)
    conversations, passages = ConversationService(database), DatabasePassageStore(database)

    async def one(number: int) -> None:
        name = f"{tag}-{number}"
        session = await sessions.reserve(name, "default")
        await sessions.save(replace(session, agent_id=f"agent-{name}", session_data={"none": None}))
        await sessions.touch([session.session_id], messages={session.session_id: 1})
        data = bytes(range(256))
        await checkpoints.put(
            Checkpoint(name, Blob("raw", data), versions={"v": "1"}, values={"v": Blob("raw", data[::-1])})
        )
        found = await checkpoints.get(name)
        assert found is not None
        assert (found.state.data, found.values["v"].data) == (data, data[::-1])
        conversation = await conversations.create(name, user_id=name)
        await conversations.add_messages(conversation.id, [NewMessage("user", name), NewMessage("assistant", name)])
        await passages.store(passage(name, 1.0, number / 10, 0.0))

    await passages.prepare("small", 3)
    await asyncio.gather(*(one(number) for number in range(10)))


async def is_whole(database: Database, tag: str) -> None:
    """Whether it holds all of its own, and nothing of anybody else's."""
    users = {f"{tag}-{number}" for number in range(10)}
    tables = {"agent_sessions": "user_id", "agent_conversations": "user_id", "agent_checkpoints": "thread_id"}
    for table, column in tables.items():
        rows = await database.fetch(f"SELECT {column} AS name FROM {{schema}}.{table}")  # noqa: S608
        assert {row["name"] for row in rows} == users, table
        assert len(rows) == len(users), table
    [row] = await database.fetch("SELECT count(*) AS rows FROM {schema}.agent_messages")
    assert row == {"rows": 20}
    found = await DatabasePassageStore(database).search({"small": (1.0, 0.0, 0.0)}, ALL, k=20)
    assert {match.passage.passage_id for match in found} == users
    [row] = await database.fetch("SELECT count(*) AS rows FROM {schema}.agent_sessions WHERE agent_id IS NULL")
    assert row == {"rows": 0}


async def test_two_programs_with_schemas_of_their_own_keep_apart(make: Callable[..., Any]) -> None:
    one, other = make(), make()
    await asyncio.gather(use(one, "one"), use(other, "other"))
    await is_whole(one, "one")
    await is_whole(other, "other")


async def test_two_programs_in_one_schema_make_it_once_and_share_it(make: Callable[..., Any]) -> None:
    one = make()
    other = make(schema_name=one.config.schema_name)
    await asyncio.gather(one.open(), other.open())
    await asyncio.gather(use(one, "shared"), DatabaseSessionStore(other).check())
    await is_whole(other, "shared")


async def test_session_state_of_another_pooler_client_has_no_effect(make: Callable[..., Any], pooler: Any) -> None:
    """Its former sessions may be ours next: openGauss has no DISCARD ALL, and transaction mode sends none."""
    first = make()
    await use(first, "before")
    for _ in range(3):
        with psycopg.connect(pooler.url(), autocommit=True) as stranger:
            for statement in HOSTILE:
                stranger.execute(statement.encode())
    second = make(schema_name=first.config.schema_name)
    await is_whole(second, "before")
    third = make()
    await use(third, "after")
    await is_whole(third, "after")


HOSTILE = (
    "SET search_path TO nowhere",
    "SET array_nulls TO off",
    "SET standard_conforming_strings TO off",
    "SET DateStyle TO 'German'",
    "SET extra_float_digits TO -15",
    "SET default_transaction_isolation TO 'serializable'",
    "SET statement_timeout TO '1h'",
)


async def test_nothing_of_ours_is_left_behind(make: Callable[..., Any], pooler: Any) -> None:
    names = ("search_path", "statement_timeout", "TimeZone", "extra_float_digits", "array_nulls")
    question = ", ".join(f"current_setting('{name}') AS {name}" for name in names)
    with psycopg.connect(pooler.url(), autocommit=True) as stranger:
        before = stranger.execute(f"SELECT {question}").fetchall()
    database = make()
    await use(database, "tidy")
    await database.close()
    with psycopg.connect(pooler.url(), autocommit=True) as stranger:
        assert stranger.execute(f"SELECT {question}").fetchall() == before
        held = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
        assert stranger.execute(held).fetchall() == [(0,)]


async def test_an_index_is_built_and_used(make: Callable[..., Any]) -> None:
    database = make(max_connections=2)
    settings = VectorSettings.model_validate({"exact_below": 0, "index": {"above": 0}})
    store = DatabasePassageStore(database, settings)
    await store.store_all([passage(f"p-{number:03}", 1.0, number / 100, 0.5) for number in range(100)])
    assert [state.state for state in await store.build_index()] == ["ready"]
    assert [state.state for state in await store.build_index(rebuild=True)] == ["ready"]
    found = await store.search({"small": (1.0, 0.5, 0.5)}, ALL, k=5)
    assert [match.passage.passage_id for match in found][:1] == ["p-050"]


@pytest.mark.parametrize("behind", ["postgresql"], indirect=True)
async def test_sessions_whose_server_ended_are_replaced(make: Callable[..., Any], postgres_server: Postgres) -> None:
    database = make()
    store = DatabaseSessionStore(database)
    await store.reserve("ada", "default")
    with psycopg.connect(postgres_server.url(), autocommit=True) as direct:
        ended = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'letta-bridge'"
        direct.execute(ended)
    again = await store.find("ada", "default")
    assert again is not None
    assert again.user_id == "ada"


@pytest.fixture(params=["session", "transaction"])
def away(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    """A server of its own to stop, and a pooler in front of it."""
    server = Postgres(tmp_path / "server", durable=False)
    server.start()
    server.wait_ready()
    try:
        with bouncing(server.url(), tmp_path / "pgbouncer", request.param) as pooler:
            yield server, pooler
    finally:
        server.kill()


async def test_an_outage_behind_the_pooler_is_bridged_and_ends(away: Any, tmp_path: Path) -> None:
    server, pooler = away
    settings = {"db_url": pooler.url(), "connection_timeout": 1.0, "query_timeout": 1.0, "max_connections": 2}
    database = Database(DatabaseConfig.model_validate(settings))
    store = FailoverSessionStore(DatabaseSessionStore(database), tmp_path / "sessions.db", pause=0.05)
    before = await store.save(replace(await store.reserve("ada", "default"), agent_id="agent"))
    server.kill()
    assert before is not None
    after = await store.find("ada", "default")
    assert after is not None
    assert after.agent_id == before.agent_id
    await store.save(replace(await store.reserve("bob", "default"), agent_id="another"))
    assert store.last_error
    began = asyncio.get_running_loop().time()
    with pytest.raises(DatabaseUnavailable):
        await database.fetch("SELECT 1")
    assert asyncio.get_running_loop().time() - began < 5
    server.start()
    server.wait_ready()
    async with asyncio.timeout(30):
        while store.last_error:
            await asyncio.sleep(0.05)
            await store.find("ada", "default")
    [row] = await database.fetch("SELECT agent_id FROM {schema}.agent_sessions WHERE user_id = 'bob'")
    assert row == {"agent_id": "another"}
    await store.close()


@pytest.mark.parametrize("mode", ["session", "transaction"])
async def test_a_silent_server_behind_the_pooler_is_not_waited_for(
    postgres_url: str, tcp_proxy: ProxyFactory, tmp_path: Any, mode: Any
) -> None:
    """The pooler lets in, and then nothing comes: an arrival ends by itself, and so does what was begun before."""
    proxy = tcp_proxy(postgres_url)
    with bouncing(proxy.url, tmp_path / "pgbouncer", mode) as pooler:
        settings = {"db_url": pooler.url(), "connection_timeout": 1.0, "query_timeout": 1.0, "max_connections": 2}
        opened, unopened = (Database(DatabaseConfig.model_validate(settings)) for _ in range(2))
        await opened.open()
        proxy.blackhole()
        async with asyncio.timeout(30):
            for database in (opened, opened, unopened, unopened):
                with pytest.raises(DatabaseUnavailable):
                    await database.fetch("SELECT 1")
        proxy.resume()
        for database in (opened, unopened):
            async with asyncio.timeout(60):
                while database.last_error is not None:
                    with contextlib.suppress(DatabaseUnavailable):
                        await database.fetch("SELECT 1")
                    await asyncio.sleep(0.1)
            await database.close()


@pytest.mark.parametrize("behind", ["postgresql"], indirect=True)
async def test_parameters_the_pooler_refuses_are_named(pooler: Any) -> None:
    database = Database(DatabaseConfig(db_url=f"{pooler.url()}?options=-csearch_path%3Dx"))
    with pytest.raises(UnfitDatabase, match="options"):
        await database.open()
