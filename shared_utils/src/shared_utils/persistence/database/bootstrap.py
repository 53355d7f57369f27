"""The first connection to a database: checks existence, fitness and rights, and creates a missing database."""

from __future__ import annotations

from typing import Any, Final

import psycopg
from psycopg import errors
from psycopg.conninfo import make_conninfo
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_delay, wait_fixed

from shared_utils.operator_commands import command
from shared_utils.persistence.database.config import DatabaseConfig
from shared_utils.persistence.database.connection_watch import ConnectionWatch
from shared_utils.persistence.database.connections import Connection
from shared_utils.persistence.database.error_mapping import translate
from shared_utils.persistence.dialects import Dialect, OpenGauss, recognise
from shared_utils.persistence.errors import (
    DatabaseRefused,
    DatabaseUnavailable,
    LoginRefused,
    PersistenceError,
    SchemaMissing,
    UnfitDatabase,
)
from shared_utils.persistence.installed_names import APPLICATION

_SELECT_FITNESS: Final = (
    "SELECT '' IS NULL, current_setting('server_encoding'), current_setting('session_replication_role')"
)
_MAINTENANCE_DATABASES: Final = ("postgres", "template1")
_CREATION_POLL_SECONDS: Final = 0.1
"""Seconds between tries to reach a database that is being made."""
_GRACE_SECONDS: Final = 1.0
"""Added to the connection timeout, after which a connected server counts as silent."""
_MAKING_SECONDS: Final = 60.0
"""A database may take to be made."""
_CONCURRENT_CREATION_SECONDS: Final = 1.0
"""Seconds for which a database is tried that is listed after all: another process may have made it since it was asked
for. Where that is not why it refused, its reason is told so much later."""


async def connect_and_prepare(config: DatabaseConfig) -> tuple[Connection, Dialect]:
    """An open connection in autocommit, set up for its dialect.

    Raises:
        DatabaseUnavailable, LoginRefused: it could not be reached.
        UnfitDatabase: wrong product, version or compatibility mode, or a setting that makes it lose data.
        DatabaseRefused: it does not exist and may not be made.
    """
    connection = await _reach(config)
    # A pooler accepts clients while its server is away, and then does not answer.
    watch = ConnectionWatch(connection, config.connection_timeout + _GRACE_SECONDS)
    try:
        dialect = await _dialect(connection)
        await _refuse_unfit(connection, dialect, config)
        await connection.set_up(dialect, config)
    except psycopg.Error as error:
        await connection.close()
        raise (_silent(config) if watch.cut else _translate(error, config)) from error
    except BaseException:
        await connection.close()
        raise
    finally:
        watch.end()
    return connection, dialect


async def connect(config: DatabaseConfig, database: str | None = None) -> Connection:
    """A bare connection in autocommit.

    Args:
        config: how to reach the server.
        database: another one than the configured.
    """
    other = {} if database is None else {"dbname": database}
    return await Connection.connect(make_conninfo(config.conninfo, **parameters(config), **other), autocommit=True)


def parameters(config: DatabaseConfig) -> dict[str, Any]:
    """Parameters beside the URL's own, which win: a peer that vanished is noticed within the query timeout."""
    seconds = max(1, round(config.query_timeout))
    ours = {
        "connect_timeout": max(2, round(config.connection_timeout)),  # libpq takes 1 for 2
        "application_name": APPLICATION,
        "client_encoding": "utf8",
        "keepalives_idle": max(1, seconds // 2),
        "keepalives_interval": max(1, seconds // 4),
        "keepalives_count": 2,
        "tcp_user_timeout": seconds * 1000,
    }
    return {name: value for name, value in ours.items() if name not in config.parts}


async def _reach(config: DatabaseConfig) -> Connection:
    try:
        return await connect(config)
    except psycopg.Error as error:
        # The server's text is in its own language, so whether the database exists is looked up, not read out of it.
        meant = _translate(error, config)
        patience = None if isinstance(meant, LoginRefused) else await _made_where_missing(config, str(error))
        if patience is None:
            raise meant from error
    return await _reach_new(config, patience)


async def _reach_new(config: DatabaseConfig, patience: float) -> Connection:
    # Another process may be making it still.
    retrying = AsyncRetrying(
        retry=retry_if_exception_type(psycopg.OperationalError),
        stop=stop_after_delay(patience),
        wait=wait_fixed(_CREATION_POLL_SECONDS),
        reraise=True,
    )
    try:
        return await retrying(connect, config)
    except psycopg.Error as error:
        raise _translate(error, config) from error


async def _made_where_missing(config: DatabaseConfig, trouble: str) -> float | None:
    """For how many seconds to try again; None where that is of no use, as it was not the database that was missing.

    Args:
        config: the database.
        trouble: why it could not be reached. Where another database of the server is refused with the same words, it
            is not the database that is missing, and further tries would only count as wrong passwords.
    """
    for maintenance in _MAINTENANCE_DATABASES:
        try:
            connection = await connect(config, maintenance)
        except psycopg.Error as error:
            if isinstance(error, errors.ConnectionTimeout) or str(error) == trouble:
                return None
            continue
        watch = ConnectionWatch(connection, _MAKING_SECONDS)
        try:
            return await _made(connection, config)
        except psycopg.Error:
            if not watch.cut:
                raise
            return None
        finally:
            watch.end()
            await connection.close()
    return None


async def _made(connection: Connection, config: DatabaseConfig) -> float:
    name = config.parts["dbname"]
    listed = await connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name])
    if await listed.fetchone():
        return min(_CONCURRENT_CREATION_SECONDS, config.connection_timeout)
    if not config.generate_schemas:
        raise SchemaMissing(
            f"the database {config.place} does not exist; if DATABASE_URL names the right one, run "
            f"`{command('migrate')}` as a user that may create it"
        )
    dialect = await _dialect(connection)
    try:
        await connection.execute(dialect.create_database(name))
    except (errors.DuplicateDatabase, errors.UniqueViolation):
        pass  # another process was faster
    except psycopg.Error as error:
        reason = error.diag.message_primary or str(error)
        statement = dialect.create_database(name).as_string(connection)
        raise DatabaseRefused(
            f"the database {config.place} does not exist and user {config.parts.get('user')} cannot create it "
            f"({reason}); run as an administrator: {statement}"
        ) from error
    return config.connection_timeout


async def _dialect(connection: Connection) -> Dialect:
    row = await (await connection.execute("SELECT version()")).fetchone()
    return recognise(str(row[0]) if row else "")


async def _refuse_unfit(connection: Connection, dialect: Dialect, config: DatabaseConfig) -> None:
    empty_is_null, encoding, role = await _row(connection, _SELECT_FITNESS)
    compatibility = None
    if isinstance(dialect, OpenGauss):
        (compatibility,) = await _row(connection, "SHOW sql_compatibility")
    refusal = dialect.mode_refusal(compatibility, bool(empty_is_null), config.parts["dbname"])
    if refusal is not None:
        raise refusal
    if encoding != "UTF8":
        statement = dialect.create_database(f"{config.parts['dbname']}_utf8").as_string(connection)
        raise UnfitDatabase(
            f"the database {config.place} is in the encoding {encoding}, which cannot store every text; create one in "
            f"UTF8 and use that: {statement}"
        )
    if role != "origin":  # only a superuser could set it back
        raise UnfitDatabase(
            f"sessions in the database {config.place} have session_replication_role = {role}, which disables foreign "
            "keys, so an erased conversation would leave its messages; reset that setting of the role or the "
            "database (ALTER ROLE … RESET session_replication_role)"
        )


async def _row(connection: Connection, statement: str) -> tuple[Any, ...]:
    row: tuple[Any, ...] | None = await (await connection.execute(statement.encode())).fetchone()
    if row is None:
        raise AssertionError(f"{statement} has a row")
    return row


def _silent(config: DatabaseConfig) -> DatabaseUnavailable:
    return DatabaseUnavailable(
        f"the database {config.place} does not answer within {config.connection_timeout + _GRACE_SECONDS:g} s, "
        "although "
        "its address accepts connections: perhaps a pooler whose server is unavailable, or an overloaded server; it "
        "is tried again"
    )


def _translate(error: psycopg.Error, config: DatabaseConfig) -> PersistenceError:
    return translate(error, place=config.place, user=config.parts.get("user", "?"))
