"""The state's part of a backup: the service's database and the vectors' own, or the session file without a database.

A backup of an installation whose vectors have a database of their own can be restored into one where they do not, and
the other way round: each table is restored into the database that holds it there.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from itertools import filterfalse
from pathlib import Path
from typing import Final

from letta_bridge.backup import session_file
from letta_bridge.backup.places import AUDIT, DUMP, SESSIONS
from letta_bridge.backup.records import Manifest, Place, SavedState, SavedTable
from letta_bridge.settings import BridgeSettings
from shared_utils.clock import utc_now
from shared_utils.persistence.database.config import DatabaseConfig
from shared_utils.persistence.database.migration import no_schema
from shared_utils.persistence.errors import Conflict, DatabaseRefused
from shared_utils.persistence.table_copy import (
    BOOKKEEPING,
    Expected,
    RestoreMarker,
    copy_in,
    copy_out,
    migrated_tables,
    pg_dump,
    remove_users,
    require_empty,
)
from shared_utils.persistence.vectors import vector_database
from shared_utils.private_files import replacing

_VECTOR_MODELS: Final = "vector_models"


@dataclass(slots=True)
class LoadedState:
    """The result of restoring the state."""

    done_before: bool = True
    """An earlier run restored all of it."""
    rows: dict[str, int] = field(default_factory=dict)
    compared: int = 0
    """Number of tables whose content was compared with the manifest."""
    moved_sessions: int = 0
    choices_found: int = 0
    """Choices about permanent memory that were in the database before, and were merged."""
    absent: tuple[str, ...] = ()
    """Tables of this release that the backup does not have; they are empty."""
    erased: set[str] = field(default_factory=set)
    """Hashes of the ids of users who were erased since the backup, and of whom it holds rows, which were left out."""


async def save_state(settings: BridgeSettings, folder: Path) -> tuple[SavedState, ...]:
    """Write the state below ``folder``, each database from one consistent snapshot.

    Raises:
        PersistenceError: a database or the session file cannot be read.
    """
    found = [await _copied_out(name, config, folder) for name, config in _databases(settings).items()]
    if settings.database.db_url is None:
        at = utc_now()
        await asyncio.to_thread(session_file.save, settings.session_file, folder / SESSIONS)
        await asyncio.to_thread(_copy, settings.tenant_dir / AUDIT, folder / AUDIT)
        found.append(SavedState(name="file", method="file", at=at))
    return tuple(found)


async def check_place(settings: BridgeSettings, manifest: Manifest) -> None:
    """Verify that databases and session file are empty, or were restored from this backup. Changes no rows.

    Data that a running bridge writes by itself counts as empty: the audit of erasures, and the choices about permanent
    memory that Redis has.

    Raises:
        Conflict: one of them holds other data, or the backup is another tenant's.
        DatabaseRefused: the backup needs a database and none is configured.
    """
    if manifest.tenant not in {None, settings.tenant.name}:
        raise Conflict(
            f"the backup is of the tenant {manifest.tenant!r}, but this is '{settings.tenant.name}'; restore it "
            "with that name in tenant.name (TENANT)"
        )
    databases = _databases(settings)
    for state in manifest.state:
        if state.name == "file":
            target = settings.session_file
            await asyncio.to_thread(session_file.restored_before, target, manifest.backup_id)
        elif not databases or (state.name == "database" and "database" not in databases):
            raise DatabaseRefused("the backup contains a database, but none is configured; set DATABASE_URL")
    if manifest.tables or any(state.method == "pg_dump" for state in manifest.state):
        for config in databases.values():
            await require_empty(config, _marker(manifest))


async def load_state(
    settings: BridgeSettings,
    folder: Path,
    scratch: Path,
    manifest: Manifest,
    agents: Mapping[str, str],
    *,
    erased: Collection[str] = (),
) -> LoadedState:
    """Restore the state, each database in one transaction and the session file atomically.

    Args:
        settings: the bridge's.
        folder: the backup's directory.
        scratch: an empty folder for temporary files.
        manifest: the backup's.
        agents: former agent id → current agent id.
        erased: hex SHA-256 of the ids of users who were erased since the backup; nothing of theirs is restored.

    Raises:
        Conflict: a database or the session file is not empty.
        RestoreMismatch: a table does not hold what the manifest says; its database was not changed.
        PersistenceError: a database cannot be used.
    """
    done = LoadedState()
    tables = {table.name: Expected(folder / table.path, table.rows, table.digest) for table in manifest.tables}
    tables |= _vectors_of(manifest, folder)
    if any(state.method == "pg_dump" for state in manifest.state):
        files = await pg_dump.unpack(folder / DUMP, scratch / "database")
        tables = {name: Expected(file) for name, file in files.items() if name not in BOOKKEEPING}
    if tables:
        for config, part in _places(settings, tables):
            came = await copy_in(config, part, _marker(manifest), agents, erased=erased)
            done.done_before &= came.done_before
            done.rows |= came.rows
            done.compared += came.compared
            done.moved_sessions += came.moved_sessions
            done.choices_found += came.choices_found
            done.erased |= came.erased
            done.absent += came.absent if config is settings.database else ()
    if any(state.name == "file" for state in manifest.state):
        await asyncio.to_thread(_load_file, settings, folder, manifest, agents, erased=erased, done=done)
    return done


async def remove_from_state(settings: BridgeSettings, manifest: Manifest, hashes: Collection[str]) -> set[str]:
    """Remove restored rows of users who were erased meanwhile from the databases. Returns these users.

    A session file is left to its bridge, which follows erasures when it starts.
    """
    found: set[str] = set()
    if hashes and any(state.name != "file" for state in manifest.state):
        for config in _databases(settings).values():
            found |= await remove_users(config, hashes)
    return found


def _databases(settings: BridgeSettings) -> dict[Place, DatabaseConfig]:
    """The configured databases. The service's comes last: a restore is complete once it is restored."""
    service, vectors = settings.database, vector_database(settings.vectors, settings.database)
    found: dict[Place, DatabaseConfig] = {}
    if settings.vectors.opengauss.enabled and (service.db_url is None or vectors.place != service.place):
        found["vectors"] = vectors
    if service.db_url is not None:
        found["database"] = service
    return found


async def _copied_out(name: Place, config: DatabaseConfig, folder: Path) -> SavedState:
    copied = await copy_out(config, folder / name)
    if name == "database" and not copied.tables:
        raise no_schema(config)  # an empty backup would be noticed only at the restore
    return SavedState(
        name=name,
        method="copy",
        product=copied.product,
        at=copied.at,
        tables=tuple(
            SavedTable(name=table.name, path=f"{name}/{table.file}", rows=table.rows, digest=table.digest)
            for table in copied.tables
        ),
        left_out=copied.left_out,
    )


def _vectors_of(manifest: Manifest, folder: Path) -> dict[str, Expected]:
    """Tables of vectors that the backup has from a database of their own; they replace those of the service's."""
    return {
        table.name: Expected(folder / table.path, table.rows, table.digest)
        for state in manifest.state
        if state.name == "vectors"
        for table in state.tables
        if _is_of_vectors(table.name)
    }


def _places(
    settings: BridgeSettings, tables: Mapping[str, Expected]
) -> list[tuple[DatabaseConfig, dict[str, Expected]]]:
    """Each database of this installation, with the tables to restore into it."""
    databases = _databases(settings)
    if len(databases) == 1:
        return [(config, dict(tables)) for config in databases.values()]
    return [
        (config, {table: file for table, file in tables.items() if _is_of_vectors(table) == (name == "vectors")})
        for name, config in databases.items()
    ]


def _is_of_vectors(table: str) -> bool:
    """Whether a table belongs to the vectors: tables of embeddings are the only ones that no migration creates."""
    return table == _VECTOR_MODELS or table not in migrated_tables()


def _load_file(
    settings: BridgeSettings,
    folder: Path,
    manifest: Manifest,
    agents: Mapping[str, str],
    *,
    erased: Collection[str],
    done: LoadedState,
) -> None:
    target = settings.session_file
    if session_file.restored_before(target, manifest.backup_id):
        done.moved_sessions += session_file.move(target, agents)
        return
    done.done_before = False
    _merge_audit(folder / AUDIT, settings.tenant_dir / AUDIT)
    marker = _marker(manifest)
    moved, gone = session_file.load(folder / SESSIONS, target, marker.backup_id, marker.made_at, agents, erased=erased)
    done.moved_sessions += moved
    done.erased |= gone


def _marker(manifest: Manifest) -> RestoreMarker:
    return RestoreMarker(manifest.backup_id, manifest.at)


def _copy(source: Path, target: Path) -> None:
    """Copy a file atomically. Does nothing where the source is missing or the target exists."""
    if source.exists() and not target.exists():
        with source.open("rb") as reading, replacing(target) as writing:
            shutil.copyfileobj(reading, writing)


def _merge_audit(source: Path, target: Path) -> None:
    """Put the lines of the backup's audit before those that are here already. Idempotent.

    A reader merges the lines of one erasure, of which the later ones win.
    """
    if not source.exists() or not target.exists():
        _copy(source, target)
        return
    here = _lines(target)
    known = set(here)
    with replacing(target) as writing:
        writing.writelines(b"%s\n" % line for line in [*filterfalse(known.__contains__, _lines(source)), *here])


def _lines(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines()
