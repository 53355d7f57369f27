"""Writes answered turns into the database, outside the reply path.

A turn is removed from Redis only after the transaction with its rows has been committed. If a bridge is killed in
between, the turn is written again, which is idempotent because its ids are derived. While the database is away turns
wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import timedelta
from typing import Final

from letta_bridge.journal.record import JournalRows, UnreadableEntry, read_entry
from letta_bridge.request_queue.journal_backlog import JournalBacklog, JournalBatch, JournalEntry
from letta_bridge.request_queue.records import Fault
from letta_bridge.settings import JournalSettings
from shared_utils.observability import logs
from shared_utils.observability.outage import OncePerOutage
from shared_utils.persistence.conversations.service import ConversationService
from shared_utils.persistence.erasures.log import user_hash
from shared_utils.persistence.errors import PersistenceError, ValueRefused
from shared_utils.redis.connection import CONNECTION_ERRORS
from shared_utils.redis.failures import error_text
from shared_utils.waiting import wait_or_timeout

_log = logs.get(__name__)

_TURNS_PER_WRITE: Final = 200
_IDLE_PAUSE_SECONDS: Final = 1.0
"""Seconds between two passes with few or no waiting turns, so that later ones share a transaction."""
_PAUSE_MOST: Final = 10.0
"""Maximum seconds between two attempts while the database is away."""
_PURGE_EVERY: Final = 3600.0
_UNAVAILABLE_ERRORS: Final[tuple[type[Exception], ...]] = (PersistenceError, *CONNECTION_ERRORS)


class Journal:
    """The journal of one queue, written by one bridge at a time.

    Args:
        backlog: where turns wait.
        service: the conversations; its source is the journal's.
        settings: ``retention_days`` counts here.
        written: is told how many turns were written.
    """

    def __init__(
        self,
        backlog: JournalBacklog,
        service: ConversationService,
        settings: JournalSettings,
        written: Callable[[int], None] = lambda _count: None,
    ) -> None:
        self._backlog = backlog
        self._service = service
        self._settings = settings
        self._tell_written = written
        self._stopping = asyncio.Event()
        self._done: Sequence[str] = ()
        """Entries that are in the database, but not yet removed from Redis."""
        self._unreadable: dict[str, Fault] = {}
        """Entries that this release cannot read, to be set aside by the next call."""
        self._unchecked: dict[str, tuple[JournalEntry, JournalRows]] = {}
        """Rows that may be in the database, and whose users may have been erased meanwhile; a batch, by entry."""
        self._dropped: int | None = None
        self._purge_at = 0.0
        self._outage = OncePerOutage()

    @property
    def last_error(self) -> str | None:
        """Why the last write failed; None while it works."""
        return self._outage.last_error

    def reload(self, settings: JournalSettings) -> None:
        """Apply a changed retention."""
        self._settings = settings

    def stop(self) -> None:
        """Write what waits now, and let :meth:`run` return."""
        self._stopping.set()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Written while this context is open; what waits at its end is still tried."""
        task = asyncio.create_task(self.run(), name="journal")
        try:
            yield
        finally:
            # Not cancelled, because a cancelled transaction would have to be repeated.
            self.stop()
            await task

    async def run(self) -> None:
        """Write until :meth:`stop`."""
        pause = _IDLE_PAUSE_SECONDS
        while not self._stopping.is_set():
            try:
                full = await self._pass()
                pause = 0.0 if full else _IDLE_PAUSE_SECONDS
            except _UNAVAILABLE_ERRORS as error:
                pause = min(max(pause, _IDLE_PAUSE_SECONDS) * 2, _PAUSE_MOST)
                self._outage.failed(error_text(error), lambda reason: _log.warning("journal_stalled", error=reason))
            except Exception:  # noqa: BLE001  # a defect of ours must not stop the bridge, nor end the journal for good
                pause = _PAUSE_MOST
                _log.exception("journal_failed")
            await wait_or_timeout(self._stopping, pause)
        await self._end()

    async def _pass(self) -> bool:
        """Write one batch; whether another one is waiting."""
        await self._remove_erased()
        batch = await self._take(_TURNS_PER_WRITE)
        self._note_dropped(batch.dropped)
        if not batch.mine:
            self._outage.worked()  # it is another bridge's now
            return False
        if batch.entries:
            await self._write(batch.entries)
        full = 0 < len(batch.entries) < batch.waiting
        if batch.entries and not full:
            await self._take(0)
        await self._purge()
        self._outage.worked(lambda: _log.info("journal_recovered", waiting=batch.waiting))
        return full

    async def _take(self, want: int) -> JournalBatch:
        batch = await self._backlog.take(self._done, want, self._unreadable)
        self._done, self._unreadable = (), {}
        return batch

    async def _write(self, entries: Sequence[JournalEntry]) -> None:
        rows = []
        unreadable = {}
        for entry in entries:
            try:
                row = read_entry(entry)
            except UnreadableEntry as error:
                _log.error("journal_turn_unreadable", entry=entry.id, code=error.fault)
                unreadable[entry.id] = error.fault
            else:
                rows.append(row)
                self._unchecked[entry.id] = (entry, row)  # before: a transaction whose answer is lost may be through
        try:
            await self._record(rows)
        except ValueRefused:
            # Write each on its own, so that one refused turn does not block the others for ever.
            for row in rows:
                try:
                    await self._record([row])
                except ValueRefused as error:
                    _log.error("journal_turn_refused", message_id=row.messages[0].id, error=str(error))
        self._done = [entry.id for entry in entries if entry.id not in unreadable]
        self._unreadable = unreadable
        await self._remove_erased()

    async def _remove_erased(self) -> None:
        """Delete the rows of users who were erased while this bridge held their turns."""
        if not self._unchecked:
            return
        erased = await self._backlog.erased_since(min(entry.settled_ms for entry, _ in self._unchecked.values()))
        for entry, row in self._unchecked.values() if erased else ():
            user = row.conversation.user_id
            if user is not None and erased.get(user_hash(user), -1) >= entry.settled_ms:
                await self._service.take_back(row.messages)
                _log.info("journal_turn_erased", message_id=row.messages[0].id)
        self._unchecked = {}

    async def _record(self, rows: Sequence[JournalRows]) -> None:
        await self._service.record(
            [row.conversation for row in rows],
            [message for row in rows for message in row.messages],
        )
        self._tell_written(len(rows))

    async def _purge(self) -> None:
        days = self._settings.retention_days
        if not days or time.monotonic() < self._purge_at:
            return
        removed = await self._service.purge(timedelta(days=days))
        self._purge_at = time.monotonic() + _PURGE_EVERY
        if removed:
            _log.info("journal_purged", messages=removed)

    async def _end(self) -> None:
        with contextlib.suppress(*_UNAVAILABLE_ERRORS):
            while await self._pass():
                pass
        with contextlib.suppress(*CONNECTION_ERRORS):
            await self._backlog.leave(self._done)

    def _note_dropped(self, dropped: int) -> None:
        if self._dropped is not None and dropped > self._dropped:
            _log.error("journal_full", dropped=dropped - self._dropped)
        self._dropped = dropped
