"""Reaching the database server, whichever of the two it is, and making a database on it."""

from __future__ import annotations

from typing import Any, Final

import psycopg
from psycopg import pq
from psycopg.conninfo import make_conninfo

from letta_server.database_url import DatabaseUrl
from letta_server.errors import DatabaseUnfit
from letta_server.waiting import wait_until_up
from shared_utils.persistence.dialects import Dialect, login_refusal, recognise
from shared_utils.persistence.errors import UnfitDatabase

Connection = psycopg.Connection[tuple[Any, ...]]

_MAINTENANCE: Final = ("postgres", "template1")
_CREATION_LOCK: Final = 0x6C65747461  # "letta"
_CONNECT_TIMEOUT: Final = 5


def wait_for_server(url: DatabaseUrl, limit: float) -> None:
    """Return when it accepts connections; whether ours is welcome is another question.

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
                return "does not answer"

    wait_until_up(f"The database server at {url.host}:{url.port}", trouble, limit)


def connect(url: DatabaseUrl) -> Connection | None:
    """Open the database; None where the server has none of this name.

    Raises:
        DatabaseUnfit: the server does not let us in.
    """
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
            f"User {url.user} cannot enter database {url}: {_last_line(refusal)} "
            "(check user, password and pg_hba.conf)."
        ) from None


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
            f"Database {url} does not exist, and user {url.user} may enter no other one to create it from."
        )
    with connection:
        dialect = dialect_of(connection)
        connection.execute("SELECT pg_advisory_lock(%s)", [_CREATION_LOCK])
        if _listed(connection, url.name):
            return
        try:
            connection.execute(dialect.create_database(url.name))
        except psycopg.Error as error:
            raise cannot_create(dialect, url, _reason(error)) from None


def cannot_create(dialect: Dialect, url: DatabaseUrl, reason: str) -> DatabaseUnfit:
    """What to tell a user who may not create the database: the statement for somebody who may."""
    statement = dialect.create_database(url.name).as_string(None).replace(" ENCODING", f' OWNER "{url.user}" ENCODING')
    return DatabaseUnfit(
        f"Database {url} does not exist and user {url.user} cannot create it: {reason}; "
        f"create it as an administrator: {statement}."
    )


def _open(url: DatabaseUrl, *, autocommit: bool = False) -> Connection:
    conninfo = make_conninfo(**url.conninfo, connect_timeout=str(_CONNECT_TIMEOUT), application_name="letta-server")
    return psycopg.connect(conninfo, autocommit=autocommit)


def _refuse_login(error: psycopg.Error, url: DatabaseUrl) -> None:
    refusal = login_refusal(str(error), url.user)
    if refusal is not None:
        raise DatabaseUnfit(f"Database {url} cannot be entered: {refusal}.") from None


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
