from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from opengauss_double import Accounts, Double, Stored
from opengauss_double.plugin import OpenGauss, OpenGaussFactory
from opengauss_double.protocol import startup_packet

pytestmark = pytest.mark.integration

DoubleWith = Callable[..., OpenGauss]

_DENIED = "Invalid username/password,login denied."


@pytest.fixture
def double_with(opengauss: OpenGaussFactory) -> DoubleWith:
    def make(password_encryption_type: int = 1, **how: Any) -> OpenGauss:
        accounts = Accounts(password_encryption_type=password_encryption_type, **how)
        accounts.set_password("postgres", "Right#2024")
        return opengauss("6.0", accounts=accounts)

    return make


def refusal(url: str, **how: Any) -> str:
    with pytest.raises(psycopg.OperationalError) as caught:
        psycopg.connect(url, **how)
    return str(caught.value)


def authentication(double: Double, user: str = "postgres") -> tuple[int, bytes]:
    """The code and payload that a bare client is sent."""
    with socket.create_connection((double.host, double.port)) as client:
        client.sendall(startup_packet({"user": user, "database": "postgres"}))
        kind, length = struct.unpack("!ci", client.recv(5, socket.MSG_WAITALL))
        assert kind == b"R"
        body = client.recv(length - 4, socket.MSG_WAITALL)
    return struct.unpack_from("!i", body)[0], body[4:]


@pytest.mark.parametrize(("kind", "hba"), [(0, "md5"), (1, "md5"), (0, "sha256"), (1, "sha256")])
def test_md5_and_both_let_a_stock_client_in(double_with: DoubleWith, kind: int, hba: str) -> None:
    made = double_with(kind, hba=hba)
    assert authentication(made.double)[0] == 5
    with psycopg.connect(made.url) as connection:
        assert connection.execute("SELECT current_user::text").fetchone() == ("postgres",)


def test_sha256_only_is_code_10_with_salt_token_and_signature(double_with: DoubleWith) -> None:
    made = double_with(2, hba="sha256")
    code, payload = authentication(made.double)
    assert code == 10
    assert struct.unpack_from("!i", payload) == (2,)
    assert len(payload) == 4 + 64 + 8 + 64
    int(payload[4:], 16)
    assert "SASL" in refusal(made.url)


def test_sha256_only_behind_md5_is_code_11_with_a_salt(double_with: DoubleWith) -> None:
    made = double_with(2)
    code, payload = authentication(made.double)
    assert (code, len(payload)) == (11, 64)
    assert "SASL" in refusal(made.url)


def test_sm3_is_code_13(double_with: DoubleWith) -> None:
    made = double_with(3)
    assert authentication(made.double)[0] == 13
    assert "authentication method 13 not supported" in refusal(made.url)


def test_a_wrong_password_and_an_unknown_user_are_reported_the_same(double_with: DoubleWith) -> None:
    made = double_with()
    assert _DENIED in refusal(made.url, password="wrong")
    assert _DENIED in refusal(made.url, user="nobody")


def test_the_refusal_is_fatal_and_28p01(double_with: DoubleWith) -> None:
    made = double_with()
    with socket.create_connection((made.double.host, made.double.port)) as client:
        client.sendall(startup_packet({"user": "postgres"}))
        client.recv(13, socket.MSG_WAITALL)
        client.sendall(b"p" + struct.pack("!i", 8) + b"bad\0")
        answer = client.makefile("rb").read()
    assert b"SFATAL\0" in answer
    assert b"C28P01\0" in answer


def test_ten_wrong_passwords_lock_the_account(double_with: DoubleWith) -> None:
    made = double_with()
    for _ in range(9):
        refusal(made.url, password="wrong")
    psycopg.connect(made.url).close()  # a right one starts the count anew
    for _ in range(10):
        assert _DENIED in refusal(made.url, password="wrong")
    assert "The account has been locked." in refusal(made.url)


def test_the_initial_user_may_not_come_from_afar(double_with: DoubleWith) -> None:
    made = double_with(initial_user="postgres", treat_as_remote=True)
    assert "Forbid remote connection with initial user." in refusal(made.url)


def test_the_initial_user_may_come_from_here(double_with: DoubleWith) -> None:
    psycopg.connect(double_with(initial_user="postgres").url).close()


def test_a_password_is_stored_as_the_setting_says_when_it_is_set(double_with: DoubleWith) -> None:
    made = double_with()
    accounts = made.double.accounts
    with psycopg.connect(made.url, autocommit=True) as connection:
        try:
            accounts.password_encryption_type = 2
            connection.execute("CREATE USER bridge CREATEDB PASSWORD 'Bridge#2024'")
            assert accounts.by_name["bridge"].stored is Stored.SHA256
            assert "SASL" in refusal(made.double.url(made.database, "bridge"))
            accounts.password_encryption_type = 1
            assert "SASL" in refusal(made.double.url(made.database, "bridge"))  # old hashes are not converted
            connection.execute("ALTER USER bridge PASSWORD 'Bridge#2025'")
            connection.execute("ALTER ROLE bridge SET session_timeout = 0")
            with psycopg.connect(made.double.url(made.database, "bridge")) as other:
                assert other.execute("SELECT current_user::text, session_user::text").fetchone() == ("bridge", "bridge")
                assert other.execute("SHOW session_timeout").fetchone() == ("0",)
                assert other.info.parameter_status("is_sysadmin") == "off"
                other.execute("ALTER ROLE bridge SET session_timeout = '1h'")
                other.execute("CREATE TABLE mine (a int)")
                schema = other.execute("SELECT schemaname::text FROM pg_tables WHERE tablename = 'mine'").fetchone()
                assert schema == ("bridge",)
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    other.execute("CREATE TABLE public.theirs (a int)")
        finally:
            connection.execute("DROP OWNED BY bridge CASCADE; DROP ROLE bridge")


def test_not_even_its_databases_owner_creates_in_public(double_with: DoubleWith) -> None:
    made = double_with()
    with psycopg.connect(made.maintenance_url, autocommit=True) as connection:
        connection.execute("CREATE USER keeper CREATEDB PASSWORD 'Bridge#2024'")
        try:
            with psycopg.connect(made.double.url(user="keeper"), autocommit=True) as keeper:
                keeper.execute("CREATE DATABASE kept DBCOMPATIBILITY 'PG'")
            with psycopg.connect(made.double.url("kept", "keeper")) as keeper:
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    keeper.execute("CREATE TABLE public.theirs (a int)")
                keeper.rollback()
                keeper.execute("CREATE SCHEMA keeper CREATE TABLE ours (a int)")
        finally:
            connection.execute("DROP DATABASE IF EXISTS kept")
            connection.execute("DROP OWNED BY keeper CASCADE; DROP ROLE keeper")


def test_other_protocols_are_refused(double_with: DoubleWith) -> None:
    made = double_with()
    for code in (80877104, 196610):  # GSSENCRequest; 3.2
        with socket.create_connection((made.double.host, made.double.port)) as client:
            client.sendall(struct.pack("!ii", 8, code))
            assert b"unsupported frontend protocol" in client.makefile("rb").read()


def test_the_double_declines_tls(double_with: DoubleWith) -> None:
    made = double_with()
    psycopg.connect(made.url.replace("sslmode=disable", "sslmode=prefer")).close()
    assert "SSL" in refusal(made.url.replace("sslmode=disable", "sslmode=require"))
