"""What is said where Letta could not run: before anything is changed, in one sentence that names what to do."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from opengauss_double.auth import Accounts

pytestmark = [pytest.mark.integration, pytest.mark.letta, pytest.mark.xdist_group("letta-server")]

_users = itertools.count(1)


def refused(letta_server: Any, settings: dict[str, str], *arguments: str) -> str:
    """The sentence with which a command ends; it is the only one, and has no password in it."""
    code, said = letta_server.run(*(arguments or ("init", "--check")), settings=settings)
    assert code == 1, said
    assert said.count("\n") == 1
    assert settings["LETTA_PG_PASSWORD"] not in said
    return str(said)


@pytest.mark.parametrize(
    ("server", "release", "claim", "word"),
    [
        ("postgresql", "PostgreSQL 16", "true", "LETTA_ENABLE_OPENGAUSS is true"),
        ("opengauss-7.0", "openGauss 7.0.0", "false", "LETTA_ENABLE_OPENGAUSS is false"),
        ("opengauss-6.0", "openGauss 6.0.0", None, "no vector type"),
        ("opengauss-5.0", "openGauss 5.0.0", "true", "openGauss 6.0.2, or 7.0.0-RC1"),
    ],
    indirect=["server"],
)
def test_a_server_of_another_product_or_release_is_refused(
    letta_server: Any, postgres: Any, server: Any, database: str, release: str, claim: str | None, word: str
) -> None:
    settings = server.variables(database) | ({} if claim is None else {"LETTA_ENABLE_OPENGAUSS": claim})
    for command in (("init",), ("check",)):
        said = refused(letta_server, settings, *command)
        assert word in said
        assert release in said
    with postgres.connect() as connection:
        assert connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [database]).fetchone() is None


def test_a_postgresql_that_is_too_old_is_refused(letta_server: Any, postgres: Any, database: str) -> None:
    with postgres.connect() as connection:
        connection.execute(f'CREATE DATABASE "{database}"')
        connection.execute(f'ALTER DATABASE "{database}" SET search_path TO public, pg_catalog')
    with postgres.connect(database) as connection:
        connection.execute("CREATE FUNCTION version() RETURNS text LANGUAGE sql AS $$ SELECT 'PostgreSQL 14.2' $$")
    said = refused(letta_server, postgres.variables(database))
    assert "PostgreSQL 14.2 is too old: this service needs 15 or newer; upgrade the server, or use another one" in said


@pytest.mark.parametrize("mode", ["A", "B", "C"])
def test_a_database_in_another_mode(letta_server: Any, gauss_factory: Any, database: str, mode: str) -> None:
    gauss = gauss_factory("7.0")
    with gauss.connect() as connection:
        connection.execute(f"CREATE DATABASE \"{database}\" DBCOMPATIBILITY '{mode}'")
    said = refused(letta_server, gauss.variables(database))
    assert f"compatibility mode {mode}" in said
    assert "DBCOMPATIBILITY 'PG'" in said


@pytest.mark.parametrize(("hba", "stored"), [("sha256", 2), ("md5", 2), ("md5", 3)])
def test_a_password_kept_in_a_form_that_crashes_lettas_driver(
    letta_server: Any, gauss_factory: Any, database: str, hba: str, stored: int
) -> None:
    accounts = Accounts(hba=hba, password_encryption_type=stored)
    accounts.set_password("letta", "Gauss@123")
    gauss = gauss_factory("7.0", accounts)
    login = {"LETTA_PG_USER": "letta", "LETTA_PG_PASSWORD": "Gauss@123"}
    assert "password_encryption_type=1" in refused(letta_server, gauss.variables(database, **login))


def test_a_wrong_password_is_tried_once_for_ten_lock_the_account(
    letta_server: Any, gauss_factory: Any, database: str
) -> None:
    accounts = Accounts()
    accounts.set_password("letta", "Gauss@123")
    gauss = gauss_factory("7.0", accounts)
    wrong = gauss.variables(database, LETTA_PG_USER="letta", LETTA_PG_PASSWORD="Guess@123")
    assert "Invalid username/password" in refused(letta_server, wrong)
    assert accounts.by_name["letta"].failures == 1
    accounts.by_name["letta"].failures = 10
    assert "locked" in refused(letta_server, wrong)


@pytest.fixture
def user(server: Any, postgres: Any, database: str) -> Any:
    """The settings of a new user who may make databases and nothing else."""
    name = f"user_{next(_users)}"
    with server.connect() as connection:
        connection.execute(f"CREATE USER {name} CREATEDB PASSWORD 'Gauss@123'")
    yield server.variables(database, LETTA_PG_USER=name, LETTA_PG_PASSWORD="Gauss@123")
    with postgres.connect() as connection:
        connection.execute(f'DROP DATABASE IF EXISTS "{database}" WITH (FORCE)')
    with postgres.connect("opengauss_double_7.0" if hasattr(server, "double") else "postgres") as connection:
        connection.execute(f"DROP OWNED BY {name}")
        connection.execute(f"DROP USER {name}")


@pytest.mark.parametrize("server", ["opengauss-7.0"], indirect=True)
def test_on_opengauss_the_owner_of_the_database_is_enough(
    letta_server: Any, server: Any, user: dict[str, str], database: str
) -> None:
    """Even he may not create in its schema public, so the tables go where everybody looks first."""
    name, password = user["LETTA_PG_USER"], user["LETTA_PG_PASSWORD"]
    with server.connect(user=name, password=password) as connection:
        connection.execute(f"CREATE DATABASE \"{database}\" DBCOMPATIBILITY 'PG'")
    code, said = letta_server.run("init", settings=user)
    assert code == 0, said
    with server.connect(database, name, password) as connection:
        assert connection.execute("SELECT current_schema()").fetchone() == (name,)
        assert connection.execute("SELECT count(*) FROM alembic_version").fetchone() == (1,)
    assert letta_server.run("init", "--check", settings=user)[0] == 0


@pytest.mark.parametrize("server", ["postgresql"], indirect=True)
def test_too_few_free_connections_are_refused(
    letta_server: Any, postgres: Any, user: dict[str, str], database: str
) -> None:
    with postgres.connect() as connection:
        connection.execute(f'CREATE DATABASE "{database}" OWNER {user["LETTA_PG_USER"]}')
        connection.execute(f"ALTER ROLE {user['LETTA_PG_USER']} CONNECTION LIMIT 4")
    assert "has 3 free connections" in refused(letta_server, user)


@pytest.mark.parametrize("server", ["postgresql"], indirect=True)
def test_check_names_missing_rights_on_tables(
    letta_server: Any, postgres: Any, server: Any, user: Any, database: str
) -> None:
    assert letta_server.run("init", settings=server.variables(database))[0] == 0
    said = refused(letta_server, user)
    assert "may not read and write 49 tables" in said
    assert f'TO "{user["LETTA_PG_USER"]}"' in said
