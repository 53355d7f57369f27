"""Sessions in PostgreSQL or openGauss, which any number of bridges share."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeVar

from shared_utils.observability import logs
from shared_utils.persistence.database.database import Connection, Database, Params, Row
from shared_utils.persistence.database.pool_queue import PoolQueue
from shared_utils.persistence.errors import Conflict, PersistenceError, RowMissing, ValueRefused
from shared_utils.persistence.sessions.merge import MergePlan, plan_merge
from shared_utils.persistence.sessions.port import (
    Cleanup,
    MergeResult,
    Restoration,
    Session,
    SessionPage,
    SessionStatistics,
    SessionStoreAway,
    SessionStoreError,
    StaleSession,
)
from shared_utils.persistence.sessions.values import MAX_BYTES, encoded, storable
from shared_utils.persistence.statements import statements

_log = logs.get("shared_utils.persistence.database_sessions")
_SQL: Final = statements("sessions")
_IDS_PER_STATEMENT: Final = 1000
_LATEST: Final = datetime.max.replace(tzinfo=UTC)
_WRITE_ATTEMPTS: Final = 5
_OWN_ERRORS: Final = (SessionStoreError, Conflict, RowMissing, ValueRefused)

_Result = TypeVar("_Result")


class DatabaseSessionStore:
    """Sessions in ``database``; every write is one transaction, and no connection is held between two calls.

    Args:
        database: is closed with the store.
        max_bytes: of a session's data, and of its metadata.
    """

    def __init__(self, database: Database, *, max_bytes: int = MAX_BYTES) -> None:
        self._database = database
        self._max_bytes = max_bytes
        self._queue = PoolQueue(database)

    @property
    def last_error(self) -> str | None:
        """See :class:`SessionStore`."""
        return str(self._database.last_error) if self._database.last_error else None

    async def find(self, user_id: str, persona: str) -> Session | None:
        """See :class:`SessionStore`."""
        return _one(await self._fetch("find", {"user_id": user_id, "persona": persona}))

    async def load(self, session_id: str) -> Session | None:
        """See :class:`SessionStore`."""
        return _one(await self._fetch("load", {"session_id": session_id}))

    async def load_all(self, session_ids: Collection[str]) -> Sequence[Session]:
        """See :class:`SessionStore`."""
        return [_session(row) for row in await self._fetch("load_all", {"ids": list(session_ids)})]

    async def reserve(self, user_id: str, persona: str) -> Session:
        """See :class:`SessionStore`."""
        fresh = Session(user_id, persona)
        values = {"session_id": fresh.session_id, "user_id": user_id, "persona": persona}
        for _ in range(_WRITE_ATTEMPTS):  # somebody may end the session between the two statements
            await self._execute("reserve", values)
            session = await self.find(user_id, persona)
            if session is not None:
                return session
        raise SessionStoreError("the session was ended each time it was reserved; find out which program ends it")

    async def claim(self, session_id: str, owner: str, seconds: float) -> bool:
        """See :class:`SessionStore`."""
        values = {"session_id": session_id, "owner": owner, "seconds": float(seconds)}
        return await self._execute("claim", values) == 1

    async def save(self, session: Session, *, expires_in_hours: float | None = None) -> Session:
        """See :class:`SessionStore`."""
        held = storable(session, self._max_bytes)
        values: dict[str, Any] = {
            "session_id": session.session_id,
            "version": session.version,
            "agent_id": session.agent_id,
            "session_data": encoded(held.session_data),
            "metadata": encoded(held.metadata),
            "expires_at": session.expires_at,
            "hours": expires_in_hours,
            "is_active": session.is_active,
        }
        saved = _one(await self._fetch("save", values))
        if saved is None:
            raise StaleSession(f"session {session.session_id} is no longer at version {session.version}; read it again")
        return saved

    async def page(
        self, *, limit: int, offset: int = 0, include_inactive: bool = False, user_id: str | None = None
    ) -> SessionPage:
        """See :class:`SessionStore`."""
        which = "_user" if user_id is not None else "" if include_inactive else "_active"
        values = {"user_id": user_id, "include_inactive": include_inactive, "limit": limit, "offset": offset}
        rows = await self._fetch(f"page{which}", values)
        [total] = await self._fetch(f"total{which}", values)
        return SessionPage([_session(row) for row in rows], int(total["total"]))

    async def delete(self, session_id: str, *, hard: bool = False) -> bool:
        """See :class:`SessionStore`."""
        return await self._execute("remove" if hard else "end", {"session_id": session_id}) == 1

    async def undelete(self, session_id: str) -> Session:
        """See :class:`SessionStore`."""
        try:
            await self._execute("revive", {"session_id": session_id})
        except Conflict as error:
            raise Conflict(f"the user of session {session_id} has another active one; end that first") from error
        session = await self.load(session_id)
        if session is None:
            raise RowMissing(f"there is no session {session_id}; it may have been removed permanently")
        return session

    async def touch(
        self,
        session_ids: Collection[str],
        *,
        messages: Mapping[str, int] | None = None,
        expires_in_hours: float | None = None,
    ) -> Collection[str]:
        """See :class:`SessionStore`."""
        ids = sorted(set(session_ids))  # in one order everywhere, so that two bridges cannot block each other
        counts = messages or {}
        active: set[str] = set()
        for start in range(0, len(ids), _IDS_PER_STATEMENT):
            part = ids[start : start + _IDS_PER_STATEMENT]
            values = {"ids": part, "messages": [counts.get(one, 0) for one in part], "hours": expires_in_hours}
            active.update(row["session_id"] for row in await self._fetch("touch", values))
        return [one for one in ids if one not in active]

    async def changed(self, since: datetime | None) -> tuple[Collection[tuple[str, str]], datetime]:
        """See :class:`SessionStore`."""
        [now] = await self._fetch("now")
        rows = [] if since is None else await self._fetch("changed", {"since": since})
        return {(row["user_id"], row["persona"]) for row in rows}, now["now"]

    async def opted_out_users(self) -> Collection[str]:
        """See :class:`SessionStore`."""
        opted_out: set[str] = set()
        after = {"after_user": "", "after_session": ""}
        while rows := await self._fetch("opted_out", {**after, "limit": _IDS_PER_STATEMENT}):
            users = {row["user_id"] for row in rows}
            opted_in = {row["user_id"] for row in await self._fetch("opted_in", {"users": sorted(users)})}
            opted_out |= {row["user_id"] for row in rows if row["is_active"] or row["user_id"] not in opted_in}
            after = {"after_user": rows[-1]["user_id"], "after_session": rows[-1]["session_id"]}
        return opted_out

    async def cleanup(self, *, grace: timedelta) -> Cleanup:
        """See :class:`SessionStore`."""
        ended = await self._sweep("expired_ids", "end_these", {})
        removed = await self._sweep("ended_ids", "remove_these", {"grace": grace.total_seconds()})
        return Cleanup(ended, removed)

    async def restore(self, *, limit: int) -> Restoration:
        """See :class:`SessionStore`."""
        sessions: list[Session] = []
        failed: dict[str, str] = {}
        position: dict[str, Any] = {"at": _LATEST, "id": ""}
        # In parts: tens of thousands of rows in one statement would take longer than one may.
        while (left := limit - len(sessions) - len(failed)) > 0:
            rows = await self._fetch("recent_ids", {**position, "limit": min(left, _IDS_PER_STATEMENT)})
            part = await self._loaded([row["session_id"] for row in rows])
            sessions += part.sessions
            failed |= part.failed
            if len(rows) < _IDS_PER_STATEMENT:
                break
            position = {"at": rows[-1]["last_updated"], "id": rows[-1]["session_id"]}
        return Restoration(sessions, failed)

    async def part(self, *, after: str, limit: int) -> Restoration:
        """See :class:`SessionStore`."""
        rows = await self._fetch("part_ids", {"after": after, "limit": limit})
        return await self._loaded([row["session_id"] for row in rows])

    async def merge(self, sessions: Sequence[Session], *, dry_run: bool = False) -> MergeResult:
        """See :class:`SessionStore`."""
        held = [storable(session, self._max_bytes) for session in sessions]
        for _ in range(_WRITE_ATTEMPTS - 1):
            with contextlib.suppress(Conflict):  # another bridge wrote one of them meanwhile
                return await self._put(held, dry_run)
        return await self._put(held, dry_run)

    async def statistics(self) -> SessionStatistics:
        """See :class:`SessionStore`."""
        names = ("total", "total_active", "reserved", "expired", "average_messages", "last_seen", "not_seen")
        numbers = {name: (await self._fetch(name))[0] for name in names}
        expired = int(numbers["expired"]["expired"])
        unended = int(numbers["total_active"]["total"])
        seen = numbers["last_seen"]
        hour, day, week = (int(seen[name]) for name in ("hour", "day", "week"))
        older = int(numbers["not_seen"]["older"])
        return SessionStatistics(
            total=int(numbers["total"]["total"]),
            active=max(0, unended - expired),
            reserved=max(0, int(numbers["reserved"]["reserved"]) - int(numbers["expired"]["reserved"])),
            expired=expired,
            average_messages=float(numbers["average_messages"]["average"] or 0),
            created={row["day"]: int(row["made"]) for row in await self._fetch("created")},
            last_seen={
                "1h": hour,
                "1d": day - hour,
                "7d": week - day,
                "30d": max(0, unended - week - older),  # counted one after the other, so they may not add up
                "older": older,
            },
        )

    async def count(self) -> Mapping[str, int]:
        """See :class:`SessionStore`."""
        [active] = await self._fetch("total_active")
        [reserved] = await self._fetch("reserved")
        [expired] = await self._fetch("expired")
        return {
            "active": max(0, int(active["total"]) - int(expired["expired"])),
            "reserved": max(0, int(reserved["reserved"]) - int(expired["reserved"])),
        }

    async def check(self) -> str:
        """See :class:`SessionStore`."""
        with _explained():
            dialect = await self._database.open()
        [row] = await self._fetch("read_only")
        if row["read_only"]:
            raise SessionStoreAway(
                f"the database {self._database.config.place} is read-only: a standby, or default_transaction_read_only "
                "is set for it; name the primary in DATABASE_URL, or take that setting back"
            )
        return f"{dialect.product}, {self._database.config.place}, schema {self._database.config.schema_name}"

    async def close(self) -> None:
        """See :class:`SessionStore`."""
        await self._database.close()

    async def _put(self, sessions: Sequence[Session], dry_run: bool) -> MergeResult:
        async def work(connection: Connection) -> MergePlan:
            ids = {"ids": [session.session_id for session in sessions]}
            users = {"users": list({session.user_id for session in sessions})}
            versions = await self._database.rows(connection, _SQL["versions"], ids)
            holders = await self._database.rows(connection, _SQL["holders"], users)
            decided = plan_merge(
                sessions,
                {row["session_id"]: row["version"] for row in versions},
                {(row["user_id"], row["persona"]): row["session_id"] for row in holders},
            )
            if not dry_run:
                # Ended ones first: only one may be active.
                for active in (False, True):
                    if newer := [session for session in decided.newer if session.is_active is active]:
                        await self._database.send(connection, _SQL["put_newer"], _columns(newer))
                if decided.new:
                    await self._database.send(connection, _SQL["put_new"], _columns(decided.new))
            return decided

        return (await self._run(lambda: self._database.run(work))).taken

    async def _sweep(self, select: str, change: str, values: dict[str, Any]) -> int:
        """In batches, so that no transaction is long."""
        total = 0
        while True:

            async def work(connection: Connection) -> int:
                rows = await self._database.rows(connection, _SQL[select], {**values, "limit": _IDS_PER_STATEMENT})
                ids = [row["session_id"] for row in rows]
                if ids:
                    await self._database.send(connection, _SQL[change], {"ids": ids})
                return len(ids)

            done = await self._run(lambda: self._database.run(work))
            total += done
            if done < _IDS_PER_STATEMENT:
                return total

    async def _loaded(self, ids: Sequence[str]) -> Restoration:
        """Those of the rows that are still there, in this order; one by one where one of them cannot be fetched."""
        failed: dict[str, str] = {}
        try:
            rows = await self._fetch("load_all", {"ids": list(ids)})
        except ValueRefused:
            rows = []
            for one in ids:
                try:
                    rows += await self._fetch("load", {"session_id": one})
                except ValueRefused as error:
                    failed[one] = str(error)
        found: dict[str, Session] = {}
        for row in rows:
            try:
                found[row["session_id"]] = _session(row)
            except SessionStoreError as error:
                failed[row["session_id"]] = str(error)
        return Restoration([found[one] for one in ids if one in found], failed)

    async def _fetch(self, name: str, params: Params | None = None) -> list[Row]:
        return await self._run(lambda: self._database.fetch(_SQL[name], params))

    async def _execute(self, name: str, params: Params) -> int:
        return await self._run(lambda: self._database.execute(_SQL[name], params))

    async def _run(self, work: Callable[[], Awaitable[_Result]]) -> _Result:
        with _explained():
            return await self._queue.run(work)


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except _OWN_ERRORS:
        raise
    except PersistenceError as error:
        raise SessionStoreAway(str(error)) from error


def _one(rows: Sequence[Row]) -> Session | None:
    return _session(rows[0]) if rows else None


def _session(row: Row) -> Session:
    for name in ("session_data", "metadata"):
        if not isinstance(row[name], dict):
            raise SessionStoreError(
                f"session {row['session_id']} in the database cannot be read ({name} is not a JSON object); correct or "
                "delete that row"
            )
    values: dict[str, Any] = {
        name: value.astimezone(UTC) if isinstance(value, datetime) else value for name, value in row.items()
    }
    return Session(**values)


def _columns(sessions: Sequence[Session]) -> dict[str, list[Any]]:
    """Column → its values, for ``unnest``."""
    names = ("session_id", "user_id", "persona", "agent_id", "created_at", "last_updated", "expires_at", "version",
             "is_active", "message_count")  # fmt: skip
    return {name: [getattr(session, name) for session in sessions] for name in names} | {
        "session_data": [encoded(session.session_data) for session in sessions],
        "metadata": [encoded(session.metadata) for session in sessions],
    }
