"""A side of the move: a connection to a database of Letta 0.16.8, set up so that both engines write values alike."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Final

import psycopg

from letta_server import database
from letta_server.database import Connection
from letta_server.database_url import DatabaseUrl
from letta_server.errors import DatabaseUnfit, SchemaRefused
from letta_server.schema import HEAD
from shared_utils.persistence.dialects import Dialect, OpenGauss
from shared_utils.persistence.dialects.session_settings import for_session, literal

HALF_MOVED: Final = "half of letta-server move"
"""The stamp of a target until it holds everything: no Letta and no migration will touch it."""


@contextlib.contextmanager
def snapshot(url: DatabaseUrl, *, stamp: str = HEAD) -> Iterator[Connection]:
    """A connection on which everything is read from one moment's content, and nothing can be written.

    Args:
        url: where it is.
        stamp: the revision it must be at.

    Raises:
        DatabaseUnfit, SchemaRefused: there is no database of Letta 0.16.8 to be read.
    """
    with _entered(url) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        connection.read_only = True
        connection.autocommit = False
        _refuse_other_stamp(connection, url, stamp)
        yield connection


@contextlib.contextmanager
def target(url: DatabaseUrl) -> Iterator[Connection]:
    """A connection in autocommit, to a database that has the schema already, or half of a move.

    Raises:
        DatabaseUnfit, SchemaRefused: there is no database of Letta 0.16.8 to be filled.
    """
    with _entered(url) as connection:
        _refuse_other_stamp(connection, url, HEAD, HALF_MOVED)
        yield connection


def has_schema(url: DatabaseUrl) -> bool:
    """Whether there is what rows can be moved into: Letta's schema, or half of a move."""
    connection = database.connect(url)
    if connection is None:
        return False
    with contextlib.closing(connection):
        return _stamps(connection) in ([HEAD], [HALF_MOVED])


@contextlib.contextmanager
def _entered(url: DatabaseUrl) -> Iterator[Connection]:
    connection = database.connect(url)
    if connection is None:
        raise DatabaseUnfit(f"Database {url} does not exist; name the database that Letta uses.")
    with contextlib.closing(connection):
        path = database.search_path(connection, url)
        dialect = database.dialect_of(connection)
        pooled = database.is_pooled(connection, dialect)
        connection.rollback()
        connection.autocommit = True
        if pooled:
            raise DatabaseUnfit(
                f"A connection pooler is, or may be, in front of database {url}, but a move needs its own session; "
                "name the server itself."
            )
        _refuse_mode(connection, dialect, url)
        settings = {name: literal(value) for name, value in dialect.session_settings.items()}
        connection.execute(for_session(settings if path is None else {**settings, "search_path": path}).encode())
        yield connection


def _refuse_mode(connection: Connection, dialect: Dialect, url: DatabaseUrl) -> None:
    compatibility = str(_value(connection, "SHOW sql_compatibility")) if isinstance(dialect, OpenGauss) else None
    refusal = dialect.mode_refusal(compatibility, bool(_value(connection, "SELECT '' IS NULL")), url.name)
    if refusal is not None:
        raise DatabaseUnfit(f"Database {url} cannot be moved: {refusal}.")


def _refuse_other_stamp(connection: Connection, url: DatabaseUrl, *accepted: str) -> None:
    found = _stamps(connection)
    if found is None:
        raise SchemaRefused(f"Database {url} does not contain Letta's tables; name the database that Letta uses.")
    if found == [HALF_MOVED] and HALF_MOVED not in accepted:
        raise SchemaRefused(f"Database {url} contains an unfinished move; finish it first: run its command again.")
    if len(found) != 1 or found[0] not in accepted:
        raise SchemaRefused(
            f"Database {url} is at revision {' and '.join(found) or 'none'}, but only {HEAD} can be moved; upgrade it "
            "with the migrations of Letta's release 0.16.8 (alembic upgrade head)."
        )


def _stamps(connection: Connection) -> list[str] | None:
    """The revisions noted there; None where there is no table for them."""
    try:
        return sorted(str(row[0]) for row in connection.execute("SELECT version_num FROM alembic_version"))
    except psycopg.errors.UndefinedTable:
        return None


def _value(connection: Connection, question: str) -> object:
    row = connection.execute(question.encode()).fetchone()
    return None if row is None else row[0]
