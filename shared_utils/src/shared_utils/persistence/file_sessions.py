"""Sessions in one SQLite file: for one host, and where no database is configured or it is away."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from importlib import resources
from pathlib import Path
from typing import Any, Final, TypeVar

from shared_utils.persistence.sessions import Session, SessionStoreError, StaleSession, utc_now

_COLUMNS: Final = (
    "session_id, user_id, persona, agent_id, session_data, metadata, created_at, last_updated, expires_at, version, "
    "is_active"
)
_FIND: Final = f"SELECT {_COLUMNS} FROM agent_sessions WHERE user_id = ? AND persona = ? AND is_active = 1"  # noqa: S608  # a constant
_INSERT: Final = f"INSERT INTO agent_sessions ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"  # noqa: S608  # a constant
_UPDATE: Final = (
    "UPDATE agent_sessions SET agent_id = ?, session_data = ?, metadata = ?, last_updated = ?, expires_at = ?, "
    "is_active = ?, version = version + 1 WHERE session_id = ? AND version = ?"
)
_TOUCH: Final = "UPDATE agent_sessions SET last_updated = ? WHERE session_id = ?"
_COUNT: Final = "SELECT count(*), count(*) - count(agent_id) FROM agent_sessions WHERE is_active = 1"
_BUSY_SECONDS: Final = 5.0
_BUSY_PAUSE: Final = 0.01

_Result = TypeVar("_Result")


class FileSessionStore:
    """Sessions in the SQLite file ``path``, which several processes of one host may share.

    The file is opened on first use, and again after an error: a disk that was full or missing is no reason to restart.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None
        self._lock = threading.Lock()

    async def find(self, user_id: str, persona: str) -> Session | None:
        """See :class:`SessionStore`."""
        return await self._run(lambda connection: _find(connection, user_id, persona))

    async def reserve(self, user_id: str, persona: str) -> Session:
        """See :class:`SessionStore`."""

        def insert_or_find(connection: sqlite3.Connection) -> Session:
            with connection:
                connection.execute("BEGIN IMMEDIATE")
                session = _find(connection, user_id, persona)
                if session is None:
                    session = Session(user_id, persona)
                    connection.execute(_INSERT, _row(session))
            return session

        return await self._run(insert_or_find)

    async def save(self, session: Session) -> Session:
        """See :class:`SessionStore`."""
        saved = replace(session, version=session.version + 1, last_updated=utc_now())

        def update(connection: sqlite3.Connection) -> Session:
            row = _row(saved)
            with connection:
                values = (row[3], row[4], row[5], row[7], row[8], row[10], session.session_id, session.version)
                if connection.execute(_UPDATE, values).rowcount != 1:
                    raise StaleSession(
                        f"session {session.session_id} is not at version {session.version} any more; read it again"
                    )
            return saved

        return await self._run(update)

    async def touch(self, session_ids: Collection[str]) -> None:
        """See :class:`SessionStore`."""
        now = utc_now().isoformat()

        def update(connection: sqlite3.Connection) -> None:
            with connection:
                connection.executemany(_TOUCH, [(now, session_id) for session_id in session_ids])

        await self._run(update)

    async def count(self) -> Mapping[str, int]:
        """See :class:`SessionStore`."""
        active, reserved = await self._run(lambda connection: connection.execute(_COUNT).fetchone())
        return {"active": active, "reserved": reserved}

    async def close(self) -> None:
        """See :class:`SessionStore`."""
        with self._lock:
            self._drop()

    async def _run(self, work: Callable[[sqlite3.Connection], _Result]) -> _Result:
        return await asyncio.to_thread(self._guarded, work)

    def _guarded(self, work: Callable[[sqlite3.Connection], _Result]) -> _Result:
        with self._lock, self._explained():
            if self._connection is None:
                self._connection = self._open()
            return work(self._connection)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            self._drop()
            raise SessionStoreError(
                f"the session file {self._path} cannot be used ({error}); check that its directory can be written and "
                "the disk is not full"
            ) from error

    def _open(self) -> sqlite3.Connection:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(self._path, timeout=_BUSY_SECONDS, check_same_thread=False, isolation_level=None)
        try:
            _write_ahead(connection)
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.executescript(resources.files(__package__).joinpath("sessions.sql").read_text("utf-8"))
        except sqlite3.Error:
            connection.close()
            raise
        return connection

    def _drop(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None


def _write_ahead(connection: sqlite3.Connection) -> None:
    """Switch the file to its write-ahead log.

    SQLite does not wait for that lock by itself: two bridges that make the file at once would get in each other's way.
    """
    until = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() >= until:
                raise
            time.sleep(_BUSY_PAUSE)
        else:
            return


def _find(connection: sqlite3.Connection, user_id: str, persona: str) -> Session | None:
    row = connection.execute(_FIND, (user_id, persona)).fetchone()
    try:
        return None if row is None else _session(row)
    except (ValueError, TypeError) as error:
        raise SessionStoreError(
            f"session {row[0]} in the session file cannot be read ({error}); correct or delete that row"
        ) from error


def _row(session: Session) -> tuple[Any, ...]:
    return (
        session.session_id,
        session.user_id,
        session.persona,
        session.agent_id,
        json.dumps(dict(session.session_data), ensure_ascii=False),
        json.dumps(dict(session.metadata), ensure_ascii=False),
        session.created_at.isoformat(),
        session.last_updated.isoformat(),
        session.expires_at.isoformat() if session.expires_at else None,
        session.version,
        int(session.is_active),
    )


def _session(row: tuple[Any, ...]) -> Session:
    session_id, user_id, persona, agent_id, data, metadata, created, updated, expires, version, active = row
    return Session(
        user_id=user_id,
        persona=persona,
        session_id=session_id,
        agent_id=agent_id,
        session_data=json.loads(data),
        metadata=json.loads(metadata),
        created_at=datetime.fromisoformat(created),
        last_updated=datetime.fromisoformat(updated),
        expires_at=datetime.fromisoformat(expires) if expires else None,
        version=version,
        is_active=bool(active),
    )
