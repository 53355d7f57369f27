from __future__ import annotations

from typing import Any

import psycopg
import pytest

from opengauss_double.plugin import OpenGaussFactory

pytestmark = pytest.mark.integration

Connection = psycopg.Connection[Any]

_KEY = "INSERT ON DUPLICATE KEY UPDATE don't allow update on primary key or unique key."


@pytest.fixture
def table(connection: Connection) -> Connection:
    connection.execute(
        "CREATE TABLE pg_temp.stock (id serial8, code text NOT NULL, place text, n int DEFAULT 0)".replace(
            "serial8", "bigint"
        )
    )
    connection.execute("CREATE UNIQUE INDEX ON pg_temp.stock (code, lower(place)) WHERE n >= 0")
    connection.execute("ALTER TABLE pg_temp.stock ADD PRIMARY KEY (id)")
    connection.execute("INSERT INTO stock VALUES (1, 'a', 'X', 5)")
    return connection


def stock(connection: Connection) -> list[Any]:
    return connection.execute("SELECT id, code, place, n FROM stock ORDER BY id").fetchall()


@pytest.mark.parametrize("prepare", [False, True])
@pytest.mark.parametrize(
    ("clause", "expected"),
    [
        ("n = EXCLUDED.n", 9),
        ("n = VALUES(n)", 9),
        ("n = stock.n + VALUES(n)", 14),
        ("stock.n = EXCLUDED.n, place = stock.place", 9),
        ("n = EXCLUDED.n WHERE stock.n > 100", 5),
        ("NOTHING", 5),
    ],
)
def test_updates_the_row_that_is_there(table: Connection, clause: str, expected: int, prepare: bool) -> None:
    statement = f"INSERT INTO stock (id, code, place, n) VALUES (1, 'a', 'X', %s) ON DUPLICATE KEY UPDATE {clause};"  # noqa: S608 - the test's own words
    if "place" in clause:
        # place is a key only inside an expression, which no column check sees.
        statement = statement.replace(", place = stock.place", "")
    table.execute(statement, [9], prepare=prepare)
    assert stock(table) == [(1, "a", "X", expected)]


def test_inserts_where_there_is_none(table: Connection) -> None:
    table.execute(
        "INSERT INTO stock (id, code, place, n) VALUES (2, 'b', 'Y', 1) ON DUPLICATE KEY UPDATE n = VALUES(n)"
    )
    assert stock(table)[1:] == [(2, "b", "Y", 1)]


@pytest.mark.parametrize("column", ["id", "code", '"id"', "stock.code"])
def test_may_not_set_a_key(table: Connection, column: str) -> None:
    with pytest.raises(psycopg.errors.FeatureNotSupported, match=_KEY[:40]) as caught:
        table.execute(
            f"INSERT INTO stock (id, code) VALUES (1, 'a') ON DUPLICATE KEY UPDATE n = 1, {column} = EXCLUDED.id"  # noqa: S608 - the test's own words
        )
    assert caught.value.diag.message_primary == _KEY


def test_takes_the_index_whose_columns_are_inserted(connection: Connection) -> None:
    connection.execute(
        "CREATE TABLE pg_temp.people (id bigserial PRIMARY KEY, name text UNIQUE, age int)".replace(
            "bigserial", "bigint DEFAULT 7"
        )
    )
    for age in (1, 2):
        connection.execute(
            "INSERT INTO people (name, age) VALUES ('ann', %s) ON DUPLICATE KEY UPDATE age = EXCLUDED.age", [age]
        )
    assert connection.execute("SELECT * FROM people").fetchall() == [(7, "ann", 2)]


@pytest.mark.parametrize("prepare", [False, True])
@pytest.mark.parametrize("target", ["players", "players AS p (id, name, team, age)"])
def test_updates_the_row_that_conflicts_on_any_key(connection: Connection, target: str, prepare: bool) -> None:
    connection.execute("CREATE TABLE pg_temp.players (id bigint PRIMARY KEY, name text, team text, age int)")
    connection.execute("CREATE UNIQUE INDEX ON pg_temp.players (name, coalesce(team, 'none')) WHERE age > 0")
    connection.execute("INSERT INTO players VALUES (1, 'ann', NULL, 1), (2, 'bob', 'x', 1), (4, 'dan', 'x', -1)")
    given = [(7, "ann", None, 10), (8, "bob", "x", 20), (9, "bob", "y", 30), (2, "ann", None, 40), (5, "dan", "x", 50)]
    for row in given:
        statement = f"INSERT INTO {target} VALUES (%s, %s, %s, %s) ON DUPLICATE KEY UPDATE age = EXCLUDED.age"  # noqa: S608 - the test's own words
        connection.execute(statement, row, prepare=prepare)
    assert connection.execute("SELECT * FROM players ORDER BY id").fetchall() == [
        (1, "ann", None, 10),
        (2, "bob", "x", 40),  # of two rows, the one that conflicts on the primary key
        (4, "dan", "x", -1),  # not in the index
        (5, "dan", "x", 50),
        (9, "bob", "y", 30),
    ]


def test_each_of_several_rows_finds_its_own(connection: Connection) -> None:
    connection.execute("CREATE TABLE pg_temp.codes (id bigint PRIMARY KEY, code varchar(3) UNIQUE, n int)")
    connection.execute("INSERT INTO codes VALUES (1, 'a', 0), (2, 'b', 0)")
    statement = "INSERT INTO codes (code, id, n) VALUES ('b', 5, 1), ('c', 3, 1), (%s, (SELECT 9), 1)"
    connection.execute(statement + " ON DUPLICATE KEY UPDATE n = VALUES(n)", ["a"])
    assert connection.execute("SELECT * FROM codes ORDER BY id").fetchall() == [(1, "a", 1), (2, "b", 1), (3, "c", 1)]


def test_of_another_source_it_takes_the_primary_key_alone(connection: Connection) -> None:
    connection.execute("CREATE TABLE pg_temp.codes (id bigint PRIMARY KEY, code text UNIQUE, n int)")
    connection.execute("INSERT INTO codes VALUES (1, 'a')")
    with pytest.raises(psycopg.errors.UniqueViolation):
        connection.execute("INSERT INTO codes SELECT 2, 'a', 1 ON DUPLICATE KEY UPDATE n = EXCLUDED.n")


def test_without_a_unique_index_it_is_an_insert(connection: Connection) -> None:
    connection.execute("CREATE TABLE pg_temp.log (a int)")
    for _ in range(2):
        connection.execute("INSERT INTO log VALUES (1) ON DUPLICATE KEY UPDATE a = 2")
    assert connection.execute("SELECT a FROM log").fetchall() == [(1,), (1,)]


def test_an_unknown_table_is_an_unknown_table(connection: Connection) -> None:
    with pytest.raises(psycopg.errors.UndefinedTable):
        connection.execute("INSERT INTO nowhere VALUES (1) ON DUPLICATE KEY UPDATE a = 2")


@pytest.mark.parametrize("prepare", [False, True])
def test_a_name_that_cannot_be_looked_up_fails_as_a_statement_does(connection: Connection, prepare: bool) -> None:
    statement = "INSERT INTO a.b.c.d.e VALUES (%s) ON DUPLICATE KEY UPDATE a = 2"
    connection.execute("SELECT 1")
    with pytest.raises(psycopg.Error, match="improper"):
        connection.execute(statement, [1], prepare=prepare)
    with pytest.raises(psycopg.errors.InFailedSqlTransaction):
        connection.execute("SELECT 1")
    connection.rollback()

    def pipelined() -> None:
        with connection.pipeline():
            connection.execute("SELECT 1")
            connection.execute(statement, [1], prepare=prepare)

    with pytest.raises(psycopg.Error, match="improper"):
        pipelined()
    connection.rollback()
    assert connection.execute("SELECT 1").fetchone() == (1,)


def test_a_table_made_in_the_same_transaction(connection: Connection) -> None:
    connection.execute("CREATE TABLE fresh (id int PRIMARY KEY, n int)")
    with connection.pipeline():
        for n in (1, 2):
            connection.execute("INSERT INTO fresh VALUES (1, %s) ON DUPLICATE KEY UPDATE n = EXCLUDED.n", [n])
    assert connection.execute("SELECT n FROM fresh").fetchone() == (2,)


def test_returning_depends_on_the_release(table: Connection, profile: str) -> None:
    statement = "INSERT INTO stock VALUES (1, 'a', 'X', 9) ON DUPLICATE KEY UPDATE n = EXCLUDED.n RETURNING id, n"
    if profile in ("5.0", "6.0"):
        with pytest.raises(psycopg.errors.FeatureNotSupported, match="RETURNING clause is not yet supported"):
            table.execute(statement)
    else:
        assert table.execute(statement).fetchall() == [(1, 9)]


def test_many_rows_in_one_pipeline(table: Connection) -> None:
    statement = "INSERT INTO stock (id, code, n) VALUES (%s, %s, %s) ON DUPLICATE KEY UPDATE n = EXCLUDED.n"
    with table.cursor() as cursor:
        cursor.executemany(statement, [(number, f"c{number}", number * 10) for number in (10, 11, 12)] * 2)
    assert [row[3] for row in stock(table)] == [5, 100, 110, 120]


def test_mode_b_may_set_keys(opengauss: OpenGaussFactory) -> None:
    made = opengauss("6.0.2", mode="B")
    with psycopg.connect(made.url) as connection:
        connection.execute("CREATE TABLE t (id int PRIMARY KEY)")
        connection.execute("INSERT INTO t VALUES (1)")
        connection.execute("INSERT INTO t VALUES (1) ON DUPLICATE KEY UPDATE id = 5")
        assert connection.execute("SELECT id FROM t").fetchone() == (5,)
