from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from opengauss_double.plugin import OpenGauss, OpenGaussFactory

pytestmark = pytest.mark.integration

Connection = psycopg.Connection[Any]


def one(connection: Connection, statement: str, *values: object) -> object:
    return connection.execute(statement, values or None).fetchone()


@pytest.fixture
def mode_a(opengauss: OpenGaussFactory) -> Iterator[Connection]:
    with psycopg.connect(opengauss("6.0", mode="A").url) as connection:
        yield connection


def test_in_mode_a_an_empty_literal_is_null(mode_a: Connection) -> None:
    assert one(mode_a, "SELECT '' IS NULL, ''::text IS NULL, ' ' IS NULL, '''' IS NULL") == (True, True, False, False)
    mode_a.execute("CREATE TABLE t (a text NOT NULL)")
    with pytest.raises(psycopg.errors.NotNullViolation):
        mode_a.execute("INSERT INTO t VALUES ('')")


def test_in_mode_a_an_empty_parameter_is_null_as_varchar_not_as_text(mode_a: Connection) -> None:
    assert one(mode_a, "SELECT %s::varchar IS NULL, %s::text IS NULL", "", "") == (True, False)
    assert one(mode_a, "SELECT %b::varchar IS NULL, %b::varchar", "", "x") == (False, "x")  # psycopg declares text
    mode_a.execute("CREATE TABLE t (a varchar(9), b text, c timestamptz)")
    mode_a.execute("INSERT INTO t VALUES (%s, %s, %s)", ("", "", ""))
    assert one(mode_a, "SELECT a, b, c FROM t") == (None, "", None)


def test_in_mode_a_null_joins_as_nothing(mode_a: Connection) -> None:
    assert one(mode_a, "SELECT NULL || 'a', 'a' || NULL || 1, (NULL::text || NULL) IS NULL") == ("a", "a1", True)


def test_in_pg_mode_none_of_this(connection: Connection) -> None:
    assert one(connection, "SELECT '' IS NULL, NULL || 'a'") == (False, None)
    assert one(connection, "SELECT %s::varchar IS NULL", "") == (False,)
    with pytest.raises(psycopg.errors.InvalidDatetimeFormat):
        one(connection, "SELECT %s::timestamptz", "")


@pytest.fixture
def maintenance(gauss: OpenGauss) -> Iterator[Connection]:
    with psycopg.connect(gauss.maintenance_url, autocommit=True) as connection:
        yield connection
        connection.execute("DROP DATABASE IF EXISTS made_here WITH (FORCE)")
        connection.execute("DROP DATABASE IF EXISTS copied WITH (FORCE)")


_MODE = "SELECT datcompatibility FROM pg_database WHERE datname = current_database()"


@pytest.mark.parametrize(
    ("options", "mode"),
    [
        ("DBCOMPATIBILITY 'PG' ENCODING 'UTF8' TEMPLATE template0", "PG"),
        ("WITH DBCOMPATIBILITY = 'B'", "B"),
        ("ENCODING 'UTF8' DBCOMPATIBILITY='PG'", "PG"),
        ("DBCOMPATIBILITY pg", "PG"),
        ("", "A"),
        ("TEMPLATE template0", "A"),
    ],
)
def test_a_database_keeps_its_mode(gauss: OpenGauss, maintenance: Connection, options: str, mode: str) -> None:
    maintenance.execute(f"CREATE DATABASE made_here {options}")
    with psycopg.connect(gauss.double.url("made_here")) as connection:
        assert one(connection, "SHOW sql_compatibility") == (mode,)
        assert one(connection, _MODE) == (mode,)
        assert one(connection, "SELECT current_setting('sql_compatibility')") == (mode,)
        assert one(connection, "SELECT '' IS NULL") == (mode == "A",)
        with pytest.raises(psycopg.Error, match="cannot be changed"):
            connection.execute("SET sql_compatibility = 'A'")


def test_create_database_through_the_extended_protocol(gauss: OpenGauss, maintenance: Connection) -> None:
    maintenance.execute("CREATE DATABASE made_here DBCOMPATIBILITY 'PG'", prepare=True)
    with psycopg.connect(gauss.double.url("made_here")) as connection:
        assert one(connection, "SHOW sql_compatibility") == ("PG",)


def test_a_database_inherits_its_templates_mode(gauss: OpenGauss, maintenance: Connection) -> None:
    maintenance.execute("CREATE DATABASE made_here DBCOMPATIBILITY 'PG'")
    maintenance.execute("CREATE DATABASE copied TEMPLATE made_here")
    with psycopg.connect(gauss.double.url("copied")) as connection:
        assert one(connection, "SHOW sql_compatibility") == ("PG",)


def test_create_database_if_not_exists(gauss: OpenGauss, maintenance: Connection) -> None:
    heard: list[str | None] = []
    maintenance.add_notice_handler(lambda notice: heard.append(notice.message_primary))
    for _ in range(2):
        maintenance.execute("CREATE DATABASE IF NOT EXISTS made_here DBCOMPATIBILITY 'PG'")
    assert heard == ['database "made_here" already exists, skipping']


def test_an_unknown_mode_is_refused(maintenance: Connection) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="Compatibility args X is invalid"):
        maintenance.execute("CREATE DATABASE made_here DBCOMPATIBILITY 'X'")


def test_create_database_not_in_a_transaction(connection: Connection) -> None:
    with pytest.raises(psycopg.errors.ActiveSqlTransaction):
        connection.execute("SELECT 1; CREATE DATABASE made_here DBCOMPATIBILITY 'PG'")


def test_a_database_made_elsewhere_does_not_exist(gauss: OpenGauss, postgres_url: str) -> None:
    with pytest.raises(psycopg.OperationalError, match="does not exist"):
        psycopg.connect(gauss.double.url(postgres_url.rpartition("/")[2]))


def test_unless_the_double_adopts_it(opengauss: OpenGaussFactory, postgres_url: str) -> None:
    made = opengauss("7.0", adopt="PG")
    for _ in range(2):
        with psycopg.connect(made.double.url(postgres_url.rpartition("/")[2])) as connection:
            assert one(connection, "SHOW sql_compatibility") == ("PG",)
            with pytest.raises(psycopg.errors.UndefinedFunction):
                connection.execute("SELECT gen_random_uuid()")
