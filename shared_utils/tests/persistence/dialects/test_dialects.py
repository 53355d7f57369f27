"""Which server it is, what differs, and what its refusals to log in mean. No server is needed for that."""

from __future__ import annotations

import pytest

from shared_utils.persistence.dialects import OpenGauss, PostgreSQL, login_refusal, recognise
from shared_utils.persistence.errors import UnfitDatabase

GAUSS = "(openGauss {} build d1f02e70) compiled at 2024-10-11 10:39:30 commit 0 last mr   on x86_64-unknown-linux-gnu"


@pytest.mark.parametrize(
    ("says", "dialect"),
    [
        ("PostgreSQL 16.14 on x86_64-pc-linux-gnu, compiled by gcc", PostgreSQL((16, 14))),
        ("PostgreSQL 18beta1 (Debian 18~beta1) on x86_64", PostgreSQL((18,))),
        (GAUSS.format("5.0.0"), OpenGauss((5, 0, 0))),
        (GAUSS.format("6.0.2"), OpenGauss((6, 0, 2))),
        ("(openGauss-lite 7.0.0-RC3 build ) compiled at … release on …", OpenGauss((7, 0, 0))),
        ("openGauss 6.0.0 (distributed)", OpenGauss((6, 0, 0))),
    ],
)
def test_a_server_is_recognised(says: str, dialect: OpenGauss | PostgreSQL) -> None:
    assert recognise(says) == dialect


@pytest.mark.parametrize(
    ("says", "told"),
    [
        ("PostgreSQL 14.11 on x86_64", "too old.*15"),
        (GAUSS.format("3.1.1"), "too old.*5.0.0"),
        ("CockroachDB CCL v23.1.11", "CockroachDB"),
        ("EnterpriseDB PostgreSQL 9", "PostgreSQL >= 15"),
        ("", "openGauss >= 5.0"),
    ],
)
def test_unsupported_product_is_refused_with_the_supported_ones(says: str, told: str) -> None:
    with pytest.raises(UnfitDatabase, match=told):
        recognise(says)


def test_vectors_came_with_6_0_2() -> None:
    assert [OpenGauss(version).vectors for version in ((5, 0, 0), (6, 0, 1), (6, 0, 2), (7, 0, 0))] == [
        None,
        None,
        "builtin",
        "builtin",
    ]


@pytest.mark.parametrize(("mode", "empty_is_null"), [("A", True), ("A", False), ("B", False), (None, False)])
def test_another_mode_is_refused_with_the_statement_that_helps(mode: str | None, empty_is_null: bool) -> None:
    refusal = OpenGauss((6, 0, 0)).mode_refusal(mode, empty_is_null, 'my "db"')
    assert f"mode {mode or 'unknown'}" in str(refusal)
    assert 'CREATE DATABASE "my ""db""_pg" DBCOMPATIBILITY \'PG\'' in str(refusal)


def test_the_right_mode_is_not_refused() -> None:
    assert OpenGauss((6, 0, 0)).mode_refusal("PG", False, "db") is None
    assert PostgreSQL((16,)).mode_refusal(None, False, "db") is None


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ("none of the server's SASL authentication mechanisms are supported", "password_encryption_type=1"),
        ("AUTH_REQ_SASL_CONT without AUTH_REQ_SASL", "gs_guc reload"),
        ("authentication method 13 not supported", "SM3"),
        ("FATAL:  Forbid remote connection with initial user.", "CREATE USER bridge"),
        ("FATAL:  The account has been locked.", 'ALTER USER "bo" ACCOUNT UNLOCK'),
        ("FATAL:  Invalid username/password,login denied.", "check user, password"),
        ('致命错误:  用户 "bo" Password 认证失败', "check user, password"),
        ('没有用于主机 "10.0.0.1", 用户 "bo", 数据库 "db", no encryption 的 pg_hba.conf 记录', "pg_hba.conf"),
        ("server does not support SSL, but SSL was required", "sslmode"),
        ("SSL error: certificate verify failed", "sslrootcert"),
    ],
)
def test_refused_login_names_the_remedy(message: str, told: str) -> None:
    refusal = login_refusal(f'connection failed: connection to server at "10.1.1.1", port 5432 failed: {message}', "bo")
    assert refusal is not None
    assert told in str(refusal)


@pytest.mark.parametrize("message", ["Connection refused", 'FATAL:  database "x" does not exist', ""])
def test_other_failures_are_no_refused_login(message: str) -> None:
    assert login_refusal(message, "bo") is None
