"""Sessions in the database, and in the file while the database is away.

While the database is available, all calls go to it, and the file mirrors the results. During an outage the file answers
and records the writes, and no caller waits for the database: one task probes it and replays the writes when it is back;
only then does the database answer again.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final, TypeVar

from shared_utils.observability import logs
from shared_utils.observability.outage import OncePerOutage
from shared_utils.persistence.erasures.session_file import FileErasures
from shared_utils.persistence.errors import PersistenceError
from shared_utils.persistence.sessions.file_store import FileSessionStore
from shared_utils.persistence.sessions.outage_log import SessionConflict, SessionOutageLog, record
from shared_utils.persistence.sessions.port import (
    Cleanup,
    MergeResult,
    Restoration,
    Session,
    SessionPage,
    SessionStatistics,
    SessionStore,
    SessionStoreAway,
    SessionStoreError,
)
from shared_utils.persistence.sessions.replay import SessionReplay
from shared_utils.persistence.sessions.values import MAX_BYTES

_log = logs.get("shared_utils.persistence.failover_sessions")
_CLOCKS_APART_MS: Final = 3_600_000
"""The file notes erasures by the clock of Redis, too; the database's is off by less."""
_RECONNECT_PAUSE_SECONDS: Final = 1.0
"""Seconds between two looks whether the database is back."""

_Result = TypeVar("_Result")
_Ask = Callable[[SessionStore], Awaitable[_Result]]


class FailoverSessionStore:
    """``database`` first, the file ``path`` while it is away.

    Args:
        database: is closed with the store.
        path: the session file; several bridges of one host may share it.
        max_bytes: of a session's data, and of its metadata.
        pause: seconds between two looks whether the database is back.
        erased: gives the users erased lately (see :meth:`DatabaseErasureLog.lately`): nothing that the file still holds
            of them is brought to the database.
    """

    def __init__(
        self,
        database: SessionStore,
        path: Path,
        *,
        max_bytes: int = MAX_BYTES,
        pause: float = _RECONNECT_PAUSE_SECONDS,
        erased: Callable[[], Awaitable[Mapping[str, int]]] | None = None,
    ) -> None:
        self._database = database
        self._mirror = FileSessionStore(path, max_bytes=max_bytes)
        self._file = FileSessionStore(path, max_bytes=max_bytes, record=record)
        self._journal = SessionOutageLog(path)
        self._replay = SessionReplay(database, self._mirror, self._journal)
        self._erasures = FileErasures(path)
        self._erased = erased
        self._pause = pause
        self._away: str | None = None
        self._mirror_outage = OncePerOutage()
        self._asked_first = False
        self._returned = False
        self._writing = asyncio.Lock()
        self._looking: asyncio.Task[None] | None = None

    @property
    def last_error(self) -> str | None:
        """See :class:`SessionStore`."""
        if self._away is not None:
            return f"{self._away}; the session file is used instead"
        if (error := self._mirror_outage.last_error) is not None:
            return f"the next outage of the database cannot be bridged: {error}"
        return None

    async def conflicts(self, limit: int = 100) -> Sequence[SessionConflict]:
        """Writes that were dropped when file and database were merged, newest first."""
        return await self._journal.conflicts(limit)

    async def find(self, user_id: str, persona: str) -> Session | None:
        """See :class:`SessionStore`."""
        session = await self._read(lambda store: store.find(user_id, persona))
        if self._away is None:
            await self._known(session, user_id, persona)
        return session

    async def load(self, session_id: str) -> Session | None:
        """See :class:`SessionStore`."""
        return await self._read(lambda store: store.load(session_id))

    async def load_all(self, session_ids: Collection[str]) -> Sequence[Session]:
        """See :class:`SessionStore`."""
        return await self._read(lambda store: store.load_all(session_ids))

    async def reserve(self, user_id: str, persona: str) -> Session:
        """See :class:`SessionStore`."""
        return await self._seen(await self._write(lambda store: store.reserve(user_id, persona)))

    async def claim(self, session_id: str, owner: str, seconds: float) -> bool:
        """See :class:`SessionStore`."""
        return await self._write(lambda store: store.claim(session_id, owner, seconds))

    async def save(self, session: Session, *, expires_in_hours: float | None = None) -> Session:
        """See :class:`SessionStore`."""
        return await self._seen(await self._write(lambda store: store.save(session, expires_in_hours=expires_in_hours)))

    async def page(
        self, *, limit: int, offset: int = 0, include_inactive: bool = False, user_id: str | None = None
    ) -> SessionPage:
        """See :class:`SessionStore`."""
        return await self._read(
            lambda store: store.page(limit=limit, offset=offset, include_inactive=include_inactive, user_id=user_id)
        )

    async def delete(self, session_id: str, *, hard: bool = False) -> bool:
        """See :class:`SessionStore`."""
        done = await self._write(lambda store: store.delete(session_id, hard=hard))
        if self._away is None:
            with self._mirroring():
                await self._mirror.delete(session_id, hard=True)
        return done

    async def undelete(self, session_id: str) -> Session:
        """See :class:`SessionStore`."""
        return await self._seen(await self._write(lambda store: store.undelete(session_id)))

    async def touch(
        self,
        session_ids: Collection[str],
        *,
        messages: Mapping[str, int] | None = None,
        expires_in_hours: float | None = None,
    ) -> Collection[str]:
        """See :class:`SessionStore`."""

        async def ask(store: SessionStore) -> Collection[str]:
            missed = await store.touch(session_ids, messages=messages, expires_in_hours=expires_in_hours)
            if store is not self._file:
                return missed
            # The file need not know every session, so it cannot say that one is gone.
            await self._journal.use(session_ids, messages or {})
            return ()

        return await self._write(ask)

    async def changed(self, since: datetime | None) -> tuple[Collection[tuple[str, str]], datetime]:
        """See :class:`SessionStore`."""
        keys, now = await self._read(lambda store: store.changed(since))
        if self._away is None and self._returned:
            self._returned = False
            keys = {*keys, *await self._mirror.active_keys()}  # whoever the file served may have changed
        return keys, now

    async def opted_out_users(self) -> Collection[str]:
        """See :class:`SessionStore`. Asks only the database, because the file may lack sessions."""
        await self._begin()
        if self._away is not None:
            raise SessionStoreAway(self._away)
        return await self._database.opted_out_users()

    async def cleanup(self, *, grace: timedelta) -> Cleanup:
        """See :class:`SessionStore`. While the database is away nothing is cleaned up: that can wait."""
        await self._begin()
        if self._away is not None:
            return Cleanup(0, 0)
        done = await self._database.cleanup(grace=grace)
        with self._mirroring():
            await self._mirror.cleanup(grace=grace)
        return done

    async def restore(self, *, limit: int) -> Restoration:
        """See :class:`SessionStore`."""
        restoration = await self._read(lambda store: store.restore(limit=limit))
        if self._away is None:
            with self._mirroring():
                await self._mirror.mirror(restoration.sessions)
        return restoration

    async def part(self, *, after: str, limit: int) -> Restoration:
        """See :class:`SessionStore`."""
        return await self._read(lambda store: store.part(after=after, limit=limit))

    async def merge(self, sessions: Sequence[Session], *, dry_run: bool = False) -> MergeResult:
        """See :class:`SessionStore`."""
        return await self._write(lambda store: store.merge(sessions, dry_run=dry_run))

    async def statistics(self) -> SessionStatistics:
        """See :class:`SessionStore`."""
        return await self._read(lambda store: store.statistics())

    async def count(self) -> Mapping[str, int]:
        """See :class:`SessionStore`; also writes ``waiting`` for the database, and ``conflicts`` so far."""
        counts = await self._read(lambda store: store.count())
        return {**counts, **await self._journal.counts()}

    async def check(self) -> str:
        """See :class:`SessionStore`."""
        return await self._database.check()

    async def close(self) -> None:
        """See :class:`SessionStore`."""
        if self._looking is not None:
            self._looking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._looking
        for store in (self._mirror, self._file, self._database):
            await store.close()
        self._journal.close()
        self._erasures.close()

    async def _read(self, ask: _Ask[_Result]) -> _Result:
        await self._begin()
        if self._away is None:
            try:
                return await ask(self._database)
            except SessionStoreAway as error:
                self._lost(error)
        return await ask(self._file)

    async def _write(self, ask: _Ask[_Result]) -> _Result:
        await self._begin()
        if self._away is None:
            try:
                return await ask(self._database)
            except SessionStoreAway as error:
                self._lost(error)
        async with self._writing:  # so that no write slips in between the end of the replay and the return
            if self._away is not None:
                return await ask(self._file)
        return await self._write(ask)

    async def _begin(self) -> None:
        """At first: writes that an earlier process left come before everything else."""
        if self._asked_first:
            self._look()
            return
        with contextlib.suppress(SessionStoreError):  # without a file there is nothing left in it
            if (await self._journal.counts())["waiting"] and self._away is None:
                self._away = "writes from an outage wait for the database"
        self._asked_first = True
        self._look()

    def _lost(self, error: SessionStoreAway) -> None:
        if self._away is None:
            _log.error("session_database_unavailable", error=str(error))
        self._away = str(error)
        self._look()

    def _look(self) -> None:
        if self._away is not None and (self._looking is None or self._looking.done()):
            self._looking = asyncio.create_task(self._until_back())

    async def _until_back(self) -> None:
        replayed = 0
        while self._away is not None:
            try:
                await self._database.check()
                if self._erased is not None:
                    await self._erasures.follow(await self._erased(), slack_ms=_CLOCKS_APART_MS)
                replayed += await self._replay.run()
                async with self._writing:
                    replayed += await self._replay.run()
                    self._returned = True
                    self._away = None
            except PersistenceError as error:
                self._away = str(error)
                await asyncio.sleep(self._pause)
        _log.info("session_database_available", replayed=replayed, **await self._conflict_count())

    async def _conflict_count(self) -> dict[str, int]:
        with contextlib.suppress(SessionStoreError):
            return {"conflicts": (await self._journal.counts())["conflicts"]}
        return {}

    async def _seen(self, session: Session) -> Session:
        if self._away is None:
            await self._known(session, session.user_id, session.persona)
        return session

    async def _known(self, session: Session | None, user_id: str, persona: str) -> None:
        with self._mirroring():
            if session is not None:
                await self._mirror.mirror([session])
            elif (ended := await self._mirror.find(user_id, persona)) is not None:
                await self._mirror.delete(ended.session_id, hard=True)

    def _mirroring(self) -> contextlib.AbstractContextManager[None, bool]:
        """The file not being writable is bad for the next outage, not for this call."""
        return self._mirror_outage.tolerating(
            SessionStoreError, lambda reason: _log.error("session_file_unavailable", error=reason)
        )
