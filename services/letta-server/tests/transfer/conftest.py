"""Databases of Letta to move: one filled through SQL with what is hard to move, and empty ones on both engines."""

from __future__ import annotations

import itertools
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from letta_server.main import main
from letta_server.transfer import catalog, plan
from local_stack.postgres import Postgres

_COMMAND = Path(__file__).parents[2] / ".venv" / "bin" / "letta-server"
_TEMPLATE = "letta_move_template"
_READER = "letta_reader"
_NUMBERS = itertools.count(1)

ROWS = 8
MESSAGES = 50

_TEXTS = (
    "你好，世界 🌏",
    "quote ' double \" back\\slash \\N \\. \\x41 $1 %s",
    "tab\there\nnew line\r\nand \x01 control \x7f",
    "",
    " spaces ",
    "NULL",
    "a" * 500,
)
_LARGE = ("messages", "text", 7)
"""Table, column and row of a text of six megabytes."""
_JSONS = (
    '{ "b" : 1, "a" : [1.10, 1e3, "\\u4f60\\n"] , "b": null}',
    "[]",
    "null",
    '"quote \\" and back\\\\slash 你好"',
    '{"深": {"nested": [{}, [], ""]}}',
)
_TIMES = ("2026-11-20 10:30:24.123456+08", "1999-12-31 23:59:59.1+00", "2026-02-28 00:00:00+00", "infinity")
_EMPTY = _TEXTS.index("")
_NUMBERS_BY_TYPE = {"integer": 2**31 - 1, "bigint": -(2**60)}
_POOLS = {
    "json": _JSONS,
    "timestamp with time zone": _TIMES,
    "timestamp without time zone": _TIMES,
    "boolean": (True, False),
}
_FOREIGN_KEYS = """
    SELECT c.relname, f.relname, k.conkey, k.confkey
    FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_class f ON f.oid = k.confrelid
    WHERE k.contype = 'f'
"""
_LENGTHS = (
    "SELECT attrelid::regclass::text, attname, atttypmod - 4 FROM pg_attribute WHERE atttypid = 'varchar'::regtype"
)
_ENUMS = "SELECT typname, array_agg(enumlabel::text) FROM pg_enum JOIN pg_type ON pg_type.oid = enumtypid GROUP BY 1"


class Doubles:
    """openGauss doubles in processes of their own, one a profile; they take over databases made elsewhere."""

    def __init__(self, server: Postgres, held: ExitStack) -> None:
        self._server = server
        self._held = held
        self._places: dict[str, str] = {}

    def url(self, profile: str, database: str) -> str:
        if profile not in self._places:
            self._places[profile] = self._start(profile)
        account = self._server.url().partition("@")[0]
        return f"{account}@{self._places[profile]}/{database}"

    def _start(self, profile: str) -> str:
        options = ["--profile", profile, "--listen", "127.0.0.1:0", "--upstream", self._server.url(), "--adopt", "PG"]
        process = subprocess.Popen(
            [sys.executable, "-m", "opengauss_double", *options], stdout=subprocess.PIPE, text=True
        )
        self._held.enter_context(process)
        self._held.callback(process.terminate)
        assert process.stdout is not None
        return process.stdout.readline().strip().rpartition(" ")[2]


class Databases:
    """Databases with Letta's schema, on PostgreSQL and on doubles in front of it."""

    def __init__(self, server: Postgres, doubles: Doubles, held: ExitStack) -> None:
        self._server = server
        self._doubles = doubles
        self._held = held

    def ready(self, profile: str | None = None) -> str:
        """The URL of one that has the schema and no rows; of a double's where a profile is named."""
        return self._url(profile, self._copy(_TEMPLATE))

    def missing(self, profile: str | None = None) -> str:
        """The URL of one that is not there."""
        return self._url(profile, self._name())

    def beside(self, url: str) -> str:
        """The URL, on the same server, of the database from which others are made."""
        return f"{url.rpartition('/')[0]}/postgres"

    def filled(self, source: str) -> str:
        """The URL of a copy of the source that may be written to."""
        return self._url(None, self._copy(self.name(source)))

    def content(self, url: str) -> dict[str, list[str]]:
        """Every row of every table, as PostgreSQL writes it; and the sequence."""
        with self.connect(url) as connection:
            connection.execute("SET extra_float_digits = 1")
            everything = sql.SQL("SELECT t::text FROM {} t ORDER BY t::text")
            names = [
                name for (name,) in connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
            ]
            found = {
                name: [row for (row,) in connection.execute(everything.format(sql.Identifier(name)))] for name in names
            }
            sequence = connection.execute("SELECT last_value, is_called FROM message_seq_id").fetchall()
        return {**found, "message_seq_id": [str(sequence)]}

    def connect(self, url: str) -> Any:
        """A connection in autocommit; past the double, where there is one."""
        return closing(psycopg.connect(self._server.url(self.name(url)), autocommit=True))

    def names(self) -> set[str]:
        """Of all databases on the server."""
        with closing(psycopg.connect(self._server.url(), autocommit=True)) as connection:
            return {name for (name,) in connection.execute("SELECT datname FROM pg_database")}

    @staticmethod
    def name(url: str) -> str:
        return url.rpartition("/")[2]

    def _url(self, profile: str | None, name: str) -> str:
        return self._server.url(name) if profile is None else self._doubles.url(profile, name)

    def _copy(self, template: str) -> str:
        name = self._name()
        self._run(f"CREATE DATABASE {name} TEMPLATE {template}")
        return name

    def _name(self) -> str:
        name = f"letta_move_{next(_NUMBERS)}"
        self._held.callback(self._run, f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        return name

    def _run(self, statement: str) -> None:
        with closing(psycopg.connect(self._server.url(), autocommit=True)) as connection:
            connection.execute(statement.encode())


@pytest.fixture(scope="session")
def _template(postgres_server: Postgres, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Letta's schema, made once by the command itself."""
    if not _COMMAND.exists():
        pytest.skip("services/letta-server/.venv is not installed")
    home = tmp_path_factory.mktemp("letta")
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "LETTA_PG_URI": postgres_server.url(_TEMPLATE)}
    subprocess.run([_COMMAND, "init", "--data", home], cwd=home, env=environment, check=True, capture_output=True)


@pytest.fixture(scope="session")
def _doubles(postgres_server: Postgres) -> Iterator[Doubles]:
    with ExitStack() as held:
        yield Doubles(postgres_server, held)


@pytest.fixture
def databases(postgres_server: Postgres, _doubles: Doubles, _template: None) -> Iterator[Databases]:
    with ExitStack() as held:
        yield Databases(postgres_server, _doubles, held)


@pytest.fixture(scope="session")
def source(postgres_server: Postgres, _doubles: Doubles, _template: None) -> Iterator[str]:
    """The URL of a filled database, as a user who may only read it."""
    with ExitStack() as held:
        databases = Databases(postgres_server, _doubles, held)
        url = databases.ready()
        with databases.connect(url) as connection:
            Filling(connection).run()
            connection.execute(f"CREATE ROLE {_READER} LOGIN PASSWORD 'reader'")
            connection.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {_READER}")
            connection.execute(f"GRANT SELECT ON ALL SEQUENCES IN SCHEMA public TO {_READER}")
        yield f"postgresql://{_READER}:reader@{url.partition('@')[2]}"
        with databases.connect(url) as connection:
            connection.execute(f"DROP OWNED BY {_READER}")
            connection.execute(f"DROP ROLE {_READER}")


@pytest.fixture
def move(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """`move(source, target, *options)`: exit code, stdout and stderr of the command, run in this process."""

    def run(source: str, target: str, *options: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(["move", "--from", source, "--to", target, *options])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


class Filling:
    """Rows for every table, from its columns' types; row i points to row i of other tables."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._random = random.Random(7)
        self._tables = catalog.tables(connection)
        self._lengths = {(table, name): length for table, name, length in connection.execute(_LENGTHS)}
        self._enums = dict(connection.execute(_ENUMS).fetchall())
        self._rows: dict[str, list[dict[str, Any]]] = {}
        numbered = {
            (table, number): name
            for table, name, number in connection.execute(
                "SELECT attrelid::regclass::text, attname, attnum FROM pg_attribute"
            )
        }
        self._pointers: dict[str, list[tuple[str, list[tuple[str, str]]]]] = {}
        for table, other, ours, theirs in connection.execute(_FOREIGN_KEYS):
            pairs = [(numbered[table, a], numbered[other, b]) for a, b in zip(ours, theirs, strict=True)]
            self._pointers.setdefault(table, []).append((other, pairs))

    def run(self) -> None:
        del self._tables["alembic_version"]
        for step in plan.steps(self._tables):
            if step.pointers:
                self._point(step)
                continue
            count = MESSAGES if step.table.name == "messages" else ROWS
            self._rows[step.table.name] = [self._row(step, number) for number in range(count)]
            self._insert(step.table)
        self._connection.execute("SELECT setval('message_seq_id', 123456)")

    def _insert(self, table: Any) -> None:
        statement = sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(
            sql.Identifier(table.name),
            sql.SQL(", ").join(map(sql.Identifier, table.column_names)),
            sql.SQL(", ").join([sql.Placeholder()] * len(table.columns)),
        )
        with self._connection.cursor() as cursor:
            cursor.executemany(statement, [tuple(row.values()) for row in self._rows[table.name]])

    def _row(self, step: Any, number: int) -> dict[str, Any]:
        row = {
            column.name: self._value(step.table, column, place, number)
            for place, column in enumerate(step.table.columns)
        }
        for other, pairs in self._pointers.get(step.table.name, []):
            for ours, theirs in pairs:
                if ours in step.later:
                    row[ours] = None
                elif row[ours] is not None:
                    row[ours] = self._rows[other][number % ROWS][theirs]
        return row

    def _point(self, step: Any) -> None:
        for other, pairs in self._pointers[step.table.name]:
            for ours, theirs in pairs:
                if ours in step.pointers:
                    statement = sql.SQL("UPDATE {} SET {} = %s WHERE id = %s").format(
                        sql.Identifier(step.table.name), sql.Identifier(ours)
                    )
                    # The first one points nowhere.
                    for row, pointed in list(zip(self._rows[step.table.name], self._rows[other], strict=True))[1:]:
                        self._connection.execute(statement, [pointed[theirs], row["id"]])

    def _value(self, table: Any, column: Any, place: int, number: int) -> Any:
        if (table.name, column.name, number) == _LARGE:
            return "大" * 2_000_000
        if column.nullable and (number + place) % 3 == 0:
            return None
        variant = number + place
        if column.type in {"character varying", "text"}:
            return self._text(table, column, variant, number)
        if column.type == "vector":
            return str([self._random.uniform(-1, 1) * 10 ** self._random.randint(-30, 3) for _ in range(4096)])
        if column.type in _NUMBERS_BY_TYPE:
            return _NUMBERS_BY_TYPE[column.type] - number
        pool = self._enums.get(column.type) or _POOLS[column.type]
        return pool[variant % len(pool)]

    def _text(self, table: Any, column: Any, variant: int, number: int) -> str:
        length = self._lengths.get((table.name, column.name), -1)
        if length < 0 and column.name not in table.key and variant % len(_TEXTS) == _EMPTY:
            return ""
        # The number makes it unique where it has to be.
        text = f"{number}-{_TEXTS[variant % len(_TEXTS)]}"
        return text[:length] if length > 0 else text
