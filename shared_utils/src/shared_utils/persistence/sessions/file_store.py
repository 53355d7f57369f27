"""Sessions in one SQLite file: for one host, and where no database is configured or it is away."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

from shared_utils.clock import utc_now
from shared_utils.persistence.errors import Conflict, RowMissing
from shared_utils.persistence.session_file.tables import prepare, time_text
from shared_utils.persistence.sessions.merge import plan_merge
from shared_utils.persistence.sessions.port import (
    Cleanup,
    MergeResult,
    Restoration,
    Session,
    SessionPage,
    SessionStatistics,
    StaleSession,
)
from shared_utils.persistence.sessions.rows import readable, row_of, session_of
from shared_utils.persistence.sessions.values import MAX_BYTES, storable
from shared_utils.persistence.sqlite_file import SqliteFile
from shared_utils.persistence.statements import statements

Record = Callable[[sqlite3.Connection, Session, int | None], None]
"""Called for each write in its transaction, with the session (None if removed) and the version before."""

_SQL: Final = statements("file_sessions")
_SESSIONS_PER_TRANSACTION: Final = 500
"""Sessions written in one transaction."""


def _no_record(_connection: sqlite3.Connection, _session: Session, _base: int | None) -> None:
    pass


class FileSessionStore:
    """Sessions in the SQLite file ``path``, which several processes of one host may share.

    The file is opened on first use, and again after an error: a disk that was full or missing is no reason to restart.

    Args:
        path: the file; its directory is made where it is missing.
        max_bytes: of a session's data, and of its metadata.
        record: is told of each write; not of uses and claims.
    """

    def __init__(self, path: Path, *, max_bytes: int = MAX_BYTES, record: Record = _no_record) -> None:
        self._file = SqliteFile(path, prepare)
        self._max_bytes = max_bytes
        self._record = record

    @property
    def last_error(self) -> str | None:
        """See :class:`SessionStore`."""
        return None

    async def find(self, user_id: str, persona: str) -> Session | None:
        """See :class:`SessionStore`."""
        return await self._file.read(lambda connection: _find(connection, user_id, persona))

    async def load(self, session_id: str) -> Session | None:
        """See :class:`SessionStore`."""
        return await self._file.read(lambda connection: _load(connection, session_id))

    async def load_all(self, session_ids: Collection[str]) -> Sequence[Session]:
        """See :class:`SessionStore`."""

        def load(connection: sqlite3.Connection) -> Sequence[Session]:
            return [found for one in session_ids if (found := _load(connection, one)) is not None]

        return await self._file.read(load)

    async def reserve(self, user_id: str, persona: str) -> Session:
        """See :class:`SessionStore`."""

        def find_or_write(connection: sqlite3.Connection) -> Session:
            session = _find(connection, user_id, persona)
            return session or self._write(connection, Session(user_id, persona), 0)

        return await self._file.write(find_or_write)

    async def claim(self, session_id: str, owner: str, seconds: float) -> bool:
        """See :class:`SessionStore`."""
        now = time.time()
        values = {"session_id": session_id, "owner": owner, "now": now, "until": now + seconds}
        return await self._file.write(lambda connection: connection.execute(_SQL["claim"], values).rowcount == 1)

    async def save(self, session: Session, *, expires_in_hours: float | None = None) -> Session:
        """See :class:`SessionStore`."""
        held = storable(session, self._max_bytes)
        if expires_in_hours is not None:
            held = replace(held, expires_at=utc_now() + timedelta(hours=expires_in_hours))

        def update(connection: sqlite3.Connection) -> Session:
            stored = _load(connection, session.session_id)
            if stored is None or stored.version != session.version:
                raise StaleSession(
                    f"session {session.session_id} is no longer at version {session.version}; read it again"
                )
            return self._write(connection, _following(held, message_count=stored.message_count), session.version)

        return await self._changing(update, session.session_id)

    async def page(
        self, *, limit: int, offset: int = 0, include_inactive: bool = False, user_id: str | None = None
    ) -> SessionPage:
        """See :class:`SessionStore`."""
        values = {"limit": limit, "offset": offset, "include_inactive": include_inactive, "user_id": user_id}

        def read(connection: sqlite3.Connection) -> SessionPage:
            rows = connection.execute(_SQL["page"], values).fetchall()
            [total] = connection.execute(_SQL["total"], values).fetchone()
            return SessionPage([session_of(row) for row in rows], total)

        return await self._file.read(read)

    async def delete(self, session_id: str, *, hard: bool = False) -> bool:
        """See :class:`SessionStore`."""

        def end(connection: sqlite3.Connection) -> bool:
            session = _load(connection, session_id)
            if session is None or not (hard or session.is_active):
                return False
            if hard:
                connection.execute(_SQL["remove"], {"session_id": session_id})
                self._record(connection, session, None)
            else:
                self._write(connection, _ended(session), session.version)
            return True

        return await self._file.write(end)

    async def undelete(self, session_id: str) -> Session:
        """See :class:`SessionStore`."""

        def revive(connection: sqlite3.Connection) -> Session:
            session = _load(connection, session_id)
            if session is None:
                raise RowMissing(f"there is no session {session_id}; it may have been removed permanently")
            if session.is_active:
                return session
            # An expiry that has passed is taken away: the next cleanup would end it again.
            expires = session.expires_at if session.expires_at and session.expires_at > utc_now() else None
            revived = replace(session, is_active=True, expires_at=expires, version=session.version + 1)
            return self._write(connection, revived, session.version)

        return await self._changing(revive, session_id)

    async def touch(
        self,
        session_ids: Collection[str],
        *,
        messages: Mapping[str, int] | None = None,
        expires_in_hours: float | None = None,
    ) -> Collection[str]:
        """See :class:`SessionStore`."""
        now = utc_now()
        expires = None if expires_in_hours is None else time_text(now + timedelta(hours=expires_in_hours))

        def update(connection: sqlite3.Connection) -> Collection[str]:
            missed = []
            for session_id in session_ids:
                values = {
                    "session_id": session_id,
                    "now": time_text(now),
                    "expires_at": expires,
                    "messages": (messages or {}).get(session_id, 0),
                }
                if connection.execute(_SQL["touch"], values).rowcount == 0:
                    missed.append(session_id)
            return missed

        return await self._file.write(update)

    async def changed(self, since: datetime | None) -> tuple[Collection[tuple[str, str]], datetime]:
        """See :class:`SessionStore`."""
        # Somewhat in the past: a write with an earlier time may still wait for its lock.
        now = utc_now() - timedelta(seconds=2)
        if since is None:
            return set(), now
        values = {"since": time_text(since)}
        rows = await self._file.read(lambda connection: connection.execute(_SQL["changed"], values).fetchall())
        return {(row["user_id"], row["persona"]) for row in rows}, now

    async def opted_out_users(self) -> Collection[str]:
        """See :class:`SessionStore`."""
        rows = await self._file.read(lambda connection: connection.execute(_SQL["opted_out_users"]).fetchall())
        return {row["user_id"] for row in rows}

    async def cleanup(self, *, grace: timedelta) -> Cleanup:
        """See :class:`SessionStore`."""
        now = utc_now()

        def clean(connection: sqlite3.Connection) -> Cleanup:
            rows = connection.execute(_SQL["expired"], {"now": time_text(now)}).fetchall()
            expired = [session for session in readable(rows).sessions if session.permanent_memory]
            for session in expired:
                self._write(connection, _ended(session), session.version)
            removed = connection.execute(_SQL["remove_ended"], {"before": time_text(now - grace)}).rowcount
            return Cleanup(len(expired), removed)

        return await self._file.write(clean)

    async def restore(self, *, limit: int) -> Restoration:
        """See :class:`SessionStore`."""
        values = {"limit": limit, "offset": 0, "include_inactive": False, "user_id": None}
        return await self._file.read(lambda connection: readable(connection.execute(_SQL["page"], values)))

    async def part(self, *, after: str, limit: int) -> Restoration:
        """See :class:`SessionStore`."""
        values = {"after": after, "limit": limit}
        return await self._file.read(lambda connection: readable(connection.execute(_SQL["part"], values)))

    async def merge(self, sessions: Sequence[Session], *, dry_run: bool = False) -> MergeResult:
        """See :class:`SessionStore`."""
        held = [storable(session, self._max_bytes) for session in sessions]

        def take(connection: sqlite3.Connection) -> MergeResult:
            versions = {row["session_id"]: row["version"] for row in _known(connection, held)}
            users = {"users": json.dumps([session.user_id for session in held])}
            holders = {
                (row["user_id"], row["persona"]): row["session_id"]
                for row in connection.execute(_SQL["holders"], users)
            }
            decided = plan_merge(held, versions, holders)
            if not dry_run:
                for session in sorted(decided.newer, key=lambda one: one.is_active) + decided.new:
                    self._write(connection, session, versions.get(session.session_id, 0))
            return decided.taken

        return await self._file.write(take)

    async def mirror(self, sessions: Sequence[Session]) -> None:
        """Know these sessions as they are elsewhere: what this file held in their place is dropped, unless newer.

        Some at a time, so that nobody waits for the file until tens of thousands are written at a start; those it knows
        already, as after a restart, are not written again.
        """
        for start in range(0, len(sessions), _SESSIONS_PER_TRANSACTION):
            await self._mirror(sessions[start : start + _SESSIONS_PER_TRANSACTION])

    async def _mirror(self, sessions: Sequence[Session]) -> None:
        def copy(connection: sqlite3.Connection) -> None:
            known = {row["session_id"]: row for row in _known(connection, sessions)}
            for session in sessions:
                stored = known.get(session.session_id)
                if stored is not None and (stored["version"] > session.version or _is_as(stored, session)):
                    continue
                if session.is_active:
                    values = {name: getattr(session, name) for name in ("user_id", "persona", "session_id")}
                    connection.execute(_SQL["forget_other"], values)
                self._write(connection, session, 0)

        await self._file.write(copy)

    async def active_keys(self) -> Collection[tuple[str, str]]:
        """(user, persona) of every active session."""
        rows = await self._file.read(lambda connection: connection.execute(_SQL["active_keys"]).fetchall())
        return {(row["user_id"], row["persona"]) for row in rows}

    async def statistics(self) -> SessionStatistics:
        """See :class:`SessionStore`."""
        now = utc_now()
        spans = {"hour": timedelta(hours=1), "day": timedelta(days=1), "week": timedelta(days=7)}
        values = {name: time_text(now - span) for name, span in (spans | {"month": timedelta(days=30)}).items()}
        values["now"] = time_text(now)

        def read(connection: sqlite3.Connection) -> SessionStatistics:
            row = connection.execute(_SQL["statistics"], values).fetchone()
            numbers = {name: row[name] or 0 for name in row.keys()}  # noqa: SIM118  # a row iterates over its values
            return SessionStatistics(
                **{name: numbers[name] for name in ("total", "active", "reserved", "expired")},
                average_messages=float(numbers["average_messages"]),
                created={day: made for day, made in connection.execute(_SQL["created"], values)},  # noqa: C416  # rows
                last_seen={
                    "1h": numbers["hour"],
                    "1d": numbers["day"] - numbers["hour"],
                    "7d": numbers["week"] - numbers["day"],
                    "30d": numbers["month"] - numbers["week"],
                    "older": numbers["unended"] - numbers["month"],
                },
            )

        return await self._file.read(read)

    async def count(self) -> Mapping[str, int]:
        """See :class:`SessionStore`."""
        values = {"now": time_text(utc_now())}
        row = await self._file.read(lambda connection: connection.execute(_SQL["count"], values).fetchone())
        return {"active": row["active"], "reserved": row["reserved"]}

    async def check(self) -> str:
        """See :class:`SessionStore`."""
        await self.count()
        return f"SQLite {sqlite3.sqlite_version}, {self._file.path}"

    async def close(self) -> None:
        """See :class:`SessionStore`."""
        self._file.close()

    async def _changing(self, work: Callable[[sqlite3.Connection], Session], session_id: str) -> Session:
        try:
            return await self._file.write(work)
        except sqlite3.IntegrityError as error:
            raise Conflict(f"the user of session {session_id} has another active one; end that first") from error

    def _write(self, connection: sqlite3.Connection, session: Session, base: int) -> Session:
        row: dict[str, Any] = row_of(session) | {"changed_at": time_text(utc_now())}
        connection.execute(_SQL["write"], row)
        self._record(connection, session, base)
        return session


def _known(connection: sqlite3.Connection, sessions: Sequence[Session]) -> Sequence[sqlite3.Row]:
    """What the file has of these sessions, but for data and metadata: a new version comes with a change of those."""
    ids = {"ids": json.dumps([session.session_id for session in sessions])}
    return connection.execute(_SQL["known"], ids).fetchall()


def _is_as(row: sqlite3.Row, session: Session) -> bool:
    return (row["version"], row["message_count"], row["last_updated"], row["expires_at"]) == (
        session.version,
        session.message_count,
        time_text(session.last_updated),
        session.expires_at and time_text(session.expires_at),
    )


def _find(connection: sqlite3.Connection, user_id: str, persona: str) -> Session | None:
    row = connection.execute(_SQL["find"], {"user_id": user_id, "persona": persona}).fetchone()
    return None if row is None else session_of(row)


def _load(connection: sqlite3.Connection, session_id: str) -> Session | None:
    row = connection.execute(_SQL["load"], {"session_id": session_id}).fetchone()
    return None if row is None else session_of(row)


def _following(session: Session, *, message_count: int) -> Session:
    return replace(session, version=session.version + 1, last_updated=utc_now(), message_count=message_count)


def _ended(session: Session) -> Session:
    return replace(session, is_active=False, version=session.version + 1)
