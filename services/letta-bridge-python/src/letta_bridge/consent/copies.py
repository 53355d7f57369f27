"""The copies of users' choices, kept equal, and whether Redis's copy can be believed when it has no entry.

Copies are the durable store (database, or the session file where there is none), this host's session file and the hash
that all bridges of the queue share in Redis. They are merged in both directions: at the start, after an outage or a
loss, and once an hour; between those, what others store is followed every few seconds.

Redis's copy is believed while it says that it is complete and nothing shows that it lost a write. A copy made anew, or
one that counts fewer changes than were seen before, is not believed until it has been loaded from the durable store.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Final, Protocol

from letta_bridge.consent.shared_choices import SharedChoices, Sighting
from shared_utils import logs
from shared_utils.persistence.choices import IMPORTED_MS, Choice, ChoiceStore, copy_choices, pages, user_key
from shared_utils.persistence.errors import PersistenceError
from shared_utils.persistence.sessions import SessionStore
from shared_utils.redis_connection import CONNECTION_ERRORS

_log = logs.get(__name__)
_POLL_SECONDS: Final = 3.0
"""Until a choice stored by another queue's bridge, or while Redis was away, counts here."""
_SYNC_SECONDS: Final = 3600.0
"""Between two comparisons of all copies when nothing calls for one."""
_RECENT_SECONDS: Final = 900.0
"""How long a refusal that others stored is remembered beside Redis, which may lose its last writes in a failover."""
_PAUSE_SECONDS: Final = 1.0
"""Between two rounds of upkeep at least, whatever calls for one."""
_LOADS: Final = 5
"""Loads in a row of which Redis may lose a part."""
_BATCH: Final = 500


class RefusingSessions(Protocol):
    """Sessions, of which only the refusals of earlier releases are asked."""

    async def refusing_users(self) -> Iterable[str]:
        """See :class:`SessionStore`."""
        ...


class ChoiceCopies:
    """Keeps the copies equal.

    Args:
        shared: the queue's copy in Redis.
        durable: what decides where Redis cannot be believed.
        local: the session file, where ``durable`` is a database; it holds what was chosen while that was away.
        sessions: whose metadata holds the refusals of earlier releases.
    """

    def __init__(
        self,
        shared: SharedChoices,
        durable: ChoiceStore,
        local: ChoiceStore | None,
        sessions: RefusingSessions | SessionStore,
    ) -> None:
        self.shared = shared
        self.durable = durable
        self.local = local
        self._sessions = sessions
        self._believed: Sighting | None = None
        self._recent: dict[str, tuple[Choice, float]] = {}
        self._since: datetime | None = None
        self._away = False
        self._called_for = asyncio.Event()
        self._others_wrote = False
        self.trouble: str | None = None
        """Why the copies could not be compared the last time; None while they are equal."""

    @property
    def needs_sync(self) -> bool:
        """Whether something calls for a comparison of all copies."""
        return self._called_for.is_set()

    def believes(self, seen: Sighting) -> bool:
        """Whether the absence of an entry in this sighting means that its user has not chosen."""
        if self._believed is None or not seen.complete or not seen.follows(self._believed):
            self._called_for.set()
            return False
        if seen.changes > self._believed.changes:
            self._believed = seen
            self._others_wrote = True
        return True

    def lost_writes(self, seen: Sighting) -> bool:
        """Whether Redis is known to have forgotten some of what this copy once held."""
        believed = self._believed
        return believed is not None and seen.born == believed.born and seen.changes < believed.changes

    def recent_refusal(self, user_id: str) -> Choice | None:
        """A refusal of this user that was stored lately and that Redis may have lost since."""
        if not self._recent:
            return None
        found = self._recent.get(user_key(user_id))
        return found[0] if found is not None and not found[0].permanent_memory else None

    def note(self, choices: Iterable[Choice]) -> None:
        """Remember choices that were stored just now, beside Redis."""
        now = time.monotonic()
        for choice in choices:
            known = self._recent.get(choice.user_key)
            if choice.beats(known[0] if known else None):
                self._recent[choice.user_key] = (choice, now)

    async def stored(self, user_keys: Collection[str]) -> Mapping[str, Choice]:
        """What the durable store has of these users, or this host's file while that is away; empty without either."""
        for store in (self.durable, self.local):
            if store is not None:
                with contextlib.suppress(PersistenceError):
                    return await store.find(user_keys)
        return {}

    async def keep(self, choice: Choice) -> None:
        """Store a refusal where it outlives Redis: in the durable store, or on this host while that is away.

        Raises:
            PersistenceError: nowhere.
        """
        self.note([choice])
        try:
            await self.durable.merge([choice])
        except PersistenceError as error:
            if self.local is None:
                raise
            _log.warning("choice_waits_for_database", error=str(error))
            self._away = True
            await self.local.merge([choice])
            return
        await self.mirror([choice])

    async def mirror(self, choices: Sequence[Choice]) -> None:
        """Tell this host's file; where that cannot be written, the other copies have it."""
        if self.local is not None:
            with contextlib.suppress(PersistenceError):
                await self.local.merge(choices)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Keeps the copies equal in the background."""
        upkeep = asyncio.create_task(self._upkeep())
        try:
            yield
        finally:
            upkeep.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await upkeep

    async def sync(self) -> None:
        """Compare all copies, bring each what it lacks, and vouch for Redis's.

        While the durable store is away Redis is told what this host knows, and believed where somebody else vouched.

        Raises:
            CONNECTION_ERRORS: Redis is away.
        """
        if self.lost_writes(await self.shared.sighting()):
            _log.error("choices_lost_in_redis")
            await self.shared.doubt()  # for the other bridges, too
        try:
            if self._since is None:  # asked for first: what is stored while the pages are read is followed afterwards
                _, self._since = await self.durable.changed(None)
            await self._keep_local()
            await self._import_refusals()
            await self._load()
        except PersistenceError as error:
            if self.trouble is None:
                _log.error("choices_not_compared", error=str(error))
            self.trouble, self._away = str(error), True
            if self.local is not None:
                with contextlib.suppress(PersistenceError):
                    await self._tell_shared(self.local)
        else:
            self.trouble, self._away = None, False
        seen = await self.shared.sighting()
        self._believed = seen if seen.complete else None

    async def follow(self) -> None:
        """Take over what others stored since the last time.

        Raises:
            CONNECTION_ERRORS: Redis is away.
        """
        self._forget_old()
        try:
            choices, self._since = await self.durable.changed(self._since)
            if self._away:  # it is back: something may have been stored elsewhere meanwhile
                self._called_for.set()
        except PersistenceError as error:
            self.trouble, self._away = str(error), True
            choices = []
        if choices:
            self.note(choices)
            await self.shared.learn(choices)
            await self.mirror(choices)
        if self._others_wrote and (self._away or self.local is None):
            self._others_wrote = False
            with contextlib.suppress(PersistenceError):
                await self._keep_shared(None)
        self.believes(await self.shared.sighting())  # though no turn should show that Redis lost its copy

    async def close(self) -> None:
        """Give back the files; Redis and the database are the caller's."""
        for store in (self.durable, self.local):
            if store is not None:
                await store.close()

    async def _upkeep(self) -> None:
        synced = -_SYNC_SECONDS
        while True:
            try:
                if self._called_for.is_set() or time.monotonic() - synced >= _SYNC_SECONDS:
                    self._called_for.clear()
                    await self.sync()
                    synced = time.monotonic()
                await self.follow()
            except CONNECTION_ERRORS:
                self._called_for.set()
            if self.trouble is None:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_POLL_SECONDS):
                        await self._called_for.wait()
            await asyncio.sleep(_PAUSE_SECONDS)

    async def _load(self) -> None:
        """Merge the durable store and Redis in both directions, and vouch for Redis's copy."""
        for _ in range(_LOADS):
            seen, stored = await self._tell_shared(self.durable)
            await self._keep_shared(stored)
            if await self.shared.vouch(seen):
                return
        raise PersistenceError("Redis keeps losing the choices that are loaded into it; look at its log and its memory")

    async def _tell_shared(self, store: ChoiceStore) -> tuple[Sighting, dict[str, Choice]]:
        stored: dict[str, Choice] = {}
        seen = await self.shared.learn([])  # from here on a copy that is lost and made anew shows
        async for page in pages(store):
            stored |= {choice.user_key: choice for choice in page}
            after = await self.shared.learn(page)
            if not after.follows(seen):
                return seen, stored  # vouching for it will be refused
            seen = after
            if store is self.durable:
                await self.mirror(page)
        return seen, stored

    async def _keep_shared(self, stored: Mapping[str, Choice] | None) -> None:
        """Store what Redis has and ``stored`` lacks; with None, keep all of it on this host."""
        batch: list[Choice] = []
        async for choice in self.shared.entries():
            if stored is None or choice.beats(stored.get(choice.user_key)):
                batch.append(choice)
            if len(batch) == _BATCH:
                await self._keep_all(batch, durably=stored is not None)
                batch = []
        await self._keep_all(batch, durably=stored is not None)

    async def _keep_all(self, choices: Sequence[Choice], *, durably: bool) -> None:
        if choices and (durably or self.local is None):
            await self.durable.merge(choices)
        await self.mirror(choices)

    async def _import_refusals(self) -> None:
        """What bridges of earlier releases note in sessions, where the user has not chosen since."""
        users = await self._sessions.refusing_users()
        imported = [Choice(user_key(user), permanent_memory=False, chosen_ms=IMPORTED_MS) for user in users]
        for start in range(0, len(imported), _BATCH):
            await self.durable.merge(imported[start : start + _BATCH])

    async def _keep_local(self) -> None:
        """Store what was chosen on this host while the durable store was away."""
        if self.local is not None:
            await copy_choices(self.local, self.durable)

    def _forget_old(self) -> None:
        before = time.monotonic() - _RECENT_SECONDS
        for key in [key for key, (_, at) in self._recent.items() if at < before]:
            del self._recent[key]
