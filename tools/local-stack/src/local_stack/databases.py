"""Test plugin: databases of every kind the project runs on, each test in a schema of its own.

==================  ========  ==========================================================================
fixture             scope     gives
==================  ========  ==========================================================================
`engine`            session   a parameter: each of `ENGINES`; narrow it with
                              `@pytest.mark.parametrize("engine", [...], indirect=True)`; a module or
                              folder with further kinds has a fixture of that name
`engine_url`        module    the URL of one database on that engine, the same in every module
`database_config`   test      a `DatabaseConfig` with a schema of its own there, dropped afterwards
`database`          test      an open `Database` on it
`url_of`            session   `url_of(engine)`: the URL of one database there, for tests of several at once
`statements_sent`   session   every statement those databases were sent
==================  ========  ==========================================================================

A test that cannot hold on an engine carries `@pytest.mark.differs("opengauss-5.0", reason="…")`.

What the project's own code sends through `database` has to be in docs/sql.md; a test fails where it is not. SQL that a
file below `tests/` sends itself is the test's own affair.
"""

from __future__ import annotations

import inspect
import traceback
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from itertools import count
from pathlib import Path
from typing import Final, cast

import psycopg
import pytest
from psycopg import sql

from local_stack.fixtures import missing_parts
from local_stack.pgbouncer import PgBouncer, PoolMode
from local_stack.postgres import Postgres
from local_stack.programs import CHECKOUT
from opengauss_double import PROFILES
from opengauss_double.plugin import running
from shared_utils.persistence.catalogue import known
from shared_utils.persistence.database import database as database_module
from shared_utils.persistence.database.config import DatabaseConfig
from shared_utils.persistence.database.database import Database
from shared_utils.persistence.dialects import Dialect, OpenGauss, PostgreSQL

DIRECT: Final = ("postgresql", "opengauss-5.0", "opengauss-6.0", "opengauss-7.0")
POOLED: Final = ("postgresql/transaction", "opengauss-6.0/transaction")
"""Behind a PgBouncer whose ``pool_mode`` stands after the slash; ``session`` may, too."""
ENGINES: Final = (*DIRECT, *POOLED)

_numbers = count(1)
_LAYER: Final = Path(database_module.__file__)


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker."""
    config.addinivalue_line("markers", "differs(engine, reason): the test does not hold on this engine, and why")


@pytest.fixture(scope="session", params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    """The kind of database."""
    return str(request.param)


@pytest.fixture(autouse=True)
def _engine_difference(request: pytest.FixtureRequest) -> None:
    for mark in request.node.iter_markers("differs"):
        if "engine" in request.fixturenames and request.getfixturevalue("engine").partition("/")[0] == mark.args[0]:
            pytest.skip(mark.kwargs["reason"])


@contextmanager
def _server(engine: str, postgres_server: Postgres, folder: Path) -> Iterator[str]:
    """An empty database on it."""
    server, _, mode = engine.partition("/")
    if mode:
        with (
            _server(server, postgres_server, folder) as url,
            bouncing(url, folder / engine, cast("PoolMode", mode)) as pooler,
        ):
            yield pooler.url()
        return
    product, _, profile = engine.partition("-")
    if product == "opengauss":
        with running(postgres_server.url(), profile) as gauss:
            yield gauss.url
        return
    name = f"shared_{next(_numbers)}"
    postgres_server.create_database(name)
    yield postgres_server.url(name)
    postgres_server.drop_database(name)


@contextmanager
def bouncing(upstream: str, folder: Path, mode: PoolMode, **options: str) -> Iterator[PgBouncer]:
    """A running PgBouncer; without one the test is skipped, and in CI it fails."""
    with missing_parts():
        pooler = PgBouncer(folder, upstream=upstream, mode=mode, options=options)
    pooler.start()
    try:
        pooler.wait_ready()
        yield pooler
    finally:
        pooler.stop()


@pytest.fixture(scope="session")
def url_of(postgres_server: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], str]]:
    """Returns the URL of a database on an engine, always the same one."""
    with ExitStack() as held:
        folder = tmp_path_factory.mktemp("poolers")
        yield cache(lambda engine: held.enter_context(_server(engine, postgres_server, folder)))


# Not of the session: where a module has an `engine` of its own, pytest would go on with what another module's gave.
@pytest.fixture(scope="module")
def engine_url(engine: str, url_of: Callable[[str], str]) -> str:
    """A database on it."""
    return url_of(engine)


@pytest.fixture
def database_config(engine_url: str) -> Iterator[DatabaseConfig]:
    """A schema of this test's own, created on first use."""
    schema = f"test_{next(_numbers)}"
    yield DatabaseConfig.model_validate({"db_url": engine_url, "schema_name": schema, "max_connections": 5})
    with psycopg.connect(engine_url, autocommit=True) as connection:
        connection.execute(sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(sql.Identifier(schema)))


@pytest.fixture(scope="session")
def statements_sent() -> set[str]:
    """All statements of the test run."""
    return set()


@pytest.fixture
async def database(engine: str, database_config: DatabaseConfig, statements_sent: set[str]) -> AsyncIterator[Database]:
    """With its schema made. What the project sends through it has to be in docs/sql.md."""
    unknown: set[str] = set()

    def observe(statement: str) -> None:
        statements_sent.add(statement)
        if not known(statement) and not _sent_by_a_test():
            unknown.add(statement)

    database = Database(database_config, observe=observe)
    dialect = await database.open()
    if not _is(dialect, engine):
        await database.close()
        pytest.fail(f"the test asks for {engine} and would run on {dialect.product}; see the fixture engine_url")
    yield database
    await database.close()
    if unknown:
        pytest.fail(
            "statements were sent that docs/sql.md does not list; keep them in persistence/sql/*.sql, and run "
            f"`./run generate`: {sorted(unknown)}"
        )


def _is(dialect: Dialect, engine: str) -> bool:
    """Whether a server is of that kind."""
    product, _, profile = engine.partition("/")[0].partition("-")
    if product == "postgresql":
        return isinstance(dialect, PostgreSQL)
    release, _, _ = PROFILES[profile].release.partition("-")
    return isinstance(dialect, OpenGauss) and release == ".".join(map(str, dialect.version))


def _sent_by_a_test() -> bool:
    """Whether a test called the database layer directly, without other code of the project in between."""
    for frame, _ in traceback.walk_stack(inspect.currentframe()):
        path = Path(frame.f_code.co_filename)
        ours = path.is_relative_to(CHECKOUT) and not path.is_relative_to(CHECKOUT / ".venv")
        if ours and path not in {_LAYER, Path(__file__)}:
            return "tests" in path.parts
    return False
