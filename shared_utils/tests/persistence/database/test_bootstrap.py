"""The first connection: a database is made where it is missing, and one that will not do is refused in words."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

import psycopg
import pytest
from psycopg import sql

from local_stack.postgres import Postgres
from opengauss_double import Accounts, Double, ThreadedDouble
from shared_utils.persistence.database import bootstrap
from shared_utils.persistence.database.config import DatabaseConfig
from shared_utils.persistence.database.database import Database
from shared_utils.persistence.database.migration import migrate
from shared_utils.persistence.errors import DatabaseRefused, LoginRefused, SchemaMissing, UnfitDatabase

pytestmark = pytest.mark.integration

numbers = count(1)


def config_for(url: str, **changes: Any) -> DatabaseConfig:
    return DatabaseConfig.model_validate({"db_url": url, **changes})


async def refusal(config: Any) -> Any:
    database = Database(config)
    with pytest.raises(DatabaseRefused) as caught:
        await database.open()
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.fixture(params=["postgresql", "5.0", "6.0", "7.0"])
def server(request: pytest.FixtureRequest, postgres_server: Postgres) -> Any:
    """The URL of the maintenance database."""
    if request.param == "postgresql":
        return postgres_server.url()
    return request.getfixturevalue("opengauss")(request.param).maintenance_url


@pytest.fixture
def missing(server: Any) -> Iterator[Any]:
    """The URL of a database that does not exist, with a name that has to be quoted."""
    name = f'No such "数据" {next(numbers)}'
    yield urlunsplit(urlsplit(server)._replace(path=f"/{quote(name)}"))
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE IF EXISTS {}").format(sql.Identifier(name)))


async def test_a_missing_database_is_made_fit_by_whoever_comes_first(missing: Any) -> None:
    databases = [Database(config_for(missing)) for _ in range(3)]
    dialects = await asyncio.gather(*(database.open() for database in databases))
    [row] = await databases[0].fetch("SELECT '' IS NULL AS lost, count(*) AS rows FROM agent_sessions")
    assert row == {"lost": False, "rows": 0}
    if dialects[0].product.startswith("openGauss"):
        [row] = await databases[0].fetch("SHOW sql_compatibility")
        assert row == {"sql_compatibility": "PG"}
    for database in databases:
        await database.close()


@pytest.mark.parametrize("server", ["postgresql"], indirect=True)
async def test_a_database_made_by_another_between_two_questions_is_used(
    server: Any, missing: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = bootstrap.connect

    async def overtaken(config: Any, database: Any = None) -> Any:
        try:
            return await connect(config, database)
        except psycopg.OperationalError:
            with psycopg.connect(server, autocommit=True) as other:
                other.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(config.parts["dbname"])))
            raise

    monkeypatch.setattr(bootstrap, "connect", overtaken)
    database = Database(config_for(missing))
    await database.open()
    await database.close()


@pytest.mark.parametrize("server", ["postgresql", "6.0"], indirect=True)
async def test_a_missing_database_is_not_made_without_leave_but_by_migrate(missing: Any) -> None:
    config = config_for(missing, generate_schemas=False)
    refused = await refusal(config)
    assert isinstance(refused, SchemaMissing)
    assert "migrate`" in str(refused)
    assert await migrate(config)
    database = Database(config)
    await database.open()
    await database.close()


async def test_role_without_the_right_to_create_the_database_gets_the_statement(postgres_server: Postgres) -> None:
    with psycopg.connect(postgres_server.url(), autocommit=True) as connection:
        connection.execute("CREATE ROLE humble LOGIN PASSWORD 'humble'")
        try:
            place = f"127.0.0.1:{postgres_server.port}/nothing%20here"
            text = str(await refusal(config_for(f"postgresql://humble:humble@{place}")))
        finally:
            connection.execute("DROP ROLE humble")
    assert "humble cannot create it" in text
    assert 'CREATE DATABASE "nothing here" ENCODING' in text


async def test_a_database_in_mode_a_is_refused(opengauss: Any) -> None:
    made = opengauss("6.0", mode="A")
    refused = await refusal(config_for(made.url))
    assert isinstance(refused, UnfitDatabase)
    assert f"CREATE DATABASE \"{made.database}_pg\" DBCOMPATIBILITY 'PG'" in str(refused)


async def test_another_encoding_is_refused(postgres_server: Postgres) -> None:
    with psycopg.connect(postgres_server.url(), autocommit=True) as connection:
        connection.execute("CREATE DATABASE ascii ENCODING 'SQL_ASCII' TEMPLATE template0")
    try:
        text = str(await refusal(config_for(postgres_server.url("ascii"))))
    finally:
        postgres_server.drop_database("ascii")
    assert "SQL_ASCII" in text
    assert "CREATE DATABASE \"ascii_utf8\" ENCODING 'UTF8'" in text


@pytest.mark.parametrize(
    ("version", "told"), [("CockroachDB CCL v23.1", "CockroachDB"), ("PostgreSQL 14.2", "too old")]
)
async def test_another_product_is_refused(postgres_url: str, version: str, told: str) -> None:
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        body = sql.Literal(f"SELECT {sql.Literal(version).as_string()}")
        connection.execute(sql.SQL("CREATE FUNCTION version() RETURNS text LANGUAGE sql AS {}").format(body))
    assert told in str(await refusal(config_for(f"{postgres_url}?options=-csearch_path%3Dpublic,pg_catalog")))


@pytest.fixture
def account(postgres_server: Postgres) -> Callable[..., Any]:
    """The refusal that an account meets: password_encryption_type and the fields of Accounts."""

    async def refused(encryption: int = 1, password: Any = None, failures: int = 0, **how: Any) -> Any:
        accounts = Accounts(password_encryption_type=encryption, **how)
        accounts.set_password("postgres", "Right#2024")
        accounts.by_name["postgres"].failures = failures
        with ThreadedDouble(Double(postgres_server.url(), accounts=accounts)) as threaded:
            url = threaded.double.url()
            error = await refusal(config_for(url if password is None else url.replace("Right%232024", password)))
        assert isinstance(error, LoginRefused)
        return str(error), accounts.by_name["postgres"].failures

    return refused


@pytest.mark.parametrize(
    ("how", "steps"),
    [
        ({"encryption": 2}, ["password_encryption_type=1", 'ALTER USER "postgres" PASSWORD', "md5"]),
        ({"encryption": 2, "hba": "sha256"}, ["password_encryption_type=1", 'ALTER USER "postgres" PASSWORD', "md5"]),
        ({"encryption": 3}, ["SM3", "password_encryption_type=1"]),
        ({"initial_user": "postgres", "treat_as_remote": True}, ["CREATE USER bridge CREATEDB PASSWORD"]),
        ({"failures": 10}, ['ALTER USER "postgres" ACCOUNT UNLOCK']),
    ],
    ids=["sha256 behind md5", "sha256", "sm3", "initial user", "locked"],
)
async def test_a_refused_account_is_reported_each_step(account: Callable[..., Any], how: Any, steps: list[str]) -> None:
    text, _ = await account(**how)
    for step in steps:
        assert step in text


async def test_a_wrong_password_is_tried_once_since_ten_lock_the_account(account: Callable[..., Any]) -> None:
    text, failures = await account(password="Wrong%232024")
    assert "check user, password" in text
    assert failures == 1


async def test_a_server_without_tls_is_named(opengauss: Any) -> None:
    url = opengauss("6.0").url.replace("sslmode=disable", "sslmode=require")
    refused = await refusal(config_for(url))
    assert isinstance(refused, LoginRefused)
    assert "sslmode" in str(refused)
