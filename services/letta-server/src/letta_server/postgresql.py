"""What is particular to PostgreSQL: reaching it, what it must be able to do, making a database and the extension.

Another engine gets a module like this one; ``initialise`` uses nothing else of the engine.
"""

from __future__ import annotations

from typing import Any, Final

import psycopg
from psycopg import pq, sql
from psycopg.conninfo import make_conninfo

from letta_server.database_url import DatabaseUrl
from letta_server.errors import DatabaseUnfit
from letta_server.waiting import wait_until_up

Connection = psycopg.Connection[tuple[Any, ...]]

_OLDEST: Final = 15
"""Letta's schema has UNIQUE NULLS NOT DISTINCT, which came with PostgreSQL 15."""
_MAINTENANCE: Final = ("postgres", "template1")
_CREATION_LOCK: Final = 0x6C65747461  # "letta"
_CONNECT_TIMEOUT: Final = 5


def wait_for_server(url: DatabaseUrl, limit: float) -> None:
    """Return when it accepts connections; whether ours is welcome is another question.

    Raises:
        NotReachable: it did not within ``limit`` seconds.
    """
    conninfo = make_conninfo(**url.conninfo, connect_timeout="2").encode()

    def trouble() -> str | None:
        match pq.PGconn.ping(conninfo):
            case pq.Ping.OK:
                return None
            case pq.Ping.REJECT:
                return "is starting up or shutting down"
            case _:
                return "does not answer"

    wait_until_up(f"PostgreSQL at {url.host}:{url.port}", trouble, limit)


def connect(url: DatabaseUrl) -> Connection | None:
    """Open the database; None where the server has none of this name.

    Raises:
        DatabaseUnfit: the server refuses us, or is not a PostgreSQL that Letta can use.
    """
    connection = _enter(url)
    if connection is None:
        return None
    try:
        _check_product(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def create_database(url: DatabaseUrl) -> None:
    """Make the database, unless another process just did.

    Raises:
        DatabaseUnfit: the user may not.
    """
    for name in _MAINTENANCE:
        try:
            connection = _open(url.in_database(name), autocommit=True)  # CREATE DATABASE takes no transaction
        except psycopg.OperationalError:
            continue
        with connection:
            _check_product(connection)
            connection.execute("SELECT pg_advisory_lock(%s)", [_CREATION_LOCK])
            if not _listed(connection, url.name):
                # template0, so that nobody's connection to template1 is in the way and the encoding is ours to say.
                command = sql.SQL("CREATE DATABASE {} ENCODING 'UTF8' TEMPLATE template0")
                try:
                    connection.execute(command.format(sql.Identifier(url.name)))
                except psycopg.Error as error:
                    raise DatabaseUnfit(
                        f"Database {url} does not exist and user {url.user} cannot create it: {_reason(error)}; "
                        f'create it as an administrator: CREATE DATABASE "{url.name}" OWNER "{url.user}".'
                    ) from None
        return
    raise DatabaseUnfit(f"Database {url} does not exist, and user {url.user} may enter no other one to create it from.")


def vector_version(connection: Connection) -> str | None:
    """The version of pgvector in this database; None where it still has to be created.

    Raises:
        DatabaseUnfit: the server does not have it at all.
    """
    row = connection.execute("SELECT installed_version FROM pg_available_extensions WHERE name = 'vector'").fetchone()
    if row is None:
        raise DatabaseUnfit(
            "This PostgreSQL has no pgvector, where Letta keeps its embeddings; install it "
            "(Debian: postgresql-16-pgvector) or use an image that has it (pgvector/pgvector:pg16)."
        )
    return None if row[0] is None else str(row[0])


def create_vector(connection: Connection, url: DatabaseUrl) -> None:
    try:
        connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
    except psycopg.errors.InsufficientPrivilege:
        raise DatabaseUnfit(
            f"Database {url} lacks the extension vector and user {url.user} may not create it; "
            "run there as a superuser: CREATE EXTENSION vector."
        ) from None


def _enter(url: DatabaseUrl) -> Connection | None:
    try:
        return _open(url)
    except psycopg.OperationalError:
        if _exists(url) is False:
            return None
    try:
        return _open(url)  # another process may have made it between the two looks
    except psycopg.OperationalError as refusal:
        raise DatabaseUnfit(
            f"PostgreSQL does not let user {url.user} into database {url}: {_last_line(refusal)} "
            "(check user, password and pg_hba.conf)."
        ) from None


def _open(url: DatabaseUrl, *, autocommit: bool = False) -> Connection:
    conninfo = make_conninfo(**url.conninfo, connect_timeout=str(_CONNECT_TIMEOUT), application_name="letta-server")
    return psycopg.connect(conninfo, autocommit=autocommit)


def _exists(url: DatabaseUrl) -> bool | None:
    """Whether the server lists the database; None where we cannot look. Error texts are in the server's language."""
    for name in _MAINTENANCE:
        try:
            with _open(url.in_database(name)) as connection:
                return _listed(connection, url.name)
        except psycopg.OperationalError:
            continue
    return None


def _listed(connection: Connection, name: str) -> bool:
    return connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name]).fetchone() is not None


def _check_product(connection: Connection) -> None:
    row = connection.execute("SELECT version()").fetchone()
    product = str(row[0]) if row else ""
    if not product.startswith("PostgreSQL") or "gauss" in product.lower():
        raise DatabaseUnfit(f"The server is not PostgreSQL but says {product[:60]!r}; give Letta a PostgreSQL >= 15.")
    if connection.info.server_version < _OLDEST * 10_000:
        raise DatabaseUnfit(
            f"PostgreSQL {connection.info.server_version // 10_000} is too old for Letta 0.16.8, which needs "
            f"{_OLDEST} or newer; upgrade the server, or name another one."
        )


def _last_line(error: psycopg.Error) -> str:
    return str(error).strip().rpartition("\n")[2].rpartition("FATAL:")[2].strip() or type(error).__name__


def _reason(error: psycopg.Error) -> str:
    return error.diag.message_primary or _last_line(error)
