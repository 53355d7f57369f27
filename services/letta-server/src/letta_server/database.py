"""Connects to the database server of either product, and creates databases on it."""

from __future__ import annotations

import socket
from typing import Any, Final

import psycopg
from psycopg import pq, sql
from psycopg.conninfo import make_conninfo

from letta_server.database_url import DatabaseUrl
from letta_server.errors import DatabaseUnfit
from letta_server.waiting import wait_until_up
from shared_utils.persistence.dialects import Dialect, login_refusal, recognise
from shared_utils.persistence.dialects.session_settings import RELIED_ON, for_this_transaction, literal
from shared_utils.persistence.errors import UnfitDatabase

Connection = psycopg.Connection[tuple[Any, ...]]

_MAINTENANCE: Final = ("postgres", "template1")
MARKS: Final = ("alembic_version", "agents", "messages")
"""Tables by which a schema is known to be Letta's."""
_HOMES: Final = """
    SELECT nspname::text FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
    WHERE relkind = 'r' AND relname = ANY(%s) GROUP BY nspname HAVING count(*) = %s ORDER BY nspname
"""
_LOGIN_SECONDS: Final = 15
"""The server has accepted a connection before (:func:`wait_for_server`): a busy one may need a while for a login."""

PATIENCE_MS: Final = 60_000
"""Milliseconds that a statement may take which waits for rows of other sessions; both products can do that."""


def wait_for_server(url: DatabaseUrl, limit: float) -> None:
    """Return when it accepts connections; the login is not checked.

    Raises:
        NotReachable: it did not within ``limit`` seconds.
    """
    # Without the password: a ping goes as far as it can, and openGauss locks an account at the tenth wrong one.
    given = {name: value for name, value in url.conninfo.items() if name != "password"}
    conninfo = make_conninfo(**given, connect_timeout="2").encode()

    def trouble() -> str | None:
        match pq.PGconn.ping(conninfo):
            case pq.Ping.OK:
                return None
            case pq.Ping.REJECT:
                return "is starting up or shutting down"
            case _:
                return "does not answer" if _resolves(url.host) else "has a name that cannot be resolved"

    wait_until_up(f"The database server at {url.host}:{url.port}", trouble, limit)


def _resolves(host: str) -> bool:
    try:
        socket.getaddrinfo(host, None)
    except (OSError, UnicodeError):
        return False
    return True


def connect(url: DatabaseUrl) -> Connection | None:
    """Open the database, in a transaction that begins with what its statements rely on; None where there is none.

    Raises:
        DatabaseUnfit: the server does not let us in.
    """
    connection = _connect(url)
    if connection is not None:
        try:
            _settle(connection, url)
        except BaseException:
            connection.close()
            raise
    return connection


def _connect(url: DatabaseUrl) -> Connection | None:
    try:
        return _open(url)
    except psycopg.OperationalError as error:
        # First of all: each further attempt with a wrong password counts, and openGauss locks the account at the tenth.
        _refuse_login(error, url)
        if _exists(url) is False:
            return None
    try:
        return _open(url)  # another process may have made it between the two looks
    except psycopg.OperationalError as refusal:
        raise DatabaseUnfit(
            f"User {url.user} cannot connect to database {url}: {_last_line(refusal)} (check user, password and "
            "pg_hba.conf)."
        ) from None


def commit(connection: Connection, url: DatabaseUrl) -> None:
    """End the transaction of a :func:`connect`, and begin the next one like it."""
    connection.commit()
    _settle(connection, url)


def limit_waiting(connection: Connection) -> None:
    """Let no later statement of this transaction wait for a row that another session holds without an end."""
    connection.execute(f"SET LOCAL statement_timeout TO {PATIENCE_MS}".encode())


def connect_elsewhere(url: DatabaseUrl) -> Connection | None:
    """Open one of the databases every server has, in autocommit; None where we may enter none of them."""
    for name in _MAINTENANCE:
        try:
            return _open(url.in_database(name), autocommit=True)
        except psycopg.OperationalError:
            continue
    return None


def dialect_of(connection: Connection) -> Dialect:
    """Which server this is.

    Raises:
        DatabaseUnfit: neither PostgreSQL nor openGauss, or too old for Letta.
    """
    row = connection.execute("SELECT version()").fetchone()
    try:
        return recognise(str(row[0]) if row else "")
    except UnfitDatabase as error:
        raise DatabaseUnfit(f"Letta cannot run on this database server: {error}.") from None


def create_database(url: DatabaseUrl) -> None:
    """Make the database, in the compatibility mode Letta needs, unless another process just did.

    Raises:
        DatabaseUnfit: the user may not.
    """
    connection = connect_elsewhere(url)
    if connection is None:
        raise DatabaseUnfit(
            f"Database {url} does not exist, and user {url.user} cannot connect to another database to create it from."
        )
    with connection:
        dialect = dialect_of(connection)
        try:
            connection.execute(dialect.create_database(url.name))
        except (psycopg.errors.DuplicateDatabase, psycopg.errors.UniqueViolation):
            return
        except psycopg.Error as error:
            if not _listed(connection, url.name):  # else another process made it meanwhile
                raise cannot_create(dialect, url, _reason(error)) from None


def cannot_create(dialect: Dialect, url: DatabaseUrl, reason: str) -> DatabaseUnfit:
    """What to tell a user who may not create the database: the statement for somebody who may."""
    statement = dialect.create_database(url.name).as_string(None).replace(" ENCODING", f' OWNER "{url.user}" ENCODING')
    return DatabaseUnfit(
        f"Database {url} does not exist and user {url.user} cannot create it: {reason}; "
        f"create it as an administrator: {statement}."
    )


def search_path(connection: Connection, url: DatabaseUrl) -> str | None:
    """The search path that leads to Letta's tables, as SQL; None where there are none and the session's own leads on.

    Raises:
        DatabaseUnfit: there are several, and the session's own leads to none of them.
    """
    row = connection.execute("SELECT current_schemas(false)::text[]").fetchone()
    current: list[str] = row[0] if row else []
    homes = [str(name) for (name,) in connection.execute(_HOMES, [list(MARKS), len(MARKS)])]
    home = next((schema for schema in current if schema in homes), None)
    if home is None and len(homes) > 1:
        raise DatabaseUnfit(
            f"Database {url} contains Letta's tables in several schemas ({', '.join(homes)}), but the search_path "
            "of user "
            f'{url.user} contains none of them; name one: ALTER ROLE "{url.user}" SET search_path = ...'
        )
    if home is None and homes:
        home = homes[0]
    if home is None:
        return None if current else '"$user", public'
    schemas = dict.fromkeys([home, *current, "public"])
    return ", ".join(sql.Identifier(schema).as_string(None) for schema in schemas)


def is_pooled(connection: Connection, dialect: Dialect) -> bool:
    """Whether a connection pooler stands between, or may."""
    row = connection.execute(dialect.pooler_question.encode()).fetchone()
    return dialect.is_pooled(row[0] if row else None, connection)


def _settle(connection: Connection, url: DatabaseUrl) -> None:
    """Within the transaction only: a pooler may give the session to others."""
    settings = {name: literal(value) for name, value in dialect_of(connection).session_settings.items()}
    connection.execute(for_this_transaction({name: settings[name] for name in RELIED_ON}).encode())
    path = search_path(connection, url)
    if path is not None:
        connection.execute(f"SET LOCAL search_path TO {path}".encode())


def _open(url: DatabaseUrl, *, autocommit: bool = False) -> Connection:
    conninfo = make_conninfo(**url.conninfo, connect_timeout=str(_LOGIN_SECONDS), application_name="letta-server")
    connection = psycopg.connect(conninfo, autocommit=autocommit, prepare_threshold=None)
    connection.isolation_level = psycopg.IsolationLevel.READ_COMMITTED
    return connection


def _refuse_login(error: psycopg.Error, url: DatabaseUrl) -> None:
    refusal = login_refusal(str(error), url.user)
    if refusal is not None:
        raise DatabaseUnfit(f"Database {url} refuses the connection: {refusal}.") from None


def _exists(url: DatabaseUrl) -> bool | None:
    """Whether the server lists the database; None where we cannot look. Error texts are in the server's language."""
    connection = connect_elsewhere(url)
    if connection is None:
        return None
    with connection:
        return _listed(connection, url.name)


def _listed(connection: Connection, name: str) -> bool:
    return connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name]).fetchone() is not None


def _last_line(error: psycopg.Error) -> str:
    return str(error).strip().rpartition("\n")[2].rpartition("FATAL:")[2].strip() or type(error).__name__


def _reason(error: psycopg.Error) -> str:
    return error.diag.message_primary or _last_line(error)
