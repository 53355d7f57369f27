"""Copies the SQLite session file, also while bridges write to it."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from urllib.parse import quote

from shared_utils.clock import utc_now
from shared_utils.persistence.choices.file_store import every_choice, merge_choices
from shared_utils.persistence.choices.port import Choice
from shared_utils.persistence.erasures.session_file import erased_in_copy
from shared_utils.persistence.errors import Conflict, PersistenceError
from shared_utils.persistence.session_file.tables import prepare, time_text
from shared_utils.private_files import PARTIAL, create

_OF_SESSIONS = ("agent_sessions", "session_journal", "session_conflicts")
_CREATE_RESTORES_TABLE = (
    "CREATE TABLE IF NOT EXISTS restores (backup_id TEXT PRIMARY KEY, made_at TEXT, restored_at TEXT)"
)
_MOVE_AGENT = "UPDATE agent_sessions SET agent_id = ?, version = version + 1, changed_at = ? WHERE agent_id = ?"


def save(source: Path, target: Path) -> None:
    """Copy a consistent snapshot of the file. Does nothing where the file does not exist."""
    if source.exists():
        _copied(f"file:{quote(str(source))}?mode=ro", target, lambda _: None)


def restored_before(target: Path, backup_id: str) -> bool:
    """Whether the file was restored from this backup. False where there is no file, or one that holds choices alone.

    Raises:
        Conflict: the file holds sessions and was not, cannot be read, or is open in a bridge.
    """
    if not target.exists():
        return False
    with contextlib.closing(sqlite3.connect(f"file:{quote(str(target))}?mode=ro", uri=True)) as connection:
        with contextlib.suppress(sqlite3.Error):
            if connection.execute("SELECT 1 FROM restores WHERE backup_id = ?", [backup_id]).fetchone():
                return True
        try:
            used = any(connection.execute(f"SELECT 1 FROM {table} LIMIT 1").fetchone() for table in _OF_SESSIONS)  # noqa: S608
        except sqlite3.Error:
            used = True
    if used:
        raise Conflict(
            f"{target} already contains sessions; stop the bridges of this host and move the file away, or name "
            "another place (DATA_DIR)"
        )
    _choices_of(target)
    return False


def load(
    source: Path,
    target: Path,
    backup_id: str,
    made_at: datetime,
    agents: Mapping[str, str],
    *,
    erased: Collection[str] = (),
) -> tuple[int, set[str]]:
    """Restore the file atomically, with a marker of the backup in it.

    The choices in a file that a bridge has made by itself are merged into it: the later choice wins.

    Args:
        source: the file in the backup; may not exist, where the backup was made before the first session.
        target: the file to create.
        backup_id: written into the file.
        made_at: the moment of the backup.
        agents: former agent id → current agent id, replaced in sessions.
        erased: hex SHA-256 of the ids of users who were erased since; their rows are removed before the file appears.

    Returns:
        Number of sessions changed, and the hashes of erased users who had rows.

    Raises:
        Conflict: a bridge has the target open.
    """
    moved = 0
    gone: set[str] = set()
    if not source.exists():
        return moved, gone
    choices = _choices_of(target) if target.exists() else []

    def finish(connection: sqlite3.Connection) -> None:
        nonlocal moved, gone
        if erased:
            gone = erased_in_copy(connection, erased)
        with connection:
            connection.execute(_CREATE_RESTORES_TABLE)
            times = [time_text(made_at), time_text(utc_now())]
            connection.execute("INSERT INTO restores VALUES (?, ?, ?)", [backup_id, *times])
            moved = _moved(connection, agents)
        if choices:
            with connection:
                prepare(connection)  # a backup of an earlier release has no table of choices
                merge_choices(connection, choices)

    # Without "immutable" SQLite creates files beside the source, which fails on a read-only mount.
    _copied(f"file:{quote(str(source))}?mode=ro&immutable=1", target, finish)
    return moved, gone


def move(target: Path, agents: Mapping[str, str]) -> int:
    """Replace agents' former ids in a file that was restored before. Returns the number of sessions changed."""
    try:
        with contextlib.closing(sqlite3.connect(target)) as connection, connection:
            return _moved(connection, agents)
    except sqlite3.Error as error:
        raise PersistenceError(f"the session file {target} cannot be written ({error})") from error


def _choices_of(target: Path) -> Sequence[Choice]:
    """The choices in a file that is going to be replaced, and that no bridge has open."""
    with contextlib.closing(sqlite3.connect(target, timeout=0)) as connection:
        try:
            # SQLite refuses this while another connection is open: its bridge would go on with the replaced file.
            connection.execute("PRAGMA journal_mode = DELETE")
            with connection:
                prepare(connection)
            return every_choice(connection)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
                raise PersistenceError(f"the session file {target} cannot be read ({error})") from error
            raise Conflict(f"a bridge uses {target}; stop the bridges of this host and repeat the restore") from error


def _moved(connection: sqlite3.Connection, agents: Mapping[str, str]) -> int:
    now = time_text(utc_now())
    return sum(connection.execute(_MOVE_AGENT, [new, now, former]).rowcount for former, new in agents.items())


def _copied(source: str, target: Path, finish: Callable[[sqlite3.Connection], None]) -> None:
    partial = target.with_name(target.name + PARTIAL)
    for left in (partial, *(partial.with_name(partial.name + ending) for ending in ("-journal", "-wal", "-shm"))):
        left.unlink(missing_ok=True)
    create(partial)
    try:
        with (
            contextlib.closing(sqlite3.connect(source, uri=True)) as reading,
            contextlib.closing(sqlite3.connect(partial)) as writing,
        ):
            reading.backup(writing)
            # The copied header refers to a write-ahead log, which the copy does not have.
            writing.execute("PRAGMA journal_mode = DELETE")
            finish(writing)
    except sqlite3.Error as error:
        partial.unlink(missing_ok=True)
        raise PersistenceError(f"the session file cannot be copied to {target} ({error})") from error
    partial.replace(target)
