"""From whatever is there to a database Letta 0.16.8 can use; nothing of it by halves, and only once."""

from __future__ import annotations

from enum import Enum
from typing import Final

import psycopg

from letta_server import postgresql
from letta_server.database_url import DatabaseUrl
from letta_server.errors import DatabaseUnfit, SchemaRefused
from letta_server.postgresql import Connection
from letta_server.schema import HEAD, statements

_SCHEMA_LOCK: Final = 0x6C6574746101

_FOREIGN = """
    SELECT relname FROM pg_class
    WHERE relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = current_schema())
      AND relkind IN ('r', 'p', 'v', 'm', 'S', 'f')
      AND NOT EXISTS (  -- what an extension owns does not count
          SELECT 1 FROM pg_depend WHERE classid = 'pg_class'::regclass AND objid = pg_class.oid AND deptype = 'e'
      )
    ORDER BY relname
"""


class State(Enum):
    MISSING = "does not exist"
    EMPTY = "is empty"
    READY = "holds Letta 0.16.8's schema"


def look(url: DatabaseUrl) -> State:
    """Say what is there, changing nothing.

    Raises:
        DatabaseUnfit: no access, wrong product or version, no pgvector.
        SchemaRefused: something is there that we neither made nor may touch.
    """
    connection = postgresql.connect(url)
    if connection is None:
        return State.MISSING
    with connection:
        postgresql.vector_version(connection)
        return _state(connection, url)


def initialise(url: DatabaseUrl) -> State:
    """Make database, extension, schema and stamp where they are missing.

    Any number of processes may call this at once: one does the work, the others wait for it. All of it but the
    empty database is one transaction, so a process killed in the middle leaves nothing behind.

    Returns:
        What was there before.

    Raises:
        DatabaseUnfit, SchemaRefused: as ``look``, and where rights are missing.
    """
    before = look(url)
    if before is State.READY:
        return before
    if before is State.MISSING:
        postgresql.create_database(url)
    connection = postgresql.connect(url)
    if connection is None:
        raise DatabaseUnfit(f"Database {url} vanished while it was being filled; start again.")
    with connection:
        for name in ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"):
            connection.execute(f"SET LOCAL {name} = 0")
        connection.execute("SELECT pg_advisory_xact_lock(%s)", [_SCHEMA_LOCK])
        if _state(connection, url) is State.EMPTY:
            _fill(connection, url)
    return before


def _state(connection: Connection, url: DatabaseUrl) -> State:
    tables = [str(row[0]) for row in connection.execute(_FOREIGN)]
    if not tables:
        return State.EMPTY
    if "alembic_version" not in tables:
        raise SchemaRefused(
            f"Database {url} holds tables that are not Letta's ({', '.join(tables[:3])}, ...); "
            "name an empty or a new database, it will be created."
        )
    revisions = sorted(str(row[0]) for row in connection.execute("SELECT version_num FROM alembic_version"))
    if revisions != [HEAD]:
        raise SchemaRefused(
            f"Database {url} is at revision {' and '.join(revisions) or 'none'}, Letta 0.16.8 needs {HEAD}; bring it "
            "there with the migrations of Letta's release 0.16.8 (alembic upgrade head), or name a new database."
        )
    return State.READY


def _fill(connection: Connection, url: DatabaseUrl) -> None:
    postgresql.create_vector(connection, url)
    try:
        for statement in statements():
            # Bytes: the text is final, and a % in it is a %.
            connection.execute(statement.encode())
        connection.execute("INSERT INTO alembic_version VALUES (%s)", [HEAD])
    except (psycopg.errors.InsufficientPrivilege, psycopg.errors.InvalidSchemaName) as error:
        raise DatabaseUnfit(
            f"User {url.user} may not create tables in database {url}: {error.diag.message_primary}; "
            f'make it the owner: ALTER DATABASE "{url.name}" OWNER TO "{url.user}".'
        ) from None
