"""Replays writes from an outage of the database from the file into the database.

Each entry of the journal names the version that it followed. If the database still has that version, the entry is
applied. Otherwise another writer changed the row meanwhile: the higher version wins, but an agent in the database is
never replaced by another; the losing write is kept in the file and reported. Every step is idempotent.

Entries without a possible conflict are replayed together, hundreds in one transaction, because one by one is slower
than new writes arrive under load. The others are replayed one by one, in order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from shared_utils.observability import logs
from shared_utils.persistence.errors import PersistenceError
from shared_utils.persistence.sessions.file_store import FileSessionStore
from shared_utils.persistence.sessions.outage_log import NEW_SESSION, UNKNOWN_BASE, Entry, SessionOutageLog
from shared_utils.persistence.sessions.port import Session, SessionStore, SessionStoreAway, StaleSession

_log = logs.get("shared_utils.persistence.session_replay")
_REPLAY_ATTEMPTS: Final = 5
_ENTRIES_PER_REPLAY: Final = 500
"""Entries replayed together."""

_CHANGED_REASON: Final = "the database's session was changed meanwhile"
_REMOVED_REASON: Final = "the session was removed from the database meanwhile"
_OTHER_AGENT: Final = "the database names another agent; this one is no longer used"
_OTHER_SESSION: Final = "the user got another session in the database meanwhile"


@dataclass(frozen=True, slots=True)
class SessionReplay:
    """From ``file`` and its ``journal`` to ``database``."""

    database: SessionStore
    file: FileSessionStore
    journal: SessionOutageLog

    async def run(self) -> int:
        """Replay what is in the journal now, in order.

        Returns:
            Entries replayed.

        Raises:
            SessionStoreAway: the database went away again; the rest stays.
        """
        replayed = 0
        while entries := await self.journal.oldest(_ENTRIES_PER_REPLAY):
            left = len(entries) - await self._together(entries)
            for _ in range(left):
                # Read anew: what one entry comes to may make later ones doubtful.
                for entry in await self.journal.oldest(1):
                    await self._entry(entry)
            replayed += len(entries)
        uses = await self.journal.uses()
        if uses:
            await self.database.touch(list(uses), messages=uses)
            await self.journal.forget_uses(uses)
        return replayed

    async def _together(self, entries: Sequence[Entry]) -> int:
        """Replay those of which each follows what the database has; how many entries that were."""
        chains: dict[str, list[Entry]] = {}
        for entry in entries:
            chains.setdefault(entry.session_id, []).append(entry)
        plain = [chain for chain in chains.values() if _is_chain(chain)]
        try:
            current = {
                one.session_id: one for one in await self.database.load_all([chain[0].session_id for chain in plain])
            }
            sure = [chain for chain in plain if _follows(chain, current.get(chain[0].session_id))]
            latest = [chain[-1].session for chain in sure]
            taken = await self.database.merge([session for session in latest if session is not None])
        except SessionStoreAway:
            raise
        except PersistenceError:
            return 0  # one of them can never get in; which, is found out one by one
        if taken.kept:
            return 0  # somebody wrote one of them since it was looked at
        done = [entry for chain in sure if chain[0].session_id not in taken.refused for entry in chain]
        await self.journal.done(*done)
        return len(done)

    async def _entry(self, entry: Entry) -> None:
        try:
            await self._apply(entry)
        except SessionStoreAway:
            raise
        except PersistenceError as error:
            # One that can never get in must not keep the others out.
            await self._lose(entry, f"the database refused it: {error}", entry.session, None)

    async def _apply(self, entry: Entry) -> None:
        session = entry.session
        if session is None:
            await self.database.delete(entry.session_id, hard=True)
            await self.journal.done(entry)
            return
        for _ in range(_REPLAY_ATTEMPTS):
            current = await self.database.load(session.session_id)
            done = await (self._insert(entry, session) if current is None else self._update(entry, session, current))
            if done:
                return
        raise StaleSession(f"session {session.session_id} changed at every attempt; its entry cannot be replayed")

    async def _insert(self, entry: Entry, session: Session) -> bool:
        if entry.base not in (NEW_SESSION, UNKNOWN_BASE):
            await self._lose(entry, _REMOVED_REASON, session, None)
            return True
        taken = await self.database.merge([session])
        if taken.written:
            await self.journal.done(entry)
            return True
        other = await self.database.find(session.user_id, session.persona)
        if other is None:
            return False
        if session.agent_id and other.agent_id is None:
            try:
                other = await self.database.save(replace(other, agent_id=session.agent_id))
            except StaleSession:
                return False
        await self._replaced(entry, session, other)
        return True

    async def _update(self, entry: Entry, session: Session, current: Session) -> bool:
        if _same(session, current):  # it got in, and the answer or the note of it was lost
            await self.journal.done(entry)
            return True
        if entry.base == current.version:
            if not (await self.database.merge([session])).written:
                return False
            await self.journal.done(entry)
            return True
        if current.agent_id and session.agent_id and session.agent_id != current.agent_id:
            await self._lose(entry, _OTHER_AGENT, session, current)
        elif session.version > current.version:
            if not (await self.database.merge([session])).written:
                return False
            await self._lose(entry, _CHANGED_REASON, current, session)
        else:
            await self._lose(entry, _CHANGED_REASON, session, current)
        return True

    async def _replaced(self, entry: Entry, session: Session, other: Session) -> None:
        """The database has another active session of this user; it stays."""
        if session.agent_id not in (None, other.agent_id):
            reason, kept = _OTHER_AGENT, True
        else:
            reason, kept = _OTHER_SESSION, not _within(session, other)
        await self._lose(entry, reason, session, other, kept=kept)

    async def _lose(
        self, entry: Entry, reason: str, lost: Session | None, won: Session | None, *, kept: bool = True
    ) -> None:
        drop = won is not entry.session
        await self.journal.lost(entry, reason, lost=lost, won=won, drop=drop, kept=kept)
        if won is not None and drop:
            await self.file.mirror([won])
        if kept:
            _log.error(
                "session_conflict",
                session_id=entry.session_id,
                reason=reason,
                lost_agent=lost.agent_id if lost else None,
                agent_id=won.agent_id if won else None,
            )


def _is_chain(entries: Sequence[Entry]) -> bool:
    """Whether each write of a session follows the one before, and none removes it: the last one says it all."""
    if entries[0].base in (None, UNKNOWN_BASE):
        return False
    before = entries[0].base
    for entry in entries:
        if entry.session is None or entry.base != before:
            return False
        before = entry.session.version
    return True


def _follows(entries: Sequence[Entry], current: Session | None) -> bool:
    """Whether the chain's first write follows what the database has."""
    return entries[0].base == (NEW_SESSION if current is None else current.version)


def _same(one: Session, other: Session) -> bool:
    """But for uses."""
    times = {"last_updated": one.last_updated, "expires_at": one.expires_at, "message_count": one.message_count}
    return replace(other, **times) == one  # type: ignore[arg-type]  # of Session's own fields


def _within(session: Session, other: Session) -> bool:
    """Whether ``other`` says all that ``session`` does."""
    return all(
        mine.items() <= theirs.items()
        for mine, theirs in ((session.session_data, other.session_data), (session.metadata, other.metadata))
    )
