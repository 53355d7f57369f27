"""The first connection to a database: is it there, is it fit, may we? Where it is missing, it is made."""

from __future__ import annotations

import contextlib
from typing import Any, Final

import psycopg
from psycopg import AsyncConnection, errors
from psycopg.conninfo import make_conninfo
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_delay, wait_fixed

from shared_utils.persistence.database_config import DatabaseConfig
from shared_utils.persistence.dialects import Dialect, recognise
from shared_utils.persistence.errors import (
    DatabaseRefused,
    LoginRefused,
    PersistenceError,
    SchemaMissing,
    UnfitDatabase,
)
from shared_utils.persistence.failures import meaning

_MAINTENANCE: Final = ("postgres", "template1")
_PAUSE: Final = 0.1
"""Seconds between tries to reach a database that is being made."""
_OVERTAKEN: Final = 1.0
"""Seconds for which a database is tried that is listed after all: another process may have made it since it was asked
for. Where that is not why it refused, its reason is told so much later."""


async def arrive(config: DatabaseConfig) -> tuple[AsyncConnection[tuple[Any, ...]], Dialect]:
    """An open connection in autocommit, set up for its dialect.

    Raises:
        DatabaseUnavailable, LoginRefused: it could not be reached.
        UnfitDatabase: wrong product, version, or compatibility mode.
        DatabaseRefused: it does not exist and may not be made.
    """
    connection = await _reach(config)
    try:
        dialect = await _dialect(connection)
        await _refuse_mode(connection, dialect, config)
        await _refuse_encoding(connection, dialect, config)
        await set_up(connection, dialect, config)
    except psycopg.Error as error:
        await connection.close()
        raise _meaning(error, config) from error
    except BaseException:
        await connection.close()
        raise
    return connection, dialect


async def set_up(connection: AsyncConnection[Any], dialect: Dialect, config: DatabaseConfig) -> None:
    """What every connection begins with. The schema's name is checked by the configuration, so it needs no quotes."""
    milliseconds = max(1, round(config.query_timeout * 1000))
    settings = (
        *dialect.session_settings,
        "SET TIME ZONE 'UTC'",
        f"SET search_path TO {config.schema_name}, public",
        f"SET statement_timeout = {milliseconds}",
    )
    for statement in settings:
        await connection.execute(statement.encode())


async def connect(config: DatabaseConfig, database: str | None = None) -> AsyncConnection[tuple[Any, ...]]:
    """A bare connection in autocommit.

    Args:
        config: how to reach the server.
        database: another one than the configured.
    """
    other = {} if database is None else {"dbname": database}
    return await AsyncConnection.connect(make_conninfo(config.conninfo, **parameters(config), **other), autocommit=True)


def parameters(config: DatabaseConfig) -> dict[str, Any]:
    """Parameters beside the URL's own, which win: a peer that vanished is noticed within the query timeout."""
    seconds = max(1, round(config.query_timeout))
    ours = {
        "connect_timeout": max(2, round(config.connection_timeout)),  # libpq takes 1 for 2
        "application_name": "letta-bridge",
        "client_encoding": "utf8",
        "keepalives_idle": max(1, seconds // 2),
        "keepalives_interval": max(1, seconds // 4),
        "keepalives_count": 2,
        "tcp_user_timeout": seconds * 1000,
    }
    return {name: value for name, value in ours.items() if name not in config.parts}


async def _reach(config: DatabaseConfig) -> AsyncConnection[tuple[Any, ...]]:
    try:
        return await connect(config)
    except psycopg.Error as error:
        # The server's text is in its own language, so whether the database exists is looked up, not read out of it.
        meant = _meaning(error, config)
        patience = None if isinstance(meant, LoginRefused) else await _made_where_missing(config, str(error))
        if patience is None:
            raise meant from error
    return await _reach_new(config, patience)


async def _reach_new(config: DatabaseConfig, patience: float) -> AsyncConnection[tuple[Any, ...]]:
    # Another process may be making it still.
    retrying = AsyncRetrying(
        retry=retry_if_exception_type(psycopg.OperationalError),
        stop=stop_after_delay(patience),
        wait=wait_fixed(_PAUSE),
        reraise=True,
    )
    try:
        return await retrying(connect, config)
    except psycopg.Error as error:
        raise _meaning(error, config) from error


async def _made_where_missing(config: DatabaseConfig, trouble: str) -> float | None:
    """For how many seconds to try again; None where that is of no use, as it was not the database that was missing.

    Args:
        config: the database.
        trouble: why it could not be reached. Where another database of the server is refused with the same words, it
            is not the database that is missing, and further tries would only count as wrong passwords.
    """
    for maintenance in _MAINTENANCE:
        try:
            connection = await connect(config, maintenance)
        except psycopg.Error as error:
            if isinstance(error, errors.ConnectionTimeout) or str(error) == trouble:
                return None
            continue
        try:
            return await _made(connection, config)
        finally:
            await connection.close()
    return None


async def _made(connection: AsyncConnection[tuple[Any, ...]], config: DatabaseConfig) -> float:
    name = config.parts["dbname"]
    listed = await connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name])
    if await listed.fetchone():
        return min(_OVERTAKEN, config.connection_timeout)
    if not config.generate_schemas:
        raise SchemaMissing(
            f"the database {config.place} does not exist; run `letta-bridge migrate` as a user that may make it "
            "(DB_GENERATE_SCHEMAS is off here)"
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
            f"the database {config.place} does not exist and user {config.parts.get('user')} cannot make it "
            f"({reason}); run as an administrator: {statement}"
        ) from error
    return config.connection_timeout


async def _dialect(connection: AsyncConnection[tuple[Any, ...]]) -> Dialect:
    row = await (await connection.execute("SELECT version()")).fetchone()
    return recognise(str(row[0]) if row else "")


async def _refuse_mode(connection: AsyncConnection[tuple[Any, ...]], dialect: Dialect, config: DatabaseConfig) -> None:
    row = await (await connection.execute("SELECT '' IS NULL")).fetchone()
    compatibility = None
    with contextlib.suppress(errors.UndefinedObject):
        shown = await (await connection.execute("SHOW sql_compatibility")).fetchone()
        compatibility = str(shown[0]) if shown else None
    refusal = dialect.mode_refusal(compatibility, bool(row and row[0]), config.parts["dbname"])
    if refusal is not None:
        raise refusal


async def _refuse_encoding(
    connection: AsyncConnection[tuple[Any, ...]], dialect: Dialect, config: DatabaseConfig
) -> None:
    row = await (await connection.execute("SHOW server_encoding")).fetchone()
    if row and row[0] != "UTF8":
        statement = dialect.create_database(f"{config.parts['dbname']}_utf8").as_string(connection)
        raise UnfitDatabase(
            f"the database {config.place} is in the encoding {row[0]}, which cannot hold every text; make one in UTF8 "
            f"and name that: {statement}"
        )


def _meaning(error: psycopg.Error, config: DatabaseConfig) -> PersistenceError:
    return meaning(error, place=config.place, user=config.parts.get("user", "?"))
