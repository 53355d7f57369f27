"""``letta-server init``: idempotent, whole or not at all, and not on somebody else's tables."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from typing import Any, Final

import pytest

pytestmark = [pytest.mark.integration, pytest.mark.letta, pytest.mark.xdist_group("letta-server")]

KILLS: Final = int(os.environ.get("LETTA_SERVER_TEST_KILLS", "1"))
"""More of them take more time: LETTA_SERVER_TEST_KILLS=20."""

# Stops the making of the schema at one table, as long as somebody holds the lock.
HALT = """
CREATE FUNCTION halt() RETURNS event_trigger LANGUAGE plpgsql AS $$
BEGIN
    IF to_regclass('public.messages') IS NOT NULL THEN PERFORM pg_advisory_xact_lock(4711); END IF;
END $$;
CREATE EVENT TRIGGER halt ON ddl_command_end EXECUTE FUNCTION halt();
"""


def tables(postgres: Any, database: str) -> list[str]:
    with postgres.connect(database) as connection:
        query = "SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1"
        return [name for (name,) in connection.execute(query)]


@pytest.fixture
def empty(postgres: Any, database: str) -> str:
    """A database that exists and holds nothing."""
    with postgres.connect() as connection:
        connection.execute(f'CREATE DATABASE "{database}"')
    return database


def test_check_reports_and_changes_nothing(letta_server: Any, postgres: Any, database: str) -> None:
    settings = postgres.variables(database)
    code, said = letta_server.run("init", "--check", settings=settings)
    assert (code, "does not exist" in said) == (1, True)
    assert letta_server.run("init", settings=settings)[0] == 0
    code, said = letta_server.run("init", "--check", settings=settings)
    assert (code, "holds Letta 0.16.8's schema" in said) == (0, True)
    code, said = letta_server.run("init", settings=settings)
    assert (code, said) == (0, "")
    code, said = letta_server.run("check", settings=settings)
    assert (code, "holds Letta" in said) == (0, True)


def test_tables_are_found_where_they_are_whatever_the_search_path_says(
    letta_server: Any, postgres: Any, database: str
) -> None:
    settings = postgres.variables(database)
    assert letta_server.run("init", settings=settings)[0] == 0
    with postgres.connect() as connection:
        connection.execute(f'ALTER DATABASE "{database}" SET search_path = nowhere')
        connection.execute(f'ALTER DATABASE "{database}" SET DateStyle = German')
    code, said = letta_server.run("init", "--check", settings=settings)
    assert (code, "holds Letta 0.16.8's schema" in said) == (0, True)
    with postgres.connect(database) as connection:
        connection.execute("SET search_path TO public; CREATE SCHEMA other; ALTER TABLE agents SET SCHEMA other")
        for table in ("alembic_version", "messages"):
            connection.execute(f"CREATE TABLE other.{table} (LIKE public.{table})")
        connection.execute("CREATE TABLE public.agents (id text)")
    code, said = letta_server.run("init", "--check", settings=settings)
    assert (code, "several schemas (other, public)" in said) == (1, True)


@pytest.mark.parametrize(
    ("setting", "named"),
    [("default_transaction_read_only = on", "read-only"), ("session_replication_role = replica", "foreign keys")],
)
def test_a_database_in_which_letta_would_fail_or_lose_data_is_refused(
    letta_server: Any, postgres: Any, empty: str, setting: str, named: str
) -> None:
    with postgres.connect() as connection:
        connection.execute(f'ALTER DATABASE "{empty}" SET {setting}')
    code, said = letta_server.run("init", settings=postgres.variables(empty))
    assert (code, named in said, said.count("\n")) == (1, True, 1)


def test_ten_at_once_make_one_schema(letta_server: Any, postgres: Any, server: Any, database: str) -> None:
    started = [letta_server.start("init", settings=server.variables(database)) for _ in range(10)]
    codes = [one.ended() for one in started]
    assert not [one.said for one, code in zip(started, codes, strict=True) if code]
    assert sum("now holds" in one.said for one in started) >= 1
    assert len(tables(postgres, database)) == 49
    with postgres.connect(database) as connection:
        assert connection.execute("SELECT count(*) FROM alembic_version").fetchone() == (1,)


def test_killed_anywhere_the_next_one_succeeds(
    letta_server: Any, postgres: Any, server: Any, database: str, dice: random.Random
) -> None:
    settings = server.variables(database)
    longest = 5.0  # seconds; most of it is the import of Letta's models
    for _ in range(KILLS):
        victim = letta_server.start("init", settings=settings)
        with contextlib.suppress(subprocess.TimeoutExpired):
            victim.process.wait(dice.uniform(0, longest))
            longest = max(1.0, longest / 2)
        victim.process.kill()
        victim.process.wait()
    code, said = letta_server.run("init", settings=settings)
    assert code == 0, said
    code, said = letta_server.run("init", "--check", settings=settings)
    assert code == 0, said
    assert len(tables(postgres, database)) == 49


@pytest.fixture
def dice() -> random.Random:
    """Random, but the same again with LETTA_SERVER_TEST_SEED."""
    seed = int(os.environ.get("LETTA_SERVER_TEST_SEED", random.SystemRandom().randrange(10**6)))
    print(f"LETTA_SERVER_TEST_SEED={seed}")  # noqa: T201 - pytest shows it with a failure
    return random.Random(seed)


def test_killed_in_the_middle_it_leaves_nothing_and_the_next_one_succeeds(
    letta_server: Any, postgres: Any, empty: str
) -> None:
    settings = postgres.variables(empty)
    with postgres.connect(empty) as holder:
        holder.execute(HALT)
        holder.execute("SELECT pg_advisory_lock(4711)")
        victim = letta_server.start("init", settings=settings)
        halted = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 4711 AND NOT granted"
        until(lambda: holder.execute(halted).fetchone() == (1,), victim)
        victim.process.kill()
        assert victim.ended() == -signal.SIGKILL
        holder.execute("SELECT pg_advisory_unlock(4711)")
        others = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'letta-server'"
        until(lambda: holder.execute(others).fetchone() == (0,))
        assert tables(postgres, empty) == []
        holder.execute("DROP EVENT TRIGGER halt")
    code, said = letta_server.run("init", settings=settings)
    assert code == 0, said
    assert len(tables(postgres, empty)) == 49


def until(reached: Callable[[], bool], started: Any = None) -> None:
    deadline = time.monotonic() + 60
    while not reached():
        assert started is None or started.process.poll() is None, started.said
        assert time.monotonic() < deadline
        time.sleep(0.02)


_MARKS = "CREATE TABLE agents (id text); CREATE TABLE messages (id text)"


@pytest.fixture(
    params=[
        ("CREATE TABLE customers (id int)", "customers"),
        (_MARKS, "not Letta's"),
        (f"CREATE TABLE alembic_version (version_num text); {_MARKS}", "revision none"),
        (f"CREATE TABLE alembic_version AS SELECT 'a08c972e781b' AS version_num; {_MARKS}", "a08c972e781b"),
        ("CREATE TABLE alembic_version AS SELECT 'abc' AS version_num; CREATE TABLE shops (id text)", "not Letta's"),
    ],
    ids=["foreign", "no stamp", "empty stamp", "older", "foreign with a stamp"],
)
def unknown(request: pytest.FixtureRequest, postgres: Any, empty: str) -> tuple[str, str]:
    """A database with a schema we did not make, and a word the refusal names it by."""
    statements, named = request.param
    with postgres.connect(empty) as connection:
        connection.execute(statements)
    return empty, named


@pytest.mark.parametrize("command", ["init", "init --check", "check", "run --port 0"])
def test_a_schema_that_is_not_ours_is_refused_untouched(
    letta_server: Any, postgres: Any, unknown: tuple[str, str], command: Any
) -> None:
    database, named = unknown
    before = tables(postgres, database)
    code, said = letta_server.run(*command.split(), settings=postgres.variables(database))
    assert code == 1
    assert named in said
    assert tables(postgres, database) == before


@pytest.fixture(scope="module")
def role(postgres: Any) -> dict[str, str]:
    """A user with a password and no rights."""
    with postgres.connect() as connection:
        connection.execute("CREATE ROLE plain LOGIN PASSWORD 'plain'")
    return {"LETTA_PG_USER": "plain", "LETTA_PG_PASSWORD": "plain"}


def test_a_wrong_password_is_one_sentence_without_it(letta_server: Any, postgres: Any, database: str) -> None:
    code, said = letta_server.run("init", settings=postgres.variables(database, LETTA_PG_PASSWORD="wr0ng"))
    assert code == 1
    assert "password authentication failed" in said
    assert said.count("\n") == 1
    assert "wr0ng" not in said


@pytest.mark.parametrize("command", ["init", "init --check"])
def test_init_without_the_right_to_create_a_database_names_the_statement(
    letta_server: Any, postgres: Any, database: str, role: dict[str, str], command: Any
) -> None:
    code, said = letta_server.run(*command.split(), settings=postgres.variables(database, **role))
    assert code == 1
    assert f'CREATE DATABASE "{database}" OWNER "plain"' in said


def test_init_without_the_right_to_create_extensions_fails(
    letta_server: Any, postgres: Any, empty: str, role: dict[str, str]
) -> None:
    with postgres.connect() as connection:
        connection.execute(f'ALTER DATABASE "{empty}" OWNER TO plain')
    code, said = letta_server.run("init", settings=postgres.variables(empty, **role))
    assert code == 1
    assert "CREATE EXTENSION vector" in said
    assert tables(postgres, empty) == []


def test_init_without_the_right_to_create_tables_fails(
    letta_server: Any, postgres: Any, empty: str, role: dict[str, str]
) -> None:
    with postgres.connect(empty) as connection:
        connection.execute("CREATE EXTENSION vector")
    code, said = letta_server.run("init", settings=postgres.variables(empty, **role))
    assert code == 1
    assert f'ALTER DATABASE "{empty}" OWNER TO "plain"' in said
