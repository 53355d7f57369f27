"""Creates what a database lacks for Letta 0.16.8, in one transaction and only once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Final

import psycopg

from letta_server import database, preflight
from letta_server.database import Connection
from letta_server.database_url import DatabaseUrl
from letta_server.errors import DatabaseUnfit, SchemaRefused
from letta_server.schema import HEAD, statements
from shared_utils.persistence.dialects import Dialect, OpenGauss, PostgreSQL

_SCHEMA_LOCK: Final = 0x6C6574746101

_LIMITS: Final[Mapping[type, Sequence[str]]] = {
    PostgreSQL: ("statement_timeout", "idle_in_transaction_session_timeout", "lock_timeout"),
    OpenGauss: ("statement_timeout", "idle_in_transaction_session_timeout"),
}
"""Settings by which an operator may have limited sessions; filling a database on a slow disk takes its time."""

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


def look(url: DatabaseUrl, *, opengauss: bool | None = None) -> State:
    """Describe the database, without changes.

    Args:
        url: the database.
        opengauss: whether the operator says it is one; None where he says nothing.

    Raises:
        DatabaseUnfit: no access, wrong product, version or mode, no vectors, too few rights or connections.
        SchemaRefused: the database contains something that letta-server neither made nor may change.
    """
    dialect = preflight.server(url).dialect
    preflight.check_product(dialect, url, opengauss=opengauss)
    connection = database.connect(url)
    if connection is None:
        preflight.check_may_create(dialect, url)
        return State.MISSING
    with connection:
        preflight.check_database(connection, dialect, url)
        state = _state(connection, url)
        if state is State.EMPTY:
            preflight.check_may_fill(connection, dialect, url)
        return state


def initialise(url: DatabaseUrl, *, opengauss: bool | None = None) -> State:
    """Make database, vector extension, schema and stamp where they are missing.

    Any number of processes may call this at once: one does the work, the others wait for it. All of it but the
    empty database is one transaction, so a process killed in the middle leaves nothing behind.

    Returns:
        What was there before.

    Raises:
        DatabaseUnfit, SchemaRefused: as ``look``, and where rights are missing.
    """
    before = look(url, opengauss=opengauss)
    if before is State.READY:
        return before
    if before is State.MISSING:
        database.create_database(url)
    connection = database.connect(url)
    if connection is None:
        raise DatabaseUnfit(f"Database {url} was dropped while its tables were created; start again.")
    with connection:
        dialect = database.dialect_of(connection)
        preflight.check_database(connection, dialect, url)
        for name in _LIMITS[type(dialect)]:
            connection.execute(f"SET LOCAL {name} = 0".encode())
        connection.execute("SELECT pg_advisory_xact_lock(%s)", [_SCHEMA_LOCK])
        if _state(connection, url) is State.EMPTY:
            _fill(connection, dialect, url)
    return before


def _state(connection: Connection, url: DatabaseUrl) -> State:
    tables = [str(row[0]) for row in connection.execute(_FOREIGN)]
    if not tables:
        return State.EMPTY
    if not set(database.MARKS) <= set(tables):
        raise SchemaRefused(
            f"Database {url} contains tables that are not Letta's ({', '.join(tables[:3])}, ...); name an empty "
            "database, or a new one, which will be created."
        )
    preflight.check_may_use(connection, url)
    revisions = sorted(str(row[0]) for row in connection.execute("SELECT version_num FROM alembic_version"))
    if revisions != [HEAD]:
        raise SchemaRefused(
            f"Database {url} is at revision {' and '.join(revisions) or 'none'}, Letta 0.16.8 needs {HEAD}; name a "
            "new database, or, if an older Letta created this one, upgrade it with the migrations of Letta's release "
            "0.16.8 (alembic upgrade head)."
        )
    return State.READY


def _fill(connection: Connection, dialect: Dialect, url: DatabaseUrl) -> None:
    if dialect.vectors == "extension":
        _create_vector(connection, url)
    preflight.check_may_fill(connection, dialect, url)
    if not _may_use_schema(connection):
        # openGauss lets nobody but its administrators into "public", not even the database's owner. A schema of the
        # user's own name comes first in everybody's search path.
        connection.execute("CREATE SCHEMA AUTHORIZATION CURRENT_USER")
    try:
        for statement in statements(dialect):
            # Bytes: the text is final, and a % in it is a %.
            connection.execute(statement.encode())
        connection.execute("INSERT INTO alembic_version VALUES (%s)", [HEAD])
    except (psycopg.errors.InsufficientPrivilege, psycopg.errors.InvalidSchemaName) as error:
        raise DatabaseUnfit(
            f"User {url.user} may not create tables in database {url}: {error.diag.message_primary}; "
            f'make it the owner: ALTER DATABASE "{url.name}" OWNER TO "{url.user}".'
        ) from None


def _create_vector(connection: Connection, url: DatabaseUrl) -> None:
    try:
        connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
    except psycopg.errors.InsufficientPrivilege:
        raise DatabaseUnfit(
            f"Database {url} lacks the extension vector and user {url.user} may not create it; "
            "run there as a superuser: CREATE EXTENSION vector."
        ) from None


def _may_use_schema(connection: Connection) -> bool:
    row = connection.execute("SELECT has_schema_privilege(current_schema(), 'CREATE')").fetchone()
    return bool(row and row[0])
