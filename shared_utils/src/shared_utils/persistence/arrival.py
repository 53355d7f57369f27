"""The first connection to a database: is it there, is it fit, may we? Where it is missing, it is made."""

from __future__ import annotations

import contextlib
from typing import Any, Final

import psycopg
from psycopg import AsyncConnection, errors
from psycopg.conninfo import make_conninfo

from shared_utils.persistence.database_config import DatabaseConfig
from shared_utils.persistence.dialects import Dialect, recognise
from shared_utils.persistence.errors import DatabaseRefused
from shared_utils.persistence.failures import meaning

_MAINTENANCE: Final = ("postgres", "template1")


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
        "keepalives_idle": max(1, seconds // 2),
        "keepalives_interval": max(1, seconds // 4),
        "keepalives_count": 2,
        "tcp_user_timeout": seconds * 1000,
    }
    return {name: value for name, value in ours.items() if name not in config.parts}


async def _reach(config: DatabaseConfig) -> AsyncConnection[tuple[Any, ...]]:
    try:
        return await connect(config)
    except psycopg.OperationalError as error:
        # The server's text is in its own language, so whether the database exists is looked up, not read out of it.
        if not config.generate_schemas or not await _make_where_missing(config):
            raise _meaning(error, config) from error
    try:
        return await connect(config)
    except psycopg.Error as error:
        raise _meaning(error, config) from error


async def _make_where_missing(config: DatabaseConfig) -> bool:
    """Whether the database was missing, and is there now."""
    for maintenance in _MAINTENANCE:
        try:
            connection = await connect(config, maintenance)
        except psycopg.Error:
            continue
        async with contextlib.aclosing(_Closing(connection)):
            return await _make(connection, config)
    return False


async def _make(connection: AsyncConnection[tuple[Any, ...]], config: DatabaseConfig) -> bool:
    name = config.parts["dbname"]
    listed = await connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name])
    if await listed.fetchone():
        return False
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
    return True


class _Closing:
    def __init__(self, connection: AsyncConnection[Any]) -> None:
        self.aclose = connection.close


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


def _meaning(error: psycopg.Error, config: DatabaseConfig) -> Exception:
    return meaning(error, place=config.place, user=config.parts.get("user", "?"))
