"""Where the bridge's state is saved from and brought back to: the database, or the session file where there is none."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Mapping
from pathlib import Path

from letta_bridge.backup.manifest import Manifest, Method
from letta_bridge.settings import BridgeSettings
from shared_utils.persistence import pg_dump
from shared_utils.persistence.arrival import arrive
from shared_utils.persistence.dialects import Dialect
from shared_utils.persistence.errors import Conflict, DatabaseRefused
from shared_utils.persistence.table_copy import copy_in, copy_out

_DUMP = "database.dump"
_TABLES = "database"
_SESSIONS = "sessions.db"


async def save_state(settings: BridgeSettings, folder: Path, *, plain: bool) -> tuple[Method, Mapping[str, int]]:
    """Write the state below ``folder``; how, and the rows of each table where they were counted.

    Args:
        settings: the bridge's.
        folder: of the backup.
        plain: COPY text even where pg_dump is present: it can be brought back to the other engine.
    """
    config = settings.database
    if config.db_url is None:
        await asyncio.to_thread(_copy_file, settings.session_file, folder / _SESSIONS)
        return "file", {}
    if not plain and await pg_dump.can_dump(await _dialect(settings)):
        await pg_dump.dump(config, folder / _DUMP)
        return "pg_dump", {}
    return "copy", await copy_out(config, folder / _TABLES)


async def load_state(settings: BridgeSettings, folder: Path, manifest: Manifest) -> None:
    """Bring the state of a backup back to an empty place.

    Raises:
        Conflict: the place is not empty.
        DatabaseRefused: the backup needs something this installation has not.
    """
    config = settings.database
    if manifest.method == "file":
        await asyncio.to_thread(_copy_file, folder / _SESSIONS, settings.session_file)
        return
    if config.db_url is None:
        raise DatabaseRefused("the backup is of a database and none is configured; set DATABASE_URL")
    if manifest.method == "copy":
        await copy_in(config, folder / _TABLES)
        return
    if not await pg_dump.can_dump(await _dialect(settings)):
        raise DatabaseRefused(
            "the backup was made by pg_dump and pg_restore for this server is not here; install PostgreSQL's client "
            "programs of its version, or make the backup with --plain"
        )
    await pg_dump.restore(config, folder / _DUMP)


async def _dialect(settings: BridgeSettings) -> Dialect:
    connection, dialect = await arrive(settings.database)
    await connection.close()
    return dialect


def _copy_file(source: Path, target: Path) -> None:
    """SQLite's own copy: whole, though bridges write to the source meanwhile."""
    if target.exists():
        raise Conflict(f"{target} exists already; move it away, or name another place")
    if not source.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with (
        contextlib.closing(sqlite3.connect(f"file:{source}?mode=ro", uri=True)) as reading,
        contextlib.closing(sqlite3.connect(target)) as writing,
    ):
        reading.backup(writing)
