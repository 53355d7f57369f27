"""Checks the database: reachable, known product and version, tables, rights, and free connections."""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import AsyncIterator, Sequence
from typing import Final

import psycopg

from letta_bridge.doctor.findings import Finding, fail, ok, warn
from letta_bridge.settings import BridgeSettings
from shared_utils.errors import SettingsError
from shared_utils.persistence.database.bootstrap import connect_and_prepare
from shared_utils.persistence.database.config import DatabaseConfig
from shared_utils.persistence.database.connections import Connection
from shared_utils.persistence.database.error_mapping import translate
from shared_utils.persistence.database.migration import Migration, migrations, pending
from shared_utils.persistence.errors import DatabaseRefused, PersistenceError, SchemaMissing
from shared_utils.persistence.table_copy import absent_vector_tables
from shared_utils.persistence.vectors import vector_database

_WITHOUT_RIGHTS: Final = """
SELECT tablename::text
FROM pg_tables
WHERE schemaname = %s
  AND NOT (
    has_table_privilege(quote_ident(schemaname) || '.' || quote_ident(tablename), 'SELECT')
    AND (
      tablename = 'schema_migrations'
      OR (
        has_table_privilege(quote_ident(schemaname) || '.' || quote_ident(tablename), 'INSERT')
        AND has_table_privilege(quote_ident(schemaname) || '.' || quote_ident(tablename), 'UPDATE')
        AND has_table_privilege(quote_ident(schemaname) || '.' || quote_ident(tablename), 'DELETE')
      )
    )
  )
ORDER BY tablename
"""
_MAY_MAKE: Final = "SELECT has_database_privilege(current_database()::text, 'CREATE')"
_SELECT_USED_CONNECTIONS: Final = "SELECT count(*) FROM pg_stat_activity WHERE datname IS NOT NULL"
_SELECT_MAX_CONNECTIONS: Final = "SELECT current_setting('max_connections')::int"
_SELECT_RESERVED_CONNECTIONS: Final = "SELECT current_setting('superuser_reserved_connections')::int"


async def examine(settings: BridgeSettings) -> AsyncIterator[Finding]:
    """All findings; changes nothing. An unusable database gets one."""
    config = settings.database
    if config.db_url is None:
        yield ok(
            "database", "none configured (DATABASE_URL): sessions are stored in a file, and turns are not journalled"
        )
        return
    try:
        connection, dialect = await connect_and_prepare(config.model_copy(update={"generate_schemas": False}))
    except SchemaMissing as error:
        yield _absent(error, config)
        return
    except PersistenceError as error:
        yield _refused("database", error)
        return
    try:
        yield ok("database", f"{dialect.product} answers, {config.place}")
        async for finding in _inside(connection, config):
            yield finding
        yield await _room(connection, config)
        for suspicion in (await _vectors(settings), _plain_text(connection, config)):
            if suspicion is not None:
                yield suspicion
        if connection.pooled:
            yield ok(
                "database.pooler",
                "a connection pooler may be in front of the server; the bridge relies on no session state",
            )
    finally:
        await connection.close()


async def _inside(connection: Connection, config: DatabaseConfig) -> AsyncIterator[Finding]:
    try:
        missing = await pending(connection, config)
    except psycopg.Error as error:
        meant = translate(error, place=config.place, user=_user(config))
        yield _refused("database.rights" if isinstance(meant, DatabaseRefused) else "database.schema", meant)
        return
    except PersistenceError as error:
        yield _refused("database.schema", error)
        return
    yield _schema(missing, config)
    yield await _rights(connection, config, missing)


async def _vectors(settings: BridgeSettings) -> Finding | None:
    """The restore of an earlier release restored the list of tables, but not the tables."""
    subject = "database.vectors"
    try:
        config = vector_database(settings.vectors, settings.database)
        absent = await absent_vector_tables(config)
    except (PersistenceError, SettingsError) as error:
        says, _, advice = str(error).partition("; ")
        return fail(subject, says, advice or "correct that and run doctor again")
    if not absent:
        return None
    return fail(
        subject,
        f"the tables of vectors {', '.join(absent)} are missing",
        "run letta-bridge migrate, which creates them, and then letta-bridge vectors sync",
    )


def _absent(error: SchemaMissing, config: DatabaseConfig) -> Finding:
    if not config.generate_schemas:
        return _refused("database", error)
    return warn(
        "database",
        f"{config.place} does not exist yet",
        "correct its name in DATABASE_URL; if the name is right, the bridge creates the database at its start, if "
        "its user may",
    )


def _schema(missing: Sequence[Migration], config: DatabaseConfig) -> Finding:
    subject = "database.schema"
    if not missing:
        return ok(subject, f"all {len(migrations())} migrations are applied in schema {config.schema_name}")
    says = f"schema {config.schema_name} lacks {', '.join(f'{step.number:04} {step.name}' for step in missing)}"
    if config.generate_schemas:
        return warn(subject, says, "the bridge applies them at its start; to apply them now: letta-bridge migrate")
    return fail(subject, says, "run as a user that may create tables: letta-bridge migrate")


async def _rights(connection: Connection, config: DatabaseConfig, missing: Sequence[Migration]) -> Finding:
    subject, user = "database.rights", _user(config)
    rows = await (await connection.execute(_WITHOUT_RIGHTS, [config.schema_name])).fetchall()
    if rows:
        tables = ", ".join(name for (name,) in rows)
        return fail(
            subject, f"user {user} may not use {tables}", f"run as their owner: letta-bridge migrate --grant {user}"
        )
    if missing and config.generate_schemas and not await _number(connection, _MAY_MAKE):
        return fail(
            subject,
            f"user {user} may not create a schema in {config.place}",
            f"run as an administrator: letta-bridge migrate --grant {user}",
        )
    return ok(subject, f"user {user} has all rights the bridge needs")


async def _room(connection: Connection, config: DatabaseConfig) -> Finding:
    subject, reserved = "database.connections", 0
    most, used = await _number(connection, _SELECT_MAX_CONNECTIONS), await _number(connection, _SELECT_USED_CONNECTIONS)
    with contextlib.suppress(psycopg.Error):  # openGauss calls it otherwise
        reserved = await _number(connection, _SELECT_RESERVED_CONNECTIONS)
    free = max(0, most - reserved - used)
    says = f"{free} of {most} connections are free, but this bridge uses up to {config.max_connections}"
    if free < config.max_connections:
        return warn(subject, says, "raise the server's max_connections, or lower DB_MAX_CONNECTIONS")
    return ok(subject, says)


def _plain_text(connection: Connection, config: DatabaseConfig) -> Finding | None:
    host = config.parts.get("host", "")
    if connection.pgconn.ssl_in_use or _is_near(host):
        return None
    return warn(
        "database.tls",
        f"users' messages travel to {host} unencrypted",
        "add sslmode=verify-full and sslrootcert to DATABASE_URL, unless the network is private",
    )


def _is_near(host: str) -> bool:
    """On this machine: a socket, or the loopback address."""
    if not host or host.startswith(("/", "@")) or host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _refused(subject: str, error: PersistenceError) -> Finding:
    says, _, advice = str(error).partition("; ")
    return fail(subject, says, advice or "correct that and run doctor again")


async def _number(connection: Connection, statement: str) -> int:
    row = await (await connection.execute(statement.encode())).fetchone()
    return int(row[0]) if row else 0


def _user(config: DatabaseConfig) -> str:
    return config.parts.get("user", "?")
