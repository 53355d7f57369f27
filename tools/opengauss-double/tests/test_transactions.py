"""A refused statement leaves the session where a real error would."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from psycopg.pq import TransactionStatus

from opengauss_double.plugin import OpenGauss

pytestmark = pytest.mark.integration

Connection = psycopg.Connection[Any]
Execute = Callable[[str], object]
Rows = Callable[[], list[int]]

_SYNTAX = "INSERT INTO sample (id) VALUES (1) ON CONFLICT DO NOTHING"
_OTHERS = ["LISTEN channel", "SET jit = off", "ALTER TYPE mood ADD VALUE 'x'", "SELECT gen_random_uuid()"]


@pytest.fixture(params=[False, True], ids=["simple", "extended"])
def execute(request: pytest.FixtureRequest, connection: Connection) -> Execute:
    if not request.param:
        return connection.execute
    return lambda sql: connection.execute(sql, prepare=True, binary=False, params=())


@pytest.fixture
def rows(connection: Connection) -> Rows:
    return lambda: [row[0] for row in connection.execute("SELECT id FROM sample ORDER BY id")]


@pytest.mark.parametrize("statement", [_SYNTAX, *_OTHERS])
def test_a_refused_statement_fails_the_transaction(
    connection: Connection, execute: Execute, rows: Rows, statement: str
) -> None:
    execute("INSERT INTO sample (id) VALUES (50)")
    with pytest.raises(psycopg.Error):
        execute(statement)
    assert connection.info.transaction_status is TransactionStatus.INERROR
    with pytest.raises(psycopg.errors.InFailedSqlTransaction):
        execute("SELECT 1")
    connection.rollback()
    assert rows() == []


@pytest.mark.parametrize("statement", [_SYNTAX, *_OTHERS])
def test_rolling_back_to_a_savepoint_heals(
    connection: Connection, execute: Execute, rows: Rows, statement: str
) -> None:
    execute("INSERT INTO sample (id) VALUES (50)")

    def nested() -> None:
        with connection.transaction():
            execute("INSERT INTO sample (id) VALUES (51)")
            execute(statement)

    with pytest.raises(psycopg.Error):
        nested()
    assert connection.info.transaction_status is TransactionStatus.INTRANS
    assert rows() == [50]


def test_in_a_failed_transaction_only_syntax_errors_are_distinguished(connection: Connection, execute: Execute) -> None:
    with pytest.raises(psycopg.errors.DivisionByZero):
        execute("SELECT 1 / 0")
    for statement in _OTHERS:
        with pytest.raises(psycopg.errors.InFailedSqlTransaction):
            execute(statement)
    with pytest.raises(psycopg.errors.InFailedSqlTransaction):
        execute("INSERT INTO sample (id, name) VALUES (1, 'a') ON DUPLICATE KEY UPDATE name = 'b'")
    with pytest.raises(psycopg.errors.SyntaxError):
        execute(_SYNTAX)


def test_outside_a_transaction_nothing_is_left(connection: Connection) -> None:
    connection.autocommit = True
    for statement in (_SYNTAX, "LISTEN channel"):
        with pytest.raises(psycopg.Error):
            connection.execute(statement)
        assert connection.info.transaction_status is TransactionStatus.IDLE


def test_a_refused_statement_among_several_undoes_them_all(connection: Connection, rows: Rows) -> None:
    connection.autocommit = True
    with pytest.raises(psycopg.errors.FeatureNotSupported, match="LISTEN statement is not yet supported"):
        connection.execute("INSERT INTO sample (id) VALUES (60); LISTEN channel; INSERT INTO sample (id) VALUES (61)")
    assert rows() == []


def test_a_syntax_error_anywhere_means_that_nothing_runs(connection: Connection, gauss: OpenGauss) -> None:
    connection.autocommit = True
    with pytest.raises(psycopg.errors.SyntaxError):
        connection.execute(f"SELECT pg_advisory_lock(77); {_SYNTAX}")
    with psycopg.connect(gauss.url) as other:
        assert other.execute("SELECT pg_try_advisory_lock(77)").fetchone() == (True,)


def test_several_statements_give_several_results(connection: Connection) -> None:
    cursor = connection.execute("SELECT 1 AS a; SELECT ';' AS b; -- end\n")
    results = [cursor.fetchone()]
    while cursor.nextset():
        results.append(cursor.fetchone())
    assert results == [(1,), (";",)]


def test_a_pipeline_skips_to_its_sync(connection: Connection, rows: Rows) -> None:
    connection.autocommit = True

    def pipelined() -> None:
        with connection.pipeline() as pipeline:
            connection.execute("INSERT INTO sample (id) VALUES (%s)", [70])
            refused = connection.execute("LISTEN channel")
            skipped = connection.execute("INSERT INTO sample (id) VALUES (%s)", [71])
            pipeline.sync()
            with pytest.raises(psycopg.errors.PipelineAborted):
                skipped.fetchall()
            refused.fetchall()

    with pytest.raises(psycopg.errors.FeatureNotSupported):
        pipelined()
    assert rows() == []
    assert connection.execute("SELECT 1").fetchone() == (1,)


def test_a_pipeline_continues_behind_its_sync(connection: Connection, rows: Rows) -> None:
    connection.autocommit = True
    with connection.pipeline() as pipeline:
        connection.execute("INSERT INTO sample (id) VALUES (80)")
        with pytest.raises(psycopg.errors.SyntaxError):
            connection.execute(_SYNTAX).fetchall()
        pipeline.sync()
        connection.execute(
            "INSERT INTO sample (id, name) VALUES (%s, 'x') ON DUPLICATE KEY UPDATE name = EXCLUDED.name", [81]
        )
        connection.execute("INSERT INTO sample (id) VALUES (%s)", [82])
        pipeline.sync()
    try:
        assert rows() == [81, 82]
    finally:
        connection.execute("DELETE FROM sample")


def test_error_fields_are_openGausss(connection: Connection) -> None:  # noqa: N802 - its name
    with pytest.raises(psycopg.errors.UniqueViolation) as caught:
        connection.execute("INSERT INTO sample (id) VALUES (1), (1)")
    diagnosis = caught.value.diag
    assert (diagnosis.constraint_name, diagnosis.table_name, diagnosis.schema_name) == (None, None, None)
    assert diagnosis.severity_nonlocalized is None
    assert diagnosis.column_name == "1001"
    assert diagnosis.message_primary == 'duplicate key value violates unique constraint "sample_pkey"'
    assert diagnosis.message_detail == "Key (id)=(1) already exists."


def test_a_refusal_in_a_string_of_statements_does_not_show_how_it_was_made(connection: Connection) -> None:
    with pytest.raises(psycopg.errors.FeatureNotSupported) as caught:
        connection.execute("SELECT 1; UNLISTEN *")
    diagnosis = caught.value.diag
    assert (diagnosis.message_detail, diagnosis.context, diagnosis.source_file) == (None, None, None)
