from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opengauss_double import PROFILES, Refusal
from opengauss_double.statements import analysed
from opengauss_double.translate import DatabaseMade, RoleSet, SettingChanged, Translated, Translator
from opengauss_double.unique_keys import Column, UniqueIndex

_PIECES = (
    "SELECT",
    "INSERT INTO t",
    "INSERT INTO t VALUES",
    "(",
    ")",
    ",",
    ";",
    "ON",
    "CONFLICT",
    "DUPLICATE",
    "KEY",
    "UPDATE",
    "ON DUPLICATE KEY UPDATE",
    "NOTHING",
    "VALUES",
    "c",
    "=",
    "EXCLUDED",
    ".",
    "CREATE DATABASE",
    "x",
    "IF",
    "NOT",
    "EXISTS",
    "DBCOMPATIBILITY",
    "'PG'",
    "SET",
    "jit",
    "SHOW",
    "RESET",
    "LOCAL",
    "SESSION",
    "session_timeout",
    "TO",
    "0",
    "ALTER ROLE",
    "USER",
    "PASSWORD",
    "'secret'",
    "FROM",
    "unnest",
    "LATERAL",
    "AS",
    "WHERE",
    "RETURNING",
    "set_config",
    "current_setting",
    "''",
    '"q"',
    "$1",
    "WITH",
    "MERGE",
    "MATCHED",
    "AND",
    "datcompatibility",
    "[",
    "]",
    "||",
    "'open",
)


class _Lookups:
    async def unique_indexes(self, table: str) -> list[UniqueIndex] | None:
        return {
            "t": [UniqueIndex(frozenset({"id"}), ("id",), ""), UniqueIndex(frozenset({"c"}), ("lower(c)",), "(n > 0)")],
            "many": [UniqueIndex(frozenset({"id"}), ("id",), ""), UniqueIndex(frozenset({"c"}), ("c",), "")],
            "plain": [],
        }.get(table)

    async def columns(self, table: str) -> list[Column]:
        return [Column("id", "bigint", "7"), Column("c", "text", "NULL")] if table in ("t", "many") else []

    async def database_exists(self, name: str) -> bool:
        return name == "there"


def translated(sql: str, profile: str = "7.0", mode: str = "PG") -> Translated:
    (statement,) = analysed(sql, PROFILES[profile])
    return asyncio.run(Translator(PROFILES[profile], mode, _Lookups()).translated(statement, in_transaction=False))


@given(st.lists(st.sampled_from(_PIECES)).map(" ".join), st.sampled_from(sorted(PROFILES)), st.sampled_from("AB"))
def test_any_statement_is_translated_or_refused(sql: str, profile: str, mode: str) -> None:
    translator = Translator(PROFILES[profile], mode, _Lookups())
    for statement in analysed(sql, PROFILES[profile]):
        with suppress(Refusal):
            asyncio.run(translator.translated(statement, in_transaction=True))


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT  a /* '' */ ,\n 'jit' FROM t; ",
        "UPDATE t SET jit = 1, session_timeout = 2",
        "INSERT INTO t (id) VALUES ($1) -- ON DUPLICATE KEY UPDATE",
        "COPY t TO STDOUT (NULL '')",
        "SET TIME ZONE 'UTC'",
        "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL REPEATABLE READ",
        "",
    ],
)
@pytest.mark.parametrize("mode", ["A", "PG"])
def test_statement_valid_on_both_servers_is_not_translated(sql: str, mode: str) -> None:
    for statement in analysed(sql, PROFILES["7.0"])[:1]:
        translator = Translator(PROFILES["7.0"], mode, _Lookups())
        assert asyncio.run(translator.translated(statement, in_transaction=False)).sql.strip() == sql.strip(" ").strip()


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("SET LOCAL session_timeout TO 5", "SET LOCAL opengauss_double.session_timeout TO 5"),
        ("ALTER ROLE r SET session_timeout = 0", "ALTER ROLE r SET opengauss_double.session_timeout = 0"),
        ("ALTER ROLE r RESET session_timeout", "ALTER ROLE r RESET opengauss_double.session_timeout"),
        ("SET hnsw_ef_search = 9", "SET hnsw.ef_search = 9"),
        ("SELECT current_setting('session_timeout')", "SELECT current_setting('opengauss_double.session_timeout')"),
        ("CREATE ROLE r SYSADMIN LOGIN", "CREATE ROLE r SUPERUSER LOGIN"),
        ("SELECT datcompatibility FROM pg_database", "SELECT pg_database.datcompatibility FROM pg_database"),
        ("SELECT d.datcompatibility FROM pg_database d", "SELECT d.datcompatibility FROM pg_database d"),
        (
            "INSERT INTO t (id, n) VALUES ($1, $2) ON DUPLICATE KEY UPDATE t.n = VALUES(n) WHERE t.n < 5 RETURNING n;",
            (
                "INSERT INTO t (id, n) VALUES ($1, $2) ON CONFLICT (id) "
                "DO UPDATE SET n = EXCLUDED.n WHERE t.n < 5 RETURNING n;"
            ),
        ),
        (
            "INSERT INTO t (c, n) SELECT 'a', 1 ON DUPLICATE KEY UPDATE n = f(t.n, 2), m = (SELECT 1 WHERE true)",
            (
                "INSERT INTO t (c, n) SELECT 'a', 1 ON CONFLICT (lower(c)) WHERE (n > 0) "
                "DO UPDATE SET n = f(t.n, 2), m = (SELECT 1 WHERE true)"
            ),
        ),
        (
            "INSERT INTO many (c, id) VALUES ($1, 1 + $2) ON DUPLICATE KEY UPDATE n = 1",
            (
                'INSERT INTO many (c, id) VALUES ($1, coalesce((SELECT "id" FROM many WHERE (id) = (SELECT id FROM '
                '(SELECT CAST(1 + $2 AS bigint) AS "id") AS given WHERE true)), (SELECT "id" FROM many WHERE (c) = '
                '(SELECT c FROM (SELECT CAST($1 AS text) AS "c") AS given WHERE true)), 1 + $2) ) '
                "ON CONFLICT (id) DO UPDATE SET n = 1"
            ),
        ),
        (
            "INSERT INTO many VALUES (1, 'a') ON DUPLICATE KEY UPDATE n = EXCLUDED.id",
            "INSERT INTO many VALUES (1, 'a') ON CONFLICT (id) DO UPDATE SET n = EXCLUDED.id",
        ),
        ("INSERT INTO plain VALUES (1) ON DUPLICATE KEY UPDATE n = 1", "INSERT INTO plain VALUES (1)"),
    ],
)
def test_translated_statement_for_the_upstream(sql: str, expected: str) -> None:
    assert " ".join(translated(sql).sql.split()) == expected


def test_effects_of_translated_statements() -> None:
    assert translated("CREATE DATABASE x DBCOMPATIBILITY='B'").effects == (DatabaseMade("x", "B"),)
    assert translated("CREATE DATABASE x OWNER o").effects == (DatabaseMade("x", None),)
    assert translated("CREATE DATABASE IF NOT EXISTS there").effects == ()
    assert translated("CREATE USER u CREATEDB PASSWORD 'it''s'").effects == (RoleSet("u", True, "it's"),)
    assert translated("ALTER ROLE u IDENTIFIED BY 'x'").effects == (RoleSet("u", False, None),)
    assert translated("RESET ALL").effects == (SettingChanged(),)
    assert translated("SELECT 1").effects == ()


def test_mode_d_is_known_since_7() -> None:
    assert translated("CREATE DATABASE x DBCOMPATIBILITY 'D'").effects == (DatabaseMade("x", "D"),)
    with pytest.raises(Refusal, match="Compatibility args D is invalid"):
        translated("CREATE DATABASE x DBCOMPATIBILITY 'D'", profile="6.0")


def test_a_very_long_statement_is_read_once_over() -> None:
    sql = "INSERT INTO t (id) VALUES " + ", ".join(f"({number})" for number in range(5_000))  # noqa: S608 - a test's own words
    assert translated(sql).sql == sql
