"""What is sent before any named statement: on arrival, for the schema, on every connection.

A test captures what really is sent, and finds neither more nor less.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from shared_utils.persistence.database.config import DatabaseConfig
from shared_utils.persistence.database.connections import session_settings
from shared_utils.persistence.dialects import Dialect, OpenGauss, PostgreSQL
from shared_utils.persistence.dialects.session_settings import for_session, for_transaction
from shared_utils.persistence.installed_names import SCHEMA

_DIALECTS: Final[tuple[Dialect, ...]] = (PostgreSQL((16,)), OpenGauss((6, 0, 0)))
_DATABASE: Final = "letta"
_CONFIG: Final = DatabaseConfig.model_validate({"db_url": f"postgresql://bridge@localhost/{_DATABASE}"})

PRELIMINARIES: Final[Mapping[str, Sequence[str]]] = {
    "To see what server it is, and whether it is fit": (
        "SELECT version()",
        "SELECT '' IS NULL, current_setting('server_encoding'), current_setting('session_replication_role')",
        "SHOW sql_compatibility",
    ),
    "Where connecting failed, to see whether the database is missing, and then to make it": (
        "SELECT 1 FROM pg_database WHERE datname = %s",
        *(dialect.create_database(_DATABASE).as_string() for dialect in _DIALECTS),
    ),
    "To see which migrations are missing": (
        "SELECT 1 FROM pg_tables WHERE schemaname = %s AND tablename = 'schema_migrations'",
        f'SELECT number, checksum, compatible_from FROM "{SCHEMA}".schema_migrations',  # noqa: S608  # a constant
    ),
    "To apply them": (
        "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL statement_timeout TO 120000",
        "SELECT pg_advisory_xact_lock(%s)",
        "SELECT 1 FROM pg_namespace WHERE nspname = %s",
        f'CREATE SCHEMA "{SCHEMA}"',
        f"""CREATE TABLE "{SCHEMA}".schema_migrations (
    number integer PRIMARY KEY,
    name text NOT NULL,
    checksum text NOT NULL,
    compatible_from integer NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
)""",
        f"""INSERT INTO "{SCHEMA}".schema_migrations (number, name, checksum, compatible_from)
VALUES (%s, %s, %s, %s)""",  # noqa: S608  # a constant
        "COMMIT",
    ),
    "The command `migrate --grant bridge`": (
        for_transaction({}),
        f'GRANT USAGE ON SCHEMA "{SCHEMA}" TO "bridge"',
        f'GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA "{SCHEMA}" TO "bridge"',
        f'GRANT USAGE ON ALL SEQUENCES IN SCHEMA "{SCHEMA}" TO "bridge"',
        f'ALTER DEFAULT PRIVILEGES IN SCHEMA "{SCHEMA}" GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO "bridge"',
        f'ALTER DEFAULT PRIVILEGES IN SCHEMA "{SCHEMA}" GRANT USAGE ON SEQUENCES TO "bridge"',
        f'REVOKE INSERT, UPDATE, DELETE ON "{SCHEMA}".schema_migrations FROM "bridge"',
    ),
}
"""When it is sent → statements, with the default schema, a database ``letta`` and a role ``bridge``."""


def every_connection() -> Mapping[str, Sequence[str]]:
    """Product → what each of its connections begins with, in this order."""
    return {
        _name(dialect): (dialect.pooler_question, for_session(session_settings(dialect, _CONFIG)))
        for dialect in _DIALECTS
    }


def every_transaction() -> Mapping[str, str]:
    """Product → what a piece of work begins with where a pooler stands between, in one message."""
    return {_name(dialect): for_transaction(session_settings(dialect, _CONFIG)) for dialect in _DIALECTS}


def _name(dialect: Dialect) -> str:
    return dialect.product.partition(" ")[0]
