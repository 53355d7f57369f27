from __future__ import annotations

import select
import socket
import struct
import threading
from collections.abc import Iterable
from typing import Any

import psycopg
import pytest
from psycopg.pq import TransactionStatus

from opengauss_double.plugin import OpenGauss, OpenGaussFactory

pytestmark = pytest.mark.integration

Connection = psycopg.Connection[Any]


class _Heard(list[tuple[str, ...]]):
    def statement(self, sql: str) -> None:
        self.append((sql,))

    def error(self, sqlstate: str, message: str) -> None:
        self.append((sqlstate, message))


def test_the_clients_port_is_the_clients_and_not_the_doubles(opengauss: OpenGaussFactory) -> None:
    with psycopg.connect(opengauss("6.0").url) as connection:
        with socket.socket(fileno=connection.fileno()) as end:
            port = end.getsockname()[1]
            end.detach()
        assert connection.execute("SELECT inet_client_port()").fetchone() == (port,)


def test_observer_receives_all_statements(opengauss: OpenGaussFactory) -> None:
    heard = _Heard()
    made = opengauss("6.0", observer=heard)
    with psycopg.connect(made.url, autocommit=True) as connection:
        connection.execute("SELECT 1")
        connection.execute("SELECT %s::int", [2], prepare=True)
        with pytest.raises(psycopg.errors.FeatureNotSupported):
            connection.execute("LISTEN news")
        with pytest.raises(psycopg.errors.UndefinedTable):
            connection.execute("TABLE nowhere")
    assert [said for said in heard if len(said) == 1] == [
        ("SELECT 1",),
        ("SELECT $1::int",),
        ("LISTEN news",),
        ("TABLE nowhere",),
    ]
    assert [said[0] for said in heard if len(said) == 2] == ["0A000", "42P01"]
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(made.double.url("absent"))
    assert heard[-1] == ("3D000", 'database "absent" does not exist')


def test_an_idle_session_is_cut(opengauss: OpenGaussFactory) -> None:
    made = opengauss("6.0", session_timeout="200ms")
    heard: list[str | None] = []
    with psycopg.connect(made.url, autocommit=True) as connection:
        connection.add_notice_handler(lambda notice: heard.append(notice.message_primary))
        assert _spoken_to(connection)
        with pytest.raises(psycopg.errors.AdminShutdown, match="terminating connection"):
            connection.execute("SELECT 1")
    assert heard == ["Session unused timeout."]


def _spoken_to(connection: Connection) -> bool:
    """Waits until the server says something unasked."""
    return bool(select.select([connection.fileno()], [], [], 30)[0])


def test_a_session_that_sets_it_off_is_not(opengauss: OpenGaussFactory) -> None:
    made = opengauss("6.0", session_timeout="2s")
    with psycopg.connect(made.url, autocommit=True) as kept, psycopg.connect(made.url, autocommit=True) as cut:
        kept.execute("SET session_timeout = 0")
        assert _spoken_to(cut)
        with pytest.raises(psycopg.OperationalError):
            cut.execute("SELECT 1")
        assert kept.execute("SELECT 1").fetchone() == (1,)


def test_a_statement_that_runs_long_is_not_idle(opengauss: OpenGaussFactory) -> None:
    made = opengauss("6.0", session_timeout="1s")
    with psycopg.connect(made.url, autocommit=True) as connection:
        assert connection.execute("SELECT 1 FROM pg_sleep(1.5)").fetchone() == (1,)


def test_settings_in_the_startup_packet(gauss: OpenGauss, profile: str) -> None:
    with psycopg.connect(
        gauss.url, options="-c statement_timeout=5s --session_timeout=0", application_name="me"
    ) as one:
        assert one.execute("SHOW statement_timeout").fetchone() == ("5s",)
        assert one.execute("SHOW session_timeout").fetchone() == ("0",)
        assert one.info.parameter_status("application_name") == "me"
    with pytest.raises(psycopg.OperationalError, match='FATAL:  unrecognized configuration parameter "jit"'):
        psycopg.connect(gauss.url, options="-c jit=off")


def test_set_local_ends_with_its_transaction(connection: Connection) -> None:
    connection.execute("SET LOCAL session_timeout = '1h'")
    assert connection.execute("SHOW session_timeout").fetchone() == ("1h",)
    connection.rollback()
    assert connection.execute("SHOW session_timeout").fetchone() == ("10min",)


def test_a_running_statement_can_be_cancelled(gauss: OpenGauss, connection: Connection) -> None:
    def cancel_when_it_runs() -> None:
        with psycopg.connect(gauss.url, autocommit=True) as other:
            running = "SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(60)' AND state = 'active'"
            while other.execute(running).fetchone() != (1,):
                pass
        connection.cancel_safe()

    canceller = threading.Thread(target=cancel_when_it_runs)
    canceller.start()
    with pytest.raises(psycopg.errors.QueryCanceled):
        connection.execute("SELECT pg_sleep(60)")
    canceller.join()


def test_a_cancel_request_with_a_wrong_key_does_nothing(gauss: OpenGauss, connection: Connection) -> None:
    with socket.create_connection((gauss.double.host, gauss.double.port)) as client:
        client.sendall(struct.pack("!iiii", 16, 80877102, 1, 2))
        assert client.recv(1) == b""
    assert connection.execute("SELECT 1").fetchone() == (1,)


def test_an_upstream_session_that_is_ended_ends_the_clients(gauss: OpenGauss) -> None:
    with psycopg.connect(gauss.url, autocommit=True) as one, psycopg.connect(gauss.url, autocommit=True) as other:
        [(pid,)] = one.execute("SELECT pg_backend_pid()").fetchall()
        assert pid != one.info.backend_pid  # a slot, not the backend's number
        other.execute("SELECT pg_terminate_backend(%s)", [pid])
        with pytest.raises(psycopg.OperationalError):
            one.execute("SELECT 1")


def test_copy_passes_in_both_directions(connection: Connection, profile: str) -> None:
    with connection.cursor() as cursor:
        with cursor.copy("COPY sample (id, name) FROM STDIN") as copy:
            for number in range(1000):
                copy.write_row((number, f"name {number}"))
        with cursor.copy("COPY sample TO STDOUT (FORMAT csv)") as copy:
            assert b"".join(copy).count(b"\n") == 1000
        if profile != "5.0":  # which refuses it, see the fact table
            with cursor.copy("COPY sample TO STDOUT (FORMAT binary)") as copy:
                assert b"".join(copy).startswith(b"PGCOPY")


def _copy(connection: Connection, lines: Iterable[str]) -> None:
    with connection.cursor() as cursor, cursor.copy("COPY sample (id) FROM STDIN") as copy:
        for line in lines:
            copy.write(line)


def test_copying_that_the_server_ends(connection: Connection) -> None:
    with pytest.raises(psycopg.errors.InvalidTextRepresentation):
        _copy(connection, ["no number\n"] * 1000)
    assert connection.info.transaction_status is TransactionStatus.INERROR
    connection.rollback()
    assert connection.execute("SELECT count(*) FROM sample").fetchone() == (0,)


def test_copying_that_the_client_ends(connection: Connection) -> None:
    with pytest.raises(ZeroDivisionError):
        _copy(connection, (f"{1 // number}\n" for number in (1, 0)))
    connection.rollback()
    assert connection.execute("SELECT count(*) FROM sample").fetchone() == (0,)


def test_a_server_side_cursor(connection: Connection) -> None:
    with connection.cursor("numbers") as cursor:
        cursor.execute("SELECT * FROM generate_series(1, 500)")
        cursor.itersize = 100
        assert sum(row[0] for row in cursor) == 125250


def test_notices_reach_the_client(connection: Connection) -> None:
    heard: list[str | None] = []
    connection.add_notice_handler(lambda notice: heard.append(notice.message_primary))
    connection.execute("DO $$ BEGIN RAISE NOTICE 'hello'; END $$")
    assert heard == ["hello"]


def test_an_empty_query_is_answered(connection: Connection) -> None:
    assert connection.execute("").statusmessage in (None, "")
    assert connection.execute(" ; ").statusmessage in (None, "")


def test_a_value_of_megabytes_passes(connection: Connection) -> None:
    value = "ä" * 3_000_000
    assert connection.execute("SELECT %s::text", [value]).fetchone() == (value,)
