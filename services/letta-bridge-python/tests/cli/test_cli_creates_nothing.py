"""No command creates a database, a schema, a table or a session file, but those that set an installation up."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis
from typer.main import get_command
from typer.testing import CliRunner, Result

from letta_bridge.main import app
from local_stack.letta_double.process import LettaDouble
from local_stack.postgres import Postgres

pytestmark = pytest.mark.integration

CREATING = {
    "run",
    "migrate",
    "restore",
    "sessions migrate",
    "vectors import",
    "vectors prepare",
    "vectors reembed",
    "vectors sync",
}
"""Commands that set an installation up. Where one has an option that only looks, that stands in LOOKING."""

LOOKING = {
    "backup": ("{folder}/backup", "--no-agents"),
    "config": (),
    "dead list": (),
    "dead show": ("abcd",),
    "doctor": (),
    "lanes": (),
    "migrate": ("--check",),
    "replay": ("--dead", "1..2"),
    "send": ("hello", "--wait", "0.1"),
    "sessions conflicts": (),
    "sessions duplicates": (),
    "sessions list": (),
    "sessions migrate": ("--to", "database", "--dry-run"),
    "sessions restore": (),
    "sessions settings": ("ada",),
    "sessions show": ("abcd",),
    "sessions statistics": (),
    "sessions test": (),
    "status": (),
    "tail": ("--no-follow",),
    "user erase": ("ada", "--dry-run"),
    "user export": ("ada", "--to", "{folder}/export"),
    "user folder": ("ada",),
    "user show": ("ada",),
    "vectors import": ("--from", "sqlite:///{folder}/letta.db", "--dry-run"),
    "vectors search": ("hello", "--all"),
    "vectors stats": (),
}
CHANGING = {
    "dead drop": ("--all",),
    "dead retry": ("--all",),
    "drain": ("--timeout", "0.1"),
    "pause": (),
    "resume": (),
    "sessions cleanup": (),
    "sessions delete": ("abcd",),
    "sessions settings": ("ada", "--no-permanent-memory"),
    "sessions undelete": ("abcd",),
    "user drop": ("ada", "--yes"),
    "user erase": ("ada", "--yes", "--wait", "0"),
    "user hold": ("ada", "--for", "1s"),
    "user release": ("ada",),
    "vectors reindex": (),
}
"""Commands that change what there is; a mistyped name must not look like an empty installation to them either."""

MUST_NAME_DATABASE = {
    "backup",
    "migrate",
    "sessions cleanup",
    "sessions delete",
    "sessions list",
    "sessions migrate",
    "sessions restore",
    "sessions settings",
    "sessions show",
    "sessions statistics",
    "sessions test",
    "sessions undelete",
    "user erase",
    "user export",
    "user show",
    "vectors reindex",
    "vectors stats",
}

CASES = [
    *((name, arguments) for name, arguments in LOOKING.items()),
    *((name, arguments) for name, arguments in CHANGING.items()),
]
NAMES = [f"{name} {' '.join(arguments)}" for name, arguments in CASES]


def commands(group: Any, before: tuple[Any, ...] = ()) -> Iterator[Any]:
    """The names of all commands, as typed."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*before, name))
        else:
            yield " ".join((*before, name))


@pytest.fixture(scope="module")
def letta_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Letta without agents, so that commands come as far as the database."""
    double = LettaDouble(logs=tmp_path_factory.mktemp("letta"))
    double.start()
    double.wait_ready()
    yield double.url
    double.kill()


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, redis_url: str, letta_url: str) -> Callable[..., Any]:
    """A command with an empty configuration, on an empty Redis and an empty Letta."""
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    for name in ("DATABASE_URL", "DB_SCHEMA", "DB_GENERATE_SCHEMAS", "LETTA_API_KEY"):
        monkeypatch.delenv(name, raising=False)

    def call(name: str, arguments: tuple[Any, ...], **environ: str) -> Result:
        variables = {
            "LETTA_BRIDGE_CONFIG": str(tmp_path / "config.json"),
            "DATA_DIR": str(tmp_path / "data"),
            "REDIS_URL": redis_url,
            "LETTA_API_URL": letta_url,
            "TERM": "dumb",
        }
        given = [argument.format(folder=tmp_path) for argument in arguments]
        result = CliRunner().invoke(app, [*name.split(), *given], env=variables | environ)
        assert "Usage:" not in result.output, result.output  # a command that is not understood creates nothing anyway
        return result

    return call


def databases(server: Postgres) -> set[str]:
    with psycopg.connect(server.url(), autocommit=True) as connection:
        return {name for (name,) in connection.execute("SELECT datname FROM pg_database")}


def schemas(url: str) -> set[str]:
    """Every schema that is not PostgreSQL's own, and every table."""
    with psycopg.connect(url, autocommit=True) as connection:
        found = connection.execute(
            "SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema' "
            "UNION ALL SELECT schemaname || '.' || tablename FROM pg_tables "
            "WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
        )
        return {name for (name,) in found}


def test_every_command_is_tried_or_named_as_creating() -> None:
    assert {*commands(get_command(app))} == CREATING | LOOKING.keys() | CHANGING.keys()


@pytest.mark.parametrize(("name", "arguments"), CASES, ids=NAMES)
def test_a_command_creates_no_mistyped_database(
    call: Callable[..., Any], postgres_server: Postgres, name: str, arguments: tuple[Any, ...]
) -> None:
    before = databases(postgres_server)
    result = call(name, arguments, DATABASE_URL=postgres_server.url("mistyped"))
    assert databases(postgres_server) == before
    if name in MUST_NAME_DATABASE:
        assert result.exit_code, result.output
        assert "mistyped on" in result.output
        assert "does not exist" in result.output
        assert "letta-bridge migrate" in result.output


@pytest.mark.parametrize(("name", "arguments"), CASES, ids=NAMES)
def test_a_command_creates_no_mistyped_schema(
    call: Callable[..., Any], postgres_url: str, name: str, arguments: tuple[Any, ...]
) -> None:
    before = schemas(postgres_url)
    result = call(name, arguments, DATABASE_URL=postgres_url, DB_SCHEMA="mistyped")
    assert schemas(postgres_url) == before
    if name in MUST_NAME_DATABASE:
        assert result.exit_code, result.output
        if name != "migrate":  # lists what is missing, step by step
            assert "has no schema mistyped" in result.output
            assert "letta-bridge migrate" in result.output


@pytest.mark.parametrize(("name", "arguments"), LOOKING.items(), ids=LOOKING)
def test_a_looking_command_creates_no_file_and_no_key(
    call: Callable[..., Any], tmp_path: Path, redis_url: str, name: str, arguments: tuple[Any, ...]
) -> None:
    result = call(name, arguments)
    assert not [*(tmp_path / "data").rglob("*.db*")], result.output
    with redis.Redis.from_url(redis_url) as client:
        assert name == "send" or not client.dbsize(), client.keys()  # send pushes a task, which may stay


def test_a_missing_session_file_is_named(call: Callable[..., Any], tmp_path: Path) -> None:
    result = call("sessions list", ())
    assert result.exit_code == 0
    assert str(tmp_path / "data" / "sessions.db") in result.stderr
    assert "DATA_DIR" in result.stderr
