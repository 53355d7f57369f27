"""Checks a database before Letta starts on it, without changes.

A failed check is a sentence that names the lack and the remedy. Without these checks, Letta's driver would crash, or
fail at the first message.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from letta_server import database
from letta_server.database import Connection
from letta_server.database_url import DatabaseUrl
from letta_server.errors import DatabaseUnfit
from letta_server.settings import MIN_CONNECTIONS
from shared_utils.persistence.dialects import Dialect, OpenGauss
from shared_utils.persistence.dialects.session_settings import RELIED_ON

_RESERVED_CONNECTIONS: Final = 3
"""Connections servers keep for their administrators, by default."""
_SELECT_LIMITS = """
    SELECT current_setting('max_connections')::int - (SELECT count(*) FROM pg_stat_activity WHERE datname IS NOT NULL),
           (SELECT nullif(rolconnlimit, -1) FROM pg_roles WHERE rolname = current_user)
               - (SELECT count(*) FROM pg_stat_activity WHERE usename = current_user),
           (SELECT nullif(datconnlimit, -1) FROM pg_database WHERE datname = current_database())
               - (SELECT count(*) FROM pg_stat_activity WHERE datname = current_database())
"""
"""What the server, the user and the database have left; NULL where there is no limit."""
_MAY_CREATE = "SELECT rolcreatedb OR rolsuper FROM pg_roles WHERE rolname = current_user"
_MAY_FILL = """
    SELECT coalesce(has_schema_privilege(current_schema(), 'CREATE'), false),
           has_database_privilege(current_database(), 'CREATE')
"""
_UNUSABLE = """
    SELECT relname FROM pg_class
    WHERE relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = current_schema()) AND relkind = 'r'
      AND NOT (has_table_privilege(oid, 'SELECT') AND has_table_privilege(oid, 'INSERT')
               AND has_table_privilege(oid, 'UPDATE') AND has_table_privilege(oid, 'DELETE'))
    ORDER BY relname
"""


@dataclass(frozen=True)
class Server:
    """What is known before anything is asked of the database itself."""

    dialect: Dialect
    free_connections: int
    """How many the user can still open."""
    pooled: bool
    """A connection pooler stands between, or may."""
    search_path: str | None
    """Leads to Letta's tables, as SQL; None where there are none yet."""

    @property
    def session_settings(self) -> Mapping[str, str]:
        """Setting → value that Letta's statements rely on. Time limits are left to the operator: they lose nothing."""
        fixed = {**RELIED_ON, **{name: self.dialect.session_settings[name] for name in self._own}}
        return fixed if self.search_path is None else {**fixed, "search_path": self.search_path}

    @property
    def _own(self) -> Iterable[str]:
        """By default openGauss cuts sessions that are idle for ten minutes."""
        return ("session_timeout", "behavior_compat_options") if isinstance(self.dialect, OpenGauss) else ()


def server(url: DatabaseUrl) -> Server:
    """Which server this is, asked in the database or, where it does not exist yet, beside it.

    Raises:
        DatabaseUnfit: no access at all, or a server that Letta cannot run on.
    """
    found = database.connect(url)
    connection = found or database.connect_elsewhere(url)
    if connection is None:
        raise DatabaseUnfit(
            f"Database {url} does not exist, and user {url.user} cannot connect to another database to create it from."
        )
    with connection:
        dialect = database.dialect_of(connection)
        path = None if found is None else database.search_path(connection, url)
        return Server(dialect, _free_connections(connection), database.is_pooled(connection, dialect), path)


def check_product(dialect: Dialect, url: DatabaseUrl, *, opengauss: bool | None) -> None:
    """Compare the server with what LETTA_ENABLE_OPENGAUSS says; None says nothing.

    Raises:
        DatabaseUnfit: they contradict each other, or the server has no vector type at all.
    """
    if opengauss is not None and opengauss is not isinstance(dialect, OpenGauss):
        raise DatabaseUnfit(
            f"LETTA_ENABLE_OPENGAUSS is {str(opengauss).lower()} but the server at {url.host}:{url.port} is "
            f"{dialect.product}; unset it (the server is detected automatically), or correct the database's address."
        )
    if dialect.vectors is None:
        raise DatabaseUnfit(
            f"{dialect.product} has no vector type, which Letta needs for embeddings; upgrade it to "
            "openGauss 6.0.2, or 7.0.0-RC1 and later, or use a PostgreSQL >= 15 with pgvector."
        )


def check_database(connection: Connection, dialect: Dialect, url: DatabaseUrl) -> None:
    """Check mode, vectors and free connections.

    Raises:
        DatabaseUnfit: one of them will not do.
    """
    _check_mode(connection, dialect, url)
    _check_settings(connection, url)
    vector_version(connection, dialect)
    free = _free_connections(connection)
    if free < MIN_CONNECTIONS:
        raise DatabaseUnfit(
            f"Database {url} has {max(free, 0)} free connections for user {url.user}, but Letta needs "
            f"{MIN_CONNECTIONS} to start; raise max_connections (or the limit of the user or the database), or close "
            "other connections."
        )


def check_may_create(dialect: Dialect, url: DatabaseUrl) -> None:
    """Check that the user may create the database, as far as it can be told.

    Raises:
        DatabaseUnfit: the sentence has the statement for somebody who may.
    """
    connection = database.connect_elsewhere(url)
    if connection is None:
        return
    with connection:
        (may,) = connection.execute(_MAY_CREATE).fetchone() or (True,)
    # openGauss's administrators may, too, and are marked in another way.
    if not may and not isinstance(dialect, OpenGauss):
        raise database.cannot_create(dialect, url, "it lacks the right CREATEDB")


def check_may_fill(connection: Connection, dialect: Dialect, url: DatabaseUrl) -> None:
    """Check that the user may make tables in the database.

    Raises:
        DatabaseUnfit: the sentence has the statement that changes it.
    """
    (schema, whole), *_ = connection.execute(_MAY_FILL)
    # openGauss lets not even the owner into the schema "public", but he may make one of his own.
    if not schema and not (whole and isinstance(dialect, OpenGauss)):
        raise DatabaseUnfit(
            f"User {url.user} may not create tables in database {url}; "
            f'make it the owner: ALTER DATABASE "{url.name}" OWNER TO "{url.user}".'
        )


def check_may_use(connection: Connection, url: DatabaseUrl) -> None:
    """Check that the user may read and write the tables that are there.

    Raises:
        DatabaseUnfit: the sentence has the statement that changes it.
    """
    unusable = [str(row[0]) for row in connection.execute(_UNUSABLE)]
    if unusable:
        raise DatabaseUnfit(
            f"User {url.user} may not read and write {len(unusable)} tables of database {url} "
            f"({', '.join(unusable[:3])}, ...); run there as their owner: GRANT SELECT, INSERT, UPDATE, DELETE ON "
            f'ALL TABLES IN SCHEMA public TO "{url.user}".'
        )


def _free_connections(connection: Connection) -> int:
    (server, *own), *_ = connection.execute(_SELECT_LIMITS)
    return min(int(left) for left in (server - _RESERVED_CONNECTIONS, *own) if left is not None)


def vector_version(connection: Connection, dialect: Dialect) -> str | None:
    """The version of the vector type in this database; None where it still has to be created.

    Raises:
        DatabaseUnfit: the server does not have it at all.
    """
    if dialect.vectors == "builtin":
        if connection.execute("SELECT 1 FROM pg_type WHERE typname = 'vector'").fetchone() is None:
            raise DatabaseUnfit(
                f"This {dialect.product} was built without DataVec, which Letta needs for embeddings; install the "
                "official build, or use a PostgreSQL >= 15 with pgvector."
            )
        return dialect.product
    row = connection.execute("SELECT installed_version FROM pg_available_extensions WHERE name = 'vector'").fetchone()
    if row is None:
        raise DatabaseUnfit(
            "This PostgreSQL has no pgvector, which Letta needs for embeddings; install it "
            "(Debian: postgresql-16-pgvector) or use an image that has it (pgvector/pgvector:pg16)."
        )
    return None if row[0] is None else str(row[0])


def _check_mode(connection: Connection, dialect: Dialect, url: DatabaseUrl) -> None:
    compatibility, empty_is_null = None, False
    if isinstance(dialect, OpenGauss):
        compatibility = _one(connection, "SHOW sql_compatibility")
        empty_is_null = bool(_one(connection, "SELECT '' IS NULL"))
    refusal = dialect.mode_refusal(None if compatibility is None else str(compatibility), empty_is_null, url.name)
    if refusal is not None:
        raise DatabaseUnfit(f"Letta cannot use this database: {refusal}.")


def _check_settings(connection: Connection, url: DatabaseUrl) -> None:
    if _one(connection, "SHOW transaction_read_only") == "on":
        raise DatabaseUnfit(
            f"Database {url} is read-only: it is a standby, or default_transaction_read_only is set for it; name the "
            "primary, or reset that setting."
        )
    if (role := _one(connection, "SHOW session_replication_role")) != "origin":
        raise DatabaseUnfit(
            f"Sessions in database {url} have session_replication_role = {role}, which disables foreign keys; reset "
            "that setting of the role or the database."
        )


def _one(connection: Connection, question: str) -> object:
    row = connection.execute(question.encode()).fetchone()
    return None if row is None else row[0]
