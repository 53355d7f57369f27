"""The schema, in numbered steps: ``migrations/NNNN_name.sql``, each applied once, in order, and remembered.

A step only adds (expand); what an older release still needs goes in a later release's step (contract). The first lines
of a file may say ``-- compatible from: N``: a release that knows no step below N cannot work on the schema any more.
"""

from __future__ import annotations

import hashlib
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Final

import psycopg
from psycopg import errors, sql

from shared_utils.observability import logs
from shared_utils.operator_commands import command
from shared_utils.persistence.database.bootstrap import connect_and_prepare
from shared_utils.persistence.database.config import DatabaseConfig
from shared_utils.persistence.database.connections import Connection
from shared_utils.persistence.database.error_mapping import translate
from shared_utils.persistence.errors import DatabaseRefused, MigrationChanged, SchemaMissing, UnfitDatabase
from shared_utils.persistence.installed_names import LOCKS

_log = logs.get("shared_utils.persistence.migration")

_FILE: Final = re.compile(r"(\d{4})_(\w+)\.sql")
_COMPATIBLE: Final = re.compile(r"^-- compatible from: (\d+)$", re.MULTILINE)
_LOCK_SECONDS: Final = 120
_RECORD_MIGRATION: Final = """
CREATE TABLE {}.schema_migrations (
    number integer PRIMARY KEY,
    name text NOT NULL,
    checksum text NOT NULL,
    compatible_from integer NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
)
"""


@dataclass(frozen=True, slots=True)
class Migration:
    """One step."""

    number: int
    name: str
    text: str
    checksum: str
    compatible_from: int


@cache
def migrations() -> Sequence[Migration]:
    """Every step this release knows, in order."""
    folder = resources.files("shared_utils.persistence").joinpath("migrations")
    found = [_read(file.name, file.read_text("utf-8")) for file in folder.iterdir() if _FILE.fullmatch(file.name)]
    return tuple(sorted(found, key=lambda migration: migration.number))


async def pending(connection: Connection, config: DatabaseConfig) -> Sequence[Migration]:
    """The steps this database lacks.

    Raises:
        MigrationChanged: it has a step that this release knows differently.
        UnfitDatabase: a newer release has changed it too much.
    """
    applied = await _applied(connection, config.schema_name)
    for migration in migrations():
        checksum = applied.get(migration.number, (migration.checksum, 0))[0]
        if checksum != migration.checksum:
            raise MigrationChanged(
                f"migration {migration.number:04} ({migration.name}) of the database {config.place} differs from this "
                "release's; restore the file, never edit an applied migration"
            )
    newest = migrations()[-1].number
    needed = max((compatible_from for _, compatible_from in applied.values()), default=0)
    if needed > newest:
        raise UnfitDatabase(
            f"the database {config.place} was changed by a newer release (it needs migration {needed:04}, this one "
            f"ends at {newest:04}); upgrade this service"
        )
    return tuple(migration for migration in migrations() if migration.number not in applied)


async def require_schema(connection: Connection, config: DatabaseConfig) -> None:
    """Return when the schema is there; make it where the configuration lets us.

    Raises:
        SchemaMissing: steps are missing and we may not apply them.
    """
    missing = await pending(connection, config)
    if not missing:
        return
    if not config.generate_schemas:
        if len(missing) == len(migrations()):
            raise no_schema(config)
        steps = ", ".join(f"{migration.number:04}" for migration in missing)
        raise SchemaMissing(
            f"the database {config.place} lacks the migrations {steps}; run `{command('migrate')}` as a user that may "
            "create tables"
        )
    await apply(connection, config)


def no_schema(config: DatabaseConfig) -> SchemaMissing:
    """The error for a database that none of this service's tables is in."""
    return SchemaMissing(
        f"the database {config.place} has no schema {config.schema_name} with this service's tables; if DATABASE_URL "
        f"and DB_SCHEMA name the right ones, run `{command('migrate')}` as a user that may create it"
    )


async def apply(connection: Connection, config: DatabaseConfig) -> Sequence[Migration]:
    """Apply what is missing; several processes may do this at once, one works and the others wait.

    Returns:
        What this call applied.
    """
    applied: list[Migration] = []
    try:
        while (step := await _apply_next(connection, config)) is not None:
            _log.info("migration_applied", number=step.number, name=step.name)
            applied.append(step)
    except errors.InsufficientPrivilege as error:
        user = config.parts.get("user", "?")
        raise SchemaMissing(
            f"user {user} may not create tables in the database {config.place} ({error.diag.message_primary}); run as "
            f"its owner: {command(f'migrate --grant {user}')}"
        ) from error
    return tuple(applied)


async def _apply_next(connection: Connection, config: DatabaseConfig) -> Migration | None:
    """One step under the lock, which the end of the transaction gives back: a pooler may give the session to others."""
    key = zlib.crc32(f"{LOCKS} {config.schema_name}".encode())
    async with connection.work(seconds=_LOCK_SECONDS):
        await connection.execute("SELECT pg_advisory_xact_lock(%s)", [key])
        await _make_schema(connection, config.schema_name)
        migration = next(iter(await pending(connection, config)), None)
        if migration is None:
            return None
        await connection.execute(migration.text.encode())  # bytes: a % in it is a %
        note = sql.SQL(
            "INSERT INTO {}.schema_migrations (number, name, checksum, compatible_from) VALUES (%s, %s, %s, %s)"
        )
        await connection.execute(
            note.format(sql.Identifier(config.schema_name)),
            [migration.number, migration.name, migration.checksum, migration.compatible_from],
        )
    return migration


async def migrate(config: DatabaseConfig, *, grant: str | None = None) -> Sequence[Migration]:
    """Make database and schema as they should be.

    Args:
        config: the database, and a user that may do this.
        grant: a role that shall be able to run the service, without any right to change the schema.

    Returns:
        What was applied.
    """
    connection, _ = await connect_and_prepare(config.model_copy(update={"generate_schemas": True}))
    try:
        applied = await apply(connection, config)
        if grant:
            async with connection.work():
                await _grant(connection, config.schema_name, grant)
    except errors.UndefinedObject as error:
        raise DatabaseRefused(
            f"the database {config.place} has no role {grant} ({error.diag.message_primary}); create it first: CREATE "
            f"USER {grant} PASSWORD '...'"
        ) from error
    except psycopg.Error as error:
        raise translate(error, place=config.place, user=config.parts.get("user", "?")) from error
    finally:
        await connection.close()
    return applied


async def missing(config: DatabaseConfig) -> Sequence[Migration]:
    """The steps the database lacks; changes nothing.

    Raises:
        PersistenceError: it cannot be reached, or is not fit.
    """
    connection, _ = await connect_and_prepare(config.model_copy(update={"generate_schemas": False}))
    try:
        return await pending(connection, config)
    except psycopg.Error as error:
        raise translate(error, place=config.place, user=config.parts.get("user", "?")) from error
    finally:
        await connection.close()


async def _make_schema(connection: Connection, schema: str) -> None:
    # Looked up first: IF NOT EXISTS asks for the right to make one even where there is nothing to make.
    found = await connection.execute("SELECT 1 FROM pg_namespace WHERE nspname = %s", [schema])
    if not await found.fetchone():
        await connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(schema)))
    if await _record_missing(connection, schema):
        await connection.execute(sql.SQL(_RECORD_MIGRATION).format(sql.Identifier(schema)))


async def _applied(connection: Connection, schema: str) -> dict[int, tuple[str, int]]:
    if await _record_missing(connection, schema):
        return {}
    # With its schema's name: where we may not look into that, the search path would silently skip it.
    record = sql.SQL("SELECT number, checksum, compatible_from FROM {}.schema_migrations")
    rows = await connection.execute(record.format(sql.Identifier(schema)))
    return {number: (checksum, compatible_from) for number, checksum, compatible_from in await rows.fetchall()}


async def _record_missing(connection: Connection, schema: str) -> bool:
    found = await connection.execute(
        "SELECT 1 FROM pg_tables WHERE schemaname = %s AND tablename = 'schema_migrations'", [schema]
    )
    return not await found.fetchone()


async def _grant(connection: Connection, schema: str, role: str) -> None:
    names = {"schema": sql.Identifier(schema), "role": sql.Identifier(role)}
    for text in (
        "GRANT USAGE ON SCHEMA {schema} TO {role}",
        "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO {role}",
        "GRANT USAGE ON ALL SEQUENCES IN SCHEMA {schema} TO {role}",
        "REVOKE INSERT, UPDATE, DELETE ON {schema}.schema_migrations FROM {role}",
        # What later migrations make.
        "ALTER DEFAULT PRIVILEGES IN SCHEMA {schema} GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO {role}",
        "ALTER DEFAULT PRIVILEGES IN SCHEMA {schema} GRANT USAGE ON SEQUENCES TO {role}",
    ):
        await connection.execute(sql.SQL(text).format(**names))


def _read(name: str, text: str) -> Migration:
    found = _FILE.fullmatch(name)
    if found is None:
        raise AssertionError(name)
    compatible = _COMPATIBLE.search(text)
    return Migration(
        int(found[1]),
        found[2],
        text,
        hashlib.sha256(text.encode()).hexdigest(),
        int(compatible[1]) if compatible else 1,
    )
