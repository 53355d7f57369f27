"""Passage stores of every kind: in memory, with each kind of vector type, and without one."""

from __future__ import annotations

import os
import random
from collections.abc import AsyncIterator, Callable
from importlib.util import find_spec
from itertools import count
from typing import Any

import psycopg
import pytest
import pytest_asyncio
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from shared_utils.persistence.database.config import DatabaseConfig
from shared_utils.persistence.database.database import Database
from shared_utils.persistence.vectors import DatabasePassageStore, InMemoryPassageStore, Passage, VectorSettings

SERVERS = (
    "postgresql",  # pgvector
    "postgresql-plain",  # no extension, and we may not make it
    "opengauss-5.0",
    "opengauss-6.0",
    "opengauss-6.0.2",  # vectors built in, from here on
    "opengauss-7.0",
    "postgresql/transaction",  # behind PgBouncer
    "opengauss-6.0.2/transaction",
)
_numbers = count(1)

# A test of an extra: left out where it is not installed, and an error where it has to be.
collect_ignore = [] if find_spec("langchain_tests") or "CI" in os.environ else ["test_langchain.py"]


def pytest_pycollect_makemodule(parent: Any) -> None:
    """LangChain's suite comes in a package whose other suites bear marks of plugins that are switched off here."""
    for mark in ("benchmark", "vcr"):
        parent.config.addinivalue_line("markers", f"{mark}: of LangChain's suites; nothing here uses it")


@pytest.fixture(scope="session", params=["memory", *SERVERS])
def engine(request: pytest.FixtureRequest) -> Any:
    """The kind of store."""
    return request.param


@pytest.fixture(scope="module")
def vector_config(engine: str, request: pytest.FixtureRequest) -> Any:
    """A schema for the module; it goes with its database."""
    if engine == "memory":
        return None
    url = request.getfixturevalue("engine_url")
    schema = f"vectors_{next(_numbers)}"
    if engine == "postgresql-plain":
        url = _as_poor_role(url, schema)
    return DatabaseConfig.model_validate({"db_url": url, "schema_name": schema, "max_connections": 5})


def _as_poor_role(url: str, schema: Any) -> str:
    role, name = f"poor_{schema}", conninfo_to_dict(url)["dbname"]
    with psycopg.connect(url, autocommit=True) as connection:
        for text in (
            "CREATE ROLE {role} LOGIN PASSWORD 'poor'",
            "CREATE SCHEMA {schema} AUTHORIZATION {role}",
            "GRANT CONNECT ON DATABASE {name} TO {role}",
        ):
            names = {"role": role, "schema": schema, "name": name}
            connection.execute(sql.SQL(text).format(**{key: sql.Identifier(value) for key, value in names.items()}))
    parts = conninfo_to_dict(url)
    return f"postgresql://{role}:poor@{parts['host']}:{parts['port']}/{name}"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def vector_database(vector_config: Any, statements_sent: Any) -> AsyncIterator[Any]:
    """Open for the whole module; None in memory."""
    if vector_config is None:
        yield None
        return
    database = Database(vector_config, observe=statements_sent.add)
    await database.open()
    yield database
    await database.close()


@pytest.fixture
def make_store(vector_database: Any) -> Callable[..., Any]:
    """Makes stores; each collection name is a collection of its own."""

    def make(table_name: Any = None, *, database: Any = None, **settings: Any) -> Any:
        if vector_database is None:
            return InMemoryPassageStore(metric=settings.get("metric", "cosine"))
        name = table_name or f"collection_{next(_numbers)}"
        given = VectorSettings.model_validate({"table_name": name, **settings})
        return DatabasePassageStore(database or vector_database, given)

    return make


@pytest.fixture
def store(make_store: Callable[..., Any]) -> Any:
    """Empty."""
    return make_store()


@pytest.fixture
def passage() -> Callable[..., Any]:
    """Makes passages of the model ``small``."""

    def make(
        passage_id: Any, embedding: Any = (1.0, 0.0, 0.0), *, model: str = "small", agent_id: str = "ada", **fields: Any
    ) -> Passage:
        return Passage(
            passage_id=passage_id,
            embedding=embedding,
            model=model,
            agent_id=agent_id,
            **{"text": f"text of {passage_id}", **fields},
        )

    return make


@pytest.fixture
def vectors() -> Callable[..., Any]:
    """Makes random vectors, the same in each run."""

    def make(number: int, dimensions: Any, seed: int = 1) -> list[list[Any]]:
        numbers = random.Random(seed)
        return [[numbers.gauss(0, 1) for _ in range(dimensions)] for _ in range(number)]

    return make
