"""What psycopg does of its own accord."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from psycopg.types import TypeInfo

from opengauss_double.plugin import OpenGauss

pytestmark = pytest.mark.integration

Connection = psycopg.Connection[Any]


async def test_psycopg_works_asynchronously_with_prepared_statements(gauss: OpenGauss) -> None:
    async with await psycopg.AsyncConnection.connect(gauss.url) as connection:
        for _ in range(7):  # prepares itself after five
            cursor = await connection.execute("SELECT %s::int + 1", [1])
            assert await cursor.fetchone() == (2,)


def test_psycopg_finds_types(connection: Connection, profile: str) -> None:
    assert TypeInfo.fetch(connection, "mood")
    assert (TypeInfo.fetch(connection, "vector") is not None) == (profile in ("6.0.2", "7.0"))
