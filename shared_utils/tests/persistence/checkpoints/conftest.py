"""Kinds of checkpoint stores, and one schema a module for those in a database: making one takes longer than a test."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import count

import psycopg
import pytest

from local_stack.databases import ENGINES
from shared_utils.persistence.database.config import DatabaseConfig

_numbers = count(1)


@pytest.fixture(
    scope="session", params=["memory", "file", *(pytest.param(name, marks=pytest.mark.integration) for name in ENGINES)]
)
def engine(request: pytest.FixtureRequest) -> str:
    """The kind of store."""
    return str(request.param)


@pytest.fixture(scope="module")
def database_config(engine_url: str) -> Iterator[DatabaseConfig]:
    """A schema that is dropped after the module."""
    schema = f"checkpoints_{os.getpid()}_{next(_numbers)}"
    yield DatabaseConfig.model_validate({"db_url": engine_url, "schema_name": schema, "max_connections": 5})
    with psycopg.connect(engine_url, autocommit=True) as connection:
        connection.execute(f"DROP SCHEMA IF EXISTS {schema} CASCADE")
