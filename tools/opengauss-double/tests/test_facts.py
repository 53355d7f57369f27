"""Every row of the fact tables, through a driver, on each profile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from opengauss_double import facts
from opengauss_double.plugin import OpenGauss

pytestmark = pytest.mark.integration

Connection = psycopg.Connection[Any]
Refused = Callable[..., tuple[str, str]]


def test_syntax_that_a_release_lacks_is_refused(profile: str, refused: Refused) -> None:
    for row in facts.table("syntax")["rule"]:
        if profile not in row.get("rejected", [profile]):
            continue
        for example in row["examples"]:
            answer = refused(example)
            assert answer[0] == row.get("sqlstate", "42601"), (example, answer)


def test_syntax_that_only_other_releases_refuse(profile: str, refused: Refused) -> None:
    for row in facts.table("syntax")["rule"]:
        if profile in row.get("rejected", [profile]):
            continue
        for example in row["examples"]:
            if not example.startswith("COPY"):  # test_copying has those
                assert refused(example) == ("", ""), example


def test_syntax_of_every_release_is_accepted(refused: Refused) -> None:
    answers = {statement: refused(statement) for statement in facts.table("syntax")["accepted"]["all"]}
    assert {statement: answer for statement, answer in answers.items() if answer != ("", "")} == {}


def test_functions_that_a_release_lacks_are_refused(profile: str, refused: Refused) -> None:
    for row in facts.table("catalog")["functions"]:
        answer = refused(f"SELECT {row['example']}")
        if profile in row.get("rejected", [profile]):
            assert answer[0] == "42883", row
            assert answer[1].startswith(f"function {row['name']}("), answer
        else:
            assert answer == ("", ""), row


def test_functions_of_every_release_are_accepted(refused: Refused) -> None:
    answers = {call: refused(f"SELECT {call}") for call in facts.table("catalog")["present"]}
    assert {call: answer for call, answer in answers.items() if answer != ("", "")} == {}


def test_operators_that_a_release_lacks_are_refused(profile: str, refused: Refused) -> None:
    for row in facts.table("catalog")["operators"]:
        answer = refused(f"SELECT {row['example']}")
        if profile in row.get("rejected", [profile]):
            assert answer == ("42883", f"operator does not exist: jsonb {row['name']} {row['right']}")
        else:
            assert answer == ("", ""), row


def test_settings_of_postgresql_alone_are_refused(refused: Refused) -> None:
    for name in facts.table("settings")["missing"]:
        message = f'unrecognized configuration parameter "{name}"'
        assert refused(f"SET {name} = 1") == ("42704", message)
        assert refused(f"SET LOCAL {name} TO DEFAULT") == ("42704", message)
        assert refused(f"SHOW {name}") == ("42704", message)
        assert refused(f"SELECT set_config('{name}', '1', true)") == ("42704", message)


def test_settings_of_opengauss_have_their_values(connection: Connection) -> None:
    for name, value in facts.table("settings")["own"].items():
        cursor = connection.execute(f"SHOW {name}")
        assert cursor.description
        assert cursor.description[0].name == name
        assert cursor.fetchone() == (value,)


def test_jsonb_concatenation_is_silent_garbage(connection: Connection) -> None:
    assert connection.execute("""SELECT '{"a": 1}'::jsonb || '{"b": 2}'""").fetchone() == ('{"a": 1}{"b": 2}',)


def test_json_and_jsonb_convert_only_explicitly(refused: Refused) -> None:
    made = "CREATE TABLE pg_temp.documents (a json); "
    assert refused(made + "INSERT INTO documents VALUES ('{}'::jsonb)")[0] == "42804"  # noqa: S608 - the test's own words
    assert refused(made + "INSERT INTO documents VALUES ('{}'::jsonb::json)") == ("", "")  # noqa: S608 - the test's own words
    assert refused(made + "ALTER TABLE documents ALTER a TYPE jsonb")[0] == "42804"
    assert refused(made + "ALTER TABLE documents ALTER a TYPE jsonb USING a::jsonb") == ("", "")


def test_the_second_operator_class_of_jsonb_has_another_name(refused: Refused) -> None:
    made = "CREATE TABLE pg_temp.documents (a jsonb); CREATE INDEX ON documents USING gin "
    assert refused(made + "(a jsonb_hash_ops)") == ("", "")
    assert refused(made + "(a jsonb_path_ops)")[0] == "42704"


def test_subscripts_of_jsonb_are_refused(refused: Refused) -> None:
    assert refused("""SELECT ('{"a": 1}'::jsonb)['a']""")[0] == "42804"


def test_integer_division_is_a_float(connection: Connection, refused: Refused) -> None:
    assert connection.execute("SELECT 5 / 2, 5::bigint / 2::smallint, div(5, 2)::int").fetchone() == (2.5, 2.5, 2)
    assert refused("SELECT 1 / 0")[0] == "22012"


def test_vectors_exist_from_the_release_that_has_them(profile: str, connection: Connection, refused: Refused) -> None:
    known = connection.execute("SELECT count(*) FROM pg_type WHERE typname = 'vector'").fetchone()
    datavec = profile in {"6.0.2", "7.0"}
    assert known == (int(datavec),)
    made = "CREATE TABLE pg_temp.points (v vector(3)); "
    if not datavec:
        assert refused(made) == ("42704", 'type "vector" does not exist')
        assert refused("SET hnsw_ef_search = 10")[0] == "42704"
        return
    index = "CREATE INDEX ON points USING hnsw (v vector_cosine_ops) WITH (m = 16, ef_construction = 64); "
    assert refused(made + index + "SELECT '[1,2,3]'::vector <=> v FROM points") == ("", "")  # noqa: S608 - the test's own words
    assert refused("SET LOCAL hnsw_ef_search = 10; SET LOCAL ivfflat_probes = 2; SHOW hnsw_ef_search") == ("", "")
    assert refused("SELECT '[1]'::halfvec")[0] == "42704"
    assert connection.execute("SELECT count(*) FROM pg_extension WHERE extname = 'vector'").fetchone() == (0,)


def test_a_function_of_the_users_own_stands_in_for_a_missing_one(refused: Refused) -> None:
    shim = """CREATE FUNCTION public.gen_random_uuid() RETURNS uuid LANGUAGE sql
        AS $$ SELECT md5(random()::text || clock_timestamp()::text)::uuid $$; """
    assert refused(shim + "SELECT gen_random_uuid()") == ("", "")


def test_alter_type_add_value_outside_a_transaction(gauss: OpenGauss, connection: Connection) -> None:
    connection.rollback()
    connection.autocommit = True
    connection.execute("ALTER TYPE mood ADD VALUE IF NOT EXISTS 'calm'")
    connection.autocommit = False


def test_floats_have_fifteen_digits_unless_asked_for_more(connection: Connection) -> None:
    assert connection.execute("SELECT (0.1::float8 + 0.2::float8)::text").fetchone() == ("0.3",)
    connection.execute("SET LOCAL extra_float_digits = 3")
    assert connection.execute("SELECT (0.1::float8 + 0.2::float8)::text").fetchone() == ("0.30000000000000004",)


def test_double_reports_version_and_settings_of_the_release(profile: str, connection: Connection) -> None:
    [(version,)] = connection.execute("SELECT version()").fetchall()
    assert "PostgreSQL" not in version
    [(release,)] = connection.execute("SELECT opengauss_version()").fetchall()
    assert release.startswith(profile)
    assert f"(openGauss {release} build " in version
    assert connection.info.server_version == 90204
    assert connection.execute("SHOW server_version_num").fetchone() == ("90204",)
    assert connection.info.parameter_status("is_sysadmin") == "on"
    assert connection.info.parameter_status("is_superuser") is None
    assert (connection.info.parameter_status("collation_connection") is None) == (profile == "5.0")
