"""Keeps the replicas of users' choices equal, and decides whether the shared replica in Redis can be trusted.

There are up to three replicas: the durable store (the database, or the session file without one), the session file of
each host, and the hash in Redis that the bridges of a queue share. A choice is a last-writer-wins register, so replicas
are merged in both directions: at start-up, after an outage or a loss, and once an hour. In between, new rows of the
durable store are polled.

A missing entry in Redis means "has not chosen" only while the completeness marker is present and no write is known to
be lost. A new generation, or fewer changes than seen before, revokes that trust until the durable store has been loaded
again.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Final, Protocol

from letta_bridge.consent.shared_choices import ReplicaState, SharedChoices
from shared_utils.observability import logs
from shared_utils.persistence.choices.port import Choice, ChoiceStore, copy_choices, imported_opt_out, pages, user_key
from shared_utils.persistence.errors import PersistenceError
from shared_utils.redis.connection import CONNECTION_ERRORS, retry_until_available
from shared_utils.task_end import background
from shared_utils.waiting import wait_or_timeout

_log = logs.get(__name__)
_POLL_SECONDS: Final = 3.0
"""Between two polls of the durable store for choices made through another queue, or while Redis was away."""
_RECONCILE_SECONDS: Final = 3600.0
"""Between two full reconciliations when nothing else triggers one."""
_PAUSE_SECONDS: Final = 1.0
"""Minimum between two rounds of upkeep, whatever triggers them."""
_LOAD_ATTEMPTS: Final = 5
_CHOICES_PER_MERGE: Final = 500


class SessionOptOuts(Protocol):
    """The part of :class:`SessionStore` that releases before this package used for opt-outs."""

    async def opted_out_users(self) -> Iterable[str]:
        """See :class:`SessionStore`."""
        ...


class ChoiceReplicas:
    """All replicas of the choices of a queue's users.

    Args:
        shared: the replica in Redis.
        durable: the store of record, asked where Redis cannot be trusted.
        local: the session file of this host if ``durable`` is a database; takes opt-outs while that is away.
        sessions: the metadata of sessions holds the opt-outs of earlier releases.
    """

    def __init__(
        self, shared: SharedChoices, durable: ChoiceStore, local: ChoiceStore | None, sessions: SessionOptOuts
    ) -> None:
        self.shared = shared
        self.durable = durable
        self.local = local
        self._sessions = sessions
        self._trusted: ReplicaState | None = None
        self._recent: dict[str, tuple[Choice, float]] = {}
        """Choices stored since the last reconciliation: a failover of Redis may lose its last writes."""
        self._generations: set[str] = set()
        self._since: datetime | None = None
        self._durable_away = False
        self._reconcile = asyncio.Event()
        self._others_wrote = False
        self._keeping = asyncio.Lock()
        self.last_error: str | None = None
        """Why the last write or reconciliation failed; None while the replicas are equal."""

    @property
    def needs_reconciliation(self) -> bool:
        """Whether a full reconciliation is due."""
        return self._reconcile.is_set()

    def request_reconciliation(self) -> None:
        """Have all replicas merged soon: one of them lacks a choice that another has."""
        self._reconcile.set()

    @property
    def generations(self) -> int:
        """How many generations of the replica in Redis this bridge has seen: each further one means a loss."""
        return len(self._generations)

    def trusts(self, state: ReplicaState) -> bool:
        """Whether a missing entry in this state of Redis means that the user has not chosen."""
        if state is self._trusted:
            return True
        self._generations.add(state.generation)
        if self._trusted is None or not state.complete or not state.follows(self._trusted):
            self._reconcile.set()
            return False
        if state.changes > self._trusted.changes:
            self._trusted = state
            self._others_wrote = True
        return True

    def lost_writes(self, state: ReplicaState) -> bool:
        """Whether Redis has lost writes since this bridge trusted it last."""
        trusted = self._trusted
        return trusted is not None and state.generation == trusted.generation and state.changes < trusted.changes

    def recent_choice(self, user_id: str) -> Choice | None:
        """The user's choice if it was stored since the last reconciliation, whatever Redis says."""
        if not self._recent:
            return None
        found = self._recent.get(user_key(user_id))
        return None if found is None else found[0]

    def remember(self, choices: Iterable[Choice]) -> None:
        """Keep newly stored choices in memory until the next reconciliation."""
        now = time.monotonic()
        for choice in choices:
            known = self._recent.get(choice.user_key)
            if choice.beats(known[0] if known else None):
                self._recent[choice.user_key] = (choice, now)

    async def stored(self, user_keys: Collection[str]) -> Mapping[str, Choice]:
        """The stored choices of these users: of the durable store, or of this host's file while that is away."""
        for store in (self.durable, self.local):
            if store is not None:
                with contextlib.suppress(PersistenceError):
                    return await store.find(user_keys)
        return {}

    async def store(self, choice: Choice) -> None:
        """Store an opt-out durably: in the durable store, or in this host's file while that is away.

        Raises:
            PersistenceError: neither can be written.
        """
        self.remember([choice])
        try:
            await self.durable.merge([choice])
        except PersistenceError as error:
            if self.local is None:
                raise
            _log.warning("choice_write_deferred", error=str(error))
            self.last_error, self._durable_away = str(error), True
            await self.local.merge([choice])
            return
        await self.mirror([choice])

    async def take_over(self, choices: Sequence[Choice]) -> int:
        """Merge choices that were found outside the replicas; returns how many of them no replica had.

        Waits while Redis is away. Without the durable store, the choices are in Redis and this host's file until the
        next reconciliation.
        """
        unknown = 0
        for start in range(0, len(choices), _CHOICES_PER_MERGE):
            batch = choices[start : start + _CHOICES_PER_MERGE]
            await retry_until_available(functools.partial(self.shared.merge, batch))
            known = await self.stored([choice.user_key for choice in batch])
            unknown += sum(choice.beats(known.get(choice.user_key)) for choice in batch)
            try:
                await self._store_all(batch, durably=True)
            except PersistenceError as error:
                self.last_error, self._durable_away = str(error), True
                await self.mirror(batch)
        return unknown

    async def mirror(self, choices: Sequence[Choice]) -> None:
        """Copy choices into this host's file; a failure is tolerated, because the other replicas have them."""
        if self.local is not None:
            with contextlib.suppress(PersistenceError):
                await self.local.merge(choices)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Reconcile and poll in the background."""
        async with background(self._upkeep()):
            yield

    async def reconcile(self) -> None:
        """Merge all replicas and set the completeness marker in Redis.

        While the durable store is away, Redis only receives what this host's file holds, and is trusted if another
        bridge has set its marker.

        Raises:
            CONNECTION_ERRORS: Redis is away.
        """
        begun = time.monotonic()
        if self.lost_writes(await self.shared.state()):
            _log.error("choices_lost_in_redis")
            await self.shared.mark_incomplete()  # the other bridges must not trust it either
        try:
            if self._since is None:  # before the pages are read: later writes are found by the next poll
                _, self._since = await self.durable.changed(None)
            if self.local is not None:
                await copy_choices(self.local, self.durable)
            await self._import_opt_outs()
            await self._load()
        except PersistenceError as error:
            if self.last_error is None:
                _log.error("choices_reconcile_failed", error=str(error))
            self.last_error, self._durable_away = str(error), True
            if self.local is not None:
                with contextlib.suppress(PersistenceError):
                    await self._load_shared(self.local)
        else:
            self.last_error, self._durable_away = None, False
            self._recent = {key: (choice, at) for key, (choice, at) in self._recent.items() if at >= begun}
        state = await self.shared.state()
        self._generations.add(state.generation)
        self._trusted = state if state.complete else None

    async def poll(self) -> None:
        """Take over what was stored since the last poll.

        Raises:
            CONNECTION_ERRORS: Redis is away.
        """
        try:
            choices, self._since = await self.durable.changed(self._since)
            if self._durable_away:  # it is back, and other hosts may have deferred writes as well
                self._reconcile.set()
        except PersistenceError as error:
            self.last_error, self._durable_away = str(error), True
            choices = []
        if choices:
            self.remember(choices)
            await self.shared.merge(choices)
            await self.mirror(choices)
        with contextlib.suppress(PersistenceError):
            await self.keep_others()
        self.trusts(await self.shared.state())  # detects a loss without waiting for a turn

    async def keep_others(self) -> None:
        """Store what others have written to Redis in this host's file, unless the database has it.

        Raises:
            CONNECTION_ERRORS: Redis is away.
            PersistenceError: the file cannot be written.
        """
        async with self._keeping:
            is_trusted = self.trusts(await self.shared.state())
            if self.local is not None and not self._durable_away:
                return
            if is_trusted and not self._others_wrote:
                return
            self._others_wrote = False
            try:
                await self._store_shared(durably=self.local is None)
            except BaseException:
                self._others_wrote = True
                raise

    async def close(self) -> None:
        """Close the files; Redis and the database belong to the caller."""
        for store in (self.durable, self.local):
            if store is not None:
                await store.close()

    async def _upkeep(self) -> None:
        reconciled = -_RECONCILE_SECONDS
        while True:
            try:
                if self._reconcile.is_set() or time.monotonic() - reconciled >= _RECONCILE_SECONDS:
                    self._reconcile.clear()
                    await self.reconcile()
                    reconciled = time.monotonic()
                await self.poll()
            except CONNECTION_ERRORS:
                self._reconcile.set()
            except Exception as error:  # noqa: BLE001  # a defect must not end the upkeep of consent silently
                _log.exception("choices_upkeep_failed")
                self.last_error = f"a defect keeps the replicas of users' choices from being reconciled ({error!r})"
            if self.last_error is None:
                await wait_or_timeout(self._reconcile, _POLL_SECONDS)
            await asyncio.sleep(_PAUSE_SECONDS)

    async def _load(self) -> None:
        """Merge the durable store and Redis in both directions, and set the completeness marker."""
        for _ in range(_LOAD_ATTEMPTS):
            state = await self._load_shared(self.durable)
            await self._store_shared(durably=True)
            if await self.shared.mark_complete(state):
                return
        raise PersistenceError("Redis keeps losing the choices that are loaded into it; check its log and its memory")

    async def _load_shared(self, store: ChoiceStore) -> ReplicaState:
        """Merge a store into Redis; returns the state to set the completeness marker for."""
        state = await self.shared.merge([])  # creates the generation, so that a loss from here on is noticed
        async for page in pages(store):
            after = await self.shared.merge(page)
            if not after.follows(state):
                return state  # the marker will not be set for this state
            state = after
            if store is self.durable:
                await self.mirror(page)
        return state

    async def _store_shared(self, *, durably: bool) -> None:
        """Merge Redis into the durable store and this host's file, or into the file only."""
        batch: list[Choice] = []
        async for choice in self.shared.entries():
            batch.append(choice)
            if len(batch) == _CHOICES_PER_MERGE:
                await self._store_all(batch, durably=durably)
                batch = []
        await self._store_all(batch, durably=durably)

    async def _store_all(self, choices: Sequence[Choice], *, durably: bool) -> None:
        if durably:
            stored = await self.durable.find([choice.user_key for choice in choices])
            choices = [choice for choice in choices if choice.beats(stored.get(choice.user_key))]
            await self.durable.merge(choices)
        await self.mirror(choices)

    async def _import_opt_outs(self) -> None:
        """Import opt-outs that earlier releases wrote into sessions; any explicit choice is later than these."""
        users = await self._sessions.opted_out_users()
        imported = [imported_opt_out(user) for user in users]
        for start in range(0, len(imported), _CHOICES_PER_MERGE):
            await self.durable.merge(imported[start : start + _CHOICES_PER_MERGE])
