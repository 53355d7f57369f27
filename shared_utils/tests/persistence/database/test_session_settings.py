"""Defaults an operator set for a database or a role change nothing of what is stored and read."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from local_stack.databases import bouncing
from local_stack.postgres import Postgres
from opengauss_double.plugin import running
from shared_utils.persistence.checkpoints.database_store import DatabaseCheckpoints
from shared_utils.persistence.checkpoints.port import Blob, Checkpoint, Write
from shared_utils.persistence.conversations.service import ConversationService, NewMessage
from shared_utils.persistence.database.config import DatabaseConfig
from shared_utils.persistence.database.database import Database
from shared_utils.persistence.errors import UnfitDatabase
from shared_utils.persistence.sessions.database_store import DatabaseSessionStore
from shared_utils.persistence.sessions.failover_store import FailoverSessionStore
from shared_utils.persistence.sessions.port import Session, SessionStoreAway
from shared_utils.persistence.table_copy import Expected, RestoreMarker, copy_in, copy_out
from shared_utils.persistence.vectors import DatabasePassageStore, Passage, Scope, VectorSettings

pytestmark = pytest.mark.integration

HOSTILE = {
    "DateStyle": "German",
    "IntervalStyle": "sql_standard",
    "TimeZone": "Asia/Kathmandu",
    "bytea_output": "escape",
    "extra_float_digits": "-15",
    "array_nulls": "off",
    "standard_conforming_strings": "off",
    "backslash_quote": "off",
    "escape_string_warning": "on",
    "quote_all_identifiers": "on",
    "transform_null_equals": "on",
    "gin_fuzzy_search_limit": "1",
    "search_path": "nowhere",
    "client_encoding": "LATIN1",
    "default_transaction_isolation": "serializable",
    "default_transaction_deferrable": "on",
    "statement_timeout": "150ms",
    "idle_in_transaction_session_timeout": "50ms",
}
OF_POSTGRESQL = HOSTILE | {"lock_timeout": "20ms", "idle_session_timeout": "100ms", "row_security": "off"}
OF_OPENGAUSS = HOSTILE | {"session_timeout": "1s", "behavior_compat_options": "aformat_null_test"}


@pytest.fixture
def prepared(request: pytest.FixtureRequest, postgres_server: Postgres, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Makes the URL of a new database with such defaults, on a server, perhaps behind a pooler (``direct`` is not)."""
    with ExitStack() as held:

        def make(server: Any, settings: Any, *, level: str = "DATABASE") -> Any:
            server, _, mode = server.partition("/")
            product, _, profile = server.partition("-")
            if product == "opengauss":
                url = held.enter_context(running(postgres_server.url(), profile)).url
            else:
                url = request.getfixturevalue("postgres_url")
            with psycopg.connect(url, autocommit=True) as connection:
                [(name, user)] = connection.execute("SELECT current_database(), current_user").fetchall()
                target = {"DATABASE": f'DATABASE "{name}"', "ROLE": f'ROLE "{user}" IN DATABASE "{name}"'}[level]
                for setting, value in settings.items():
                    statement = sql.SQL("ALTER {} SET {} TO {}")
                    connection.execute(statement.format(sql.SQL(target), sql.SQL(setting), sql.Literal(value)))
            make.direct = url  # type: ignore[attr-defined]
            if mode:
                url = held.enter_context(bouncing(url, tmp_path / "pgbouncer", mode)).url()
            return url

        yield make


def config_for(url: str, schema: str = "state") -> DatabaseConfig:
    return DatabaseConfig.model_validate({"db_url": url, "schema_name": schema, "max_connections": 3})


@pytest.mark.parametrize("setting", OF_POSTGRESQL)
async def test_defaults_of_a_postgresql_database_do_not_change_stored_values(
    prepared: Callable[..., Any], setting: Any, tmp_path: Path
) -> None:
    await keeps_everything(config_for(prepared("postgresql", {setting: OF_POSTGRESQL[setting]})), tmp_path)


@pytest.mark.parametrize("setting", OF_OPENGAUSS)
async def test_defaults_of_an_opengauss_database_do_not_change_stored_values(
    prepared: Callable[..., Any], setting: Any, tmp_path: Path
) -> None:
    await keeps_everything(config_for(prepared("opengauss-6.0", {setting: OF_OPENGAUSS[setting]})), tmp_path)


@pytest.mark.parametrize("level", ["DATABASE", "ROLE"])
@pytest.mark.parametrize("server", ["postgresql", "postgresql/transaction", "postgresql/session"])
async def test_all_of_them_together_change_nothing(
    prepared: Callable[..., Any], server: str, level: str, tmp_path: Path
) -> None:
    settings = dict(OF_POSTGRESQL)
    if server.endswith("/session"):
        del settings["idle_session_timeout"]  # cuts the pooler's sessions, and with them its clients: theirs to set
    await keeps_everything(config_for(prepared(server, settings, level=level)), tmp_path)


@pytest.mark.parametrize("server", ["opengauss-6.0.2", "opengauss-6.0/transaction", "opengauss-6.0/session"])
async def test_all_of_them_together_change_nothing_on_opengauss(
    prepared: Callable[..., Any], server: str, tmp_path: Path
) -> None:
    await keeps_everything(config_for(prepared(server, OF_OPENGAUSS)), tmp_path)


async def test_an_encoding_in_the_url_does_not_keep_texts_out(postgres_url: str) -> None:
    database = Database(config_for(f"{postgres_url}?client_encoding=latin1"))
    assert await database.fetch("SELECT %(text)s::text AS text", {"text": "你好"}) == [{"text": "你好"}]
    await database.close()


@pytest.mark.parametrize("schema", ["user", "order", "select"])
async def test_a_schema_may_have_a_reserved_word_for_a_name(postgres_url: str, schema: str) -> None:
    database = Database(config_for(postgres_url, schema))
    assert (await DatabaseSessionStore(database).reserve("ada", "default")).user_id == "ada"
    await database.close()


@pytest.mark.parametrize("server", ["postgresql", "opengauss-6.0"])
async def test_a_database_whose_foreign_keys_do_nothing_is_refused(prepared: Callable[..., Any], server: str) -> None:
    database = Database(config_for(prepared(server, {"session_replication_role": "replica"})))
    with pytest.raises(UnfitDatabase, match="session_replication_role = replica"):
        await database.open()


@pytest.mark.parametrize("server", ["postgresql", "opengauss-6.0", "postgresql/transaction"])
async def test_a_database_that_becomes_read_only_is_unavailable_until_it_is_not(
    prepared: Any, server: str, tmp_path: Path
) -> None:
    """That is an operator's decision, before a move or on a full disk: it is kept to, and ends without a restart."""
    url = prepared(server, {})
    database = Database(config_for(url))
    store = FailoverSessionStore(DatabaseSessionStore(database), tmp_path / "sessions.db", pause=0.02)
    await store.reserve("ada", "default")

    def switch(value: Any) -> None:
        with psycopg.connect(prepared.direct, autocommit=True) as connection:
            connection.execute("BEGIN READ WRITE")
            [(name,)] = connection.execute("SELECT current_database()").fetchall()
            connection.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = {value}')
            connection.execute("COMMIT")
            ended = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = current_database()"
            connection.execute(f"{ended} AND pid <> pg_backend_pid()")

    switch("on")
    agents = {}
    for number in range(20):
        session = await store.reserve(f"user-{number}", "default")
        agents[session.user_id] = (await store.save(replace(session, agent_id=f"agent-{number}"))).agent_id
    async with asyncio.timeout(60):  # until a new connection is refused, the ends of the old ones are the trouble
        while not any(words in (store.last_error or "") for words in ("read-only", "read only")):
            await store.reserve("user-0", "default")
            await asyncio.sleep(0.02)
    await asyncio.sleep(0.2)
    assert store.last_error, "it came back while nothing can be written"
    switch("off")
    async with asyncio.timeout(30):
        while store.last_error:
            await store.find("ada", "default")
            await asyncio.sleep(0.05)
    rows = await database.fetch("SELECT user_id, agent_id FROM {schema}.agent_sessions WHERE user_id LIKE 'user%%'", {})
    assert {row["user_id"]: row["agent_id"] for row in rows} == agents
    await store.close()


async def test_a_read_only_database_is_said_to_be_so(postgres_url: str) -> None:
    database = Database(config_for(postgres_url))
    store = DatabaseSessionStore(database)
    await store.check()
    await database.close()
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        [(name,)] = connection.execute("SELECT current_database()").fetchall()
        connection.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
    with pytest.raises(SessionStoreAway, match="read-only"):
        await store.check()
    assert await store.find("ada", "default") is None  # reading goes on
    with pytest.raises(SessionStoreAway, match="read-only"):
        await store.reserve("ada", "default")
    await database.close()


async def keeps_everything(config: Any, folder: Any) -> None:
    database, again = Database(config), Database(config_for(config.db_url.get_secret_value(), "again"))
    try:
        for part in (_sessions, _checkpoints, _conversations, _vectors, _time):
            await part(database)
        saved = await copy_out(config, folder / "copy")
        files = {table.name: Expected(folder / "copy" / table.file, table.rows, table.digest) for table in saved.tables}
        await copy_in(again.config, files, RestoreMarker("copy", saved.at), {})
        for table in ("agent_sessions", "agent_checkpoints", "agent_messages"):
            statement = f"SELECT * FROM {{schema}}.{table} ORDER BY created_at, 1, 2"  # noqa: S608
            kept, copied = await database.fetch(statement), await again.fetch(statement)
            assert kept
            assert kept == copied, table
    finally:
        await database.close()
        await again.close()


async def _sessions(database: Database) -> None:
    store = DatabaseSessionStore(database)
    noon = datetime(2026, 3, 4, 12, 0, 0, 123456, tzinfo=UTC)
    old = Session(
        "ada", "default", session_data={"text": "\\ ' \" 你好", "none": None, "float": 0.1 + 0.2}, created_at=noon
    )
    await store.merge([old, Session("bob", "default", agent_id="agent", expires_at=noon, last_updated=noon)])
    found = await store.load(old.session_id)
    assert found is not None
    assert (found.agent_id, found.expires_at, found.created_at) == (None, None, noon)
    assert found.session_data == old.session_data
    bob = await store.find("bob", "default")
    assert bob is not None
    assert bob.expires_at == noon
    kept = await store.save(replace(await store.reserve("cid", "default"), agent_id="a"), expires_in_hours=24)
    assert kept.expires_at is not None
    assert timedelta(hours=23) < kept.expires_at - datetime.now(UTC) < timedelta(hours=25)
    statistics = await store.statistics()
    assert (statistics.total, statistics.active, statistics.expired) == (3, 2, 1)


async def _checkpoints(database: Database) -> None:
    store = DatabaseCheckpoints(database)
    data = bytes(range(256))
    values = {"v": Blob("raw", data), "w": Blob("raw", b"\\x5c'\\"), "empty": Blob("raw", b"")}
    put = Checkpoint("t", Blob("raw", data[::-1]), versions=dict.fromkeys(values, "1"), values=values)
    await store.put(put)
    await store.put_writes("t", "", put.checkpoint_id, [Write("task", 0, "v", Blob("raw", data))])
    found = await store.get("t")
    assert found is not None
    assert found.state.data == data[::-1]
    assert {name: blob.data for name, blob in found.values.items()} == {
        name: blob.data for name, blob in values.items()
    }
    assert found is not None
    assert found.parent_id is None
    assert found is not None
    assert found.writes[0].blob.data == data
    [listed] = await store.list("t", metadata={})
    assert listed.state.data == data[::-1]


async def _conversations(database: Database) -> None:
    service = ConversationService(database)
    conversation = await service.create("title", metadata={"none": None})
    both = (service.add_messages(conversation.id, [NewMessage("user", f"{n} \\ '")] * 3) for n in range(4))
    await asyncio.gather(*both)
    messages = (await service.history(conversation.id)).rows
    assert [message.ordinal for message in messages] == list(range(1, 13))
    assert all(abs(datetime.now(UTC) - message.created_at) < timedelta(minutes=5) for message in messages)
    assert conversation.user_id is None
    assert (await service.conversations.get(conversation.id)).user_id is None


async def _vectors(database: Database) -> None:
    for arrays in (False, True):
        settings = {"table_name": f"p_{arrays}".lower(), "arrays": arrays, "exact_below": 0, "index": {"above": 0}}
        store = DatabasePassageStore(database, VectorSettings.model_validate(settings))
        numbers = (0.123456789012345, 1e-7, -3.25)
        given = [
            Passage(
                passage_id=f"p-{n}", model="m", embedding=numbers, text=None, metadata={"n": n, "k": "k"}, source_id="s"
            )
            for n in range(40)
        ]
        await store.store_all(given)
        await store.build_index()
        [found] = await store.get(["p-7"], Scope.everything())
        assert (found.text, found.agent_id, found.source_id) == (None, None, "s")
        assert list(found.embedding) == pytest.approx(numbers, rel=1e-6 if not arrays else 1e-15)
        assert len(await store.search({"m": numbers}, Scope.everything(), k=40, where={"k": "k"})) == 40
        assert len(await store.search({"m": numbers}, Scope.everything(), k=30)) == 30
        assert (await store.page(Scope.everything(), where={"n": {"$gte": 20}}, limit=100)).next is None


async def _time(database: Any) -> None:
    """A slow statement, a slow caller, a pause, and a lock that is waited for: within the limits of this project."""
    await database.fetch("SELECT pg_sleep(0.2)")
    ready = asyncio.Event()

    async def slow(connection: Any) -> None:
        await database.send(connection, "UPDATE {schema}.agent_sessions SET message_count = 1 WHERE user_id = 'ada'")
        ready.set()
        await asyncio.sleep(0.2)
        await database.rows(connection, "SELECT 1")

    waiting = asyncio.create_task(database.run(slow))
    await ready.wait()
    await database.execute("UPDATE {schema}.agent_sessions SET message_count = 2 WHERE user_id = 'ada'")
    await waiting
    await asyncio.sleep(1.2 if database._dialect.product.startswith("openGauss") else 0.2)
    for _ in range(2):
        assert await database.fetch("SELECT 1 AS one") == [{"one": 1}]
