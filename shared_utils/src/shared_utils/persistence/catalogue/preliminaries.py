"""What is sent before any named statement: on arrival, for the schema, on every connection.

A test captures what really is sent, and finds neither more nor less.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

from psycopg import AsyncConnection

from shared_utils.persistence.arrival import set_up
from shared_utils.persistence.database_config import DatabaseConfig
from shared_utils.persistence.dialects import Dialect, OpenGauss, PostgreSQL

_DIALECTS: Final[tuple[Dialect, ...]] = (PostgreSQL((16,)), OpenGauss((6, 0, 0)))
_DATABASE: Final = "letta"

PRELIMINARIES: Final[Mapping[str, Sequence[str]]] = {
    "To see what server it is, and whether it is fit": (
        "SELECT version()",
        "SELECT '' IS NULL",
        "SHOW sql_compatibility",
        "SHOW server_encoding",
    ),
    "Where connecting failed, to see whether the database is missing, and then to make it": (
        "SELECT 1 FROM pg_database WHERE datname = %s",
        *(dialect.create_database(_DATABASE).as_string() for dialect in _DIALECTS),
    ),
    "To see which migrations are missing": (
        "SELECT 1 FROM pg_tables WHERE schemaname = %s AND tablename = 'schema_migrations'",
        'SELECT number, checksum, compatible_from FROM "letta_bridge".schema_migrations',
    ),
    "To apply them": (
        "SET statement_timeout = 120000",
        "SELECT pg_advisory_lock(%s)",
        "SELECT 1 FROM pg_namespace WHERE nspname = %s",
        'CREATE SCHEMA "letta_bridge"',
        """CREATE TABLE schema_migrations (
    number integer PRIMARY KEY,
    name text NOT NULL,
    checksum text NOT NULL,
    compatible_from integer NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
)""",
        "INSERT INTO schema_migrations (number, name, checksum, compatible_from) VALUES (%s, %s, %s, %s)",
        "SELECT pg_advisory_unlock(%s)",
    ),
    "`letta-bridge migrate --grant bridge`": (
        'GRANT USAGE ON SCHEMA "letta_bridge" TO "bridge"',
        'GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA "letta_bridge" TO "bridge"',
        'GRANT USAGE ON ALL SEQUENCES IN SCHEMA "letta_bridge" TO "bridge"',
        'ALTER DEFAULT PRIVILEGES IN SCHEMA "letta_bridge" GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO "bridge"',
        'ALTER DEFAULT PRIVILEGES IN SCHEMA "letta_bridge" GRANT USAGE ON SEQUENCES TO "bridge"',
        'REVOKE INSERT, UPDATE, DELETE ON "letta_bridge".schema_migrations FROM "bridge"',
    ),
}
"""When it is sent → statements, with the default schema, a database ``letta`` and a role ``bridge``."""


def every_connection() -> Mapping[str, Sequence[str]]:
    """Product → what each of its connections begins with, in this order."""
    config = DatabaseConfig.model_validate({"db_url": f"postgresql://bridge@localhost/{_DATABASE}"})
    found = {}
    for dialect in _DIALECTS:
        connection = _Recorder()
        asyncio.run(set_up(cast("AsyncConnection[Any]", connection), dialect, config))
        found[dialect.product.partition(" ")[0]] = connection.sent
    return found


class _Recorder:
    """A connection to nowhere."""

    def __init__(self) -> None:
        self.sent: list[str] = []

    async def execute(self, statement: bytes) -> None:
        self.sent.append(statement.decode())
