"""Consent to permanent memory: the verdict for each turn, and what a user's choice changes. It fails closed.

An opt-out is written to Redis first: it holds for every bridge of the queue from the next hand-out on, and a crash
before it is stored durably leaves the stricter state. An opt-in is stored durably first. Turns that were handed out
before an opt-out are the only exception. Where the choice cannot be determined there is no permanent memory.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from dataclasses import replace
from enum import StrEnum
from typing import Final

from letta_bridge.consent.replicas import ChoiceReplicas
from letta_bridge.consent.shared_choices import ReplicaState, applies_to, parse_entry, strict_entry
from letta_bridge.errors import ChoiceNotShared, ChoiceUnknown
from letta_bridge.request_queue.port import HeldChoice
from shared_utils.persistence.choices.port import IMPORTED_MS, UNDATED_MS, Choice, user_key
from shared_utils.persistence.errors import PersistenceError
from shared_utils.persistence.sessions.port import Session
from shared_utils.redis.connection import CONNECTION_ERRORS, retry_until_available

_READ_ATTEMPTS: Final = 2
"""The hand-out, then Redis once more: responses of two connections may be processed out of order."""


class Verdict(StrEnum):
    """Whether an agent may remember a user."""

    ALLOWED = "allowed"
    DENIED = "denied"
    UNKNOWN = "unknown"
    """Redis cannot be trusted and the durable store does not answer; to be treated as DENIED."""


class Consent:
    """The consent of all users of a queue.

    Args:
        replicas: where choices are stored.
    """

    def __init__(self, replicas: ChoiceReplicas) -> None:
        self.replicas = replicas

    async def verdict(
        self, user_id: str, held: HeldChoice | None, session: Session | None, *, first_ms: int
    ) -> Verdict:
        """The verdict for one turn. Waits while Redis is away, as the turn's settlement would.

        What was pushed before an opt-in stays private, however often the task is handed out, and whatever Redis lost.

        Args:
            user_id: the task's.
            held: what the hand-out carried.
            first_ms: when the task was taken from the request list.
            session: the user's, if known: bridges of the previous release write an opt-out there alone. An opt-out
                that an explicit later opt-in follows is an outdated replica: another host's session file, say.
        """
        if held is None or held.user_id != user_id:
            held = await self._read(user_id)
        if session is not None and not session.permanent_memory and self._holds(session.opt_out, held):
            await self._import(session.opt_out, held)
            return Verdict.DENIED
        has_chosen = held.entry is not None or self.replicas.recent_choice(user_id) is not None
        if not has_chosen and self.replicas.trusts(_state_of(held)):
            return Verdict.ALLOWED  # the loop finds the same at several times the cost, and this is the usual case
        for _ in range(_READ_ATTEMPTS):
            newest = self._newest(held)
            opted_out = newest is not None and not newest.permanent_memory
            if opted_out or self._was_pushed_before_opt_in(held, first_ms):
                return Verdict.DENIED
            if self.replicas.trusts(_state_of(held)):
                return self._of_opt_in(newest, held)
            held = await self._read(user_id)
        if self._was_pushed_before_opt_in(held, first_ms):
            return Verdict.DENIED
        verdict, newest = await self._by_stores(held)
        return self._of_opt_in(newest, held) if verdict is Verdict.ALLOWED else verdict

    def opted_in(self, user_id: str, held: HeldChoice | None) -> bool:
        """Whether the newest choice that this bridge knows of the user is an opt-in."""
        if held is None or held.user_id != user_id:
            return False
        newest = self._newest(held)
        return newest is not None and newest.permanent_memory

    async def permanent_memory(self, user_id: str, opt_out: Choice | None = None) -> bool:
        """Whether agents may remember the user, outside of a turn.

        Args:
            user_id: the user.
            opt_out: one that was found outside the replicas.

        Raises:
            ChoiceUnknown: neither Redis nor the durable store can tell.
        """
        try:
            held = await self.replicas.shared.read(user_id)
        except CONNECTION_ERRORS:
            held = HeldChoice(user_id, None, None, None, None)
        if self._holds(opt_out, held):
            return False
        verdict = Verdict.DENIED if self._opted_out(held) else (await self._by_stores(held))[0]
        if verdict is Verdict.UNKNOWN:
            raise ChoiceUnknown
        return verdict is Verdict.ALLOWED

    async def choose(self, user_id: str, *, permanent_memory: bool) -> Choice:
        """Record the choice that a user makes now.

        Raises:
            PersistenceError: it could not be stored. An opt-in then has no effect; an opt-out may have.
            ChoiceNotShared: Redis is away. An opt-out is stored, and takes effect when Redis is back.
        """
        wanted = Choice(user_key(user_id), permanent_memory, chosen_ms=0)
        return await (self._opt_in(user_id, wanted) if permanent_memory else self._opt_out(wanted))

    async def merge(self, choice: Choice) -> None:
        """Take over a choice that was found outside the replicas.

        Raises:
            PersistenceError: it could not be stored.
        """
        await retry_until_available(lambda: self.replicas.shared.merge([choice]))
        await self.replicas.store(choice)

    async def honours_opt_out(self, user_id: str, opt_out: Choice) -> bool:
        """Whether an opt-out found in an agent's tags still holds; one that does is merged into the replicas."""
        entry = strict_entry(opt_out.user_key, (await self._read(user_id)).entry)
        stored = (await self.replicas.stored([opt_out.user_key])).get(opt_out.user_key)
        newest = stored if stored is not None and stored.beats(entry) else entry
        if newest is not None and not opt_out.beats(newest):
            return not newest.permanent_memory
        with contextlib.suppress(PersistenceError):
            await self.merge(opt_out)
        return True

    async def unheard(self, opt_outs: Mapping[str, Choice]) -> set[str]:
        """The users whose opt-out, found in agents' tags, is later than every choice in a replica.

        Args:
            opt_outs: user id → the user's latest opt-out in the tags.
        """
        stored = await self.replicas.stored({opt_out.user_key for opt_out in opt_outs.values()})
        later = {user: one for user, one in opt_outs.items() if one.beats(stored.get(one.user_key))}
        return {
            user for user, one in later.items() if one.beats(strict_entry(one.user_key, (await self._read(user)).entry))
        }

    async def _opt_out(self, wanted: Choice) -> Choice:
        key = wanted.user_key
        try:
            choice = await self.replicas.shared.choose(wanted)
            stored = (await self.replicas.stored([key])).get(key)
            if stored is not None and not choice.beats(stored):  # Redis lost its entry, and its clock went back
                choice = await self.replicas.shared.choose(replace(wanted, chosen_ms=stored.chosen_ms))
        except CONNECTION_ERRORS as error:
            stored = (await self.replicas.stored([key])).get(key)
            await self.replicas.store(_timestamped_here(wanted, stored))
            reason = "the opt-out is stored, but Redis is unavailable: it takes effect when Redis is available again"
            raise ChoiceNotShared(reason) from error
        await self.replicas.store(choice)
        return choice

    async def _opt_in(self, user_id: str, wanted: Choice) -> Choice:
        durable, shared = self.replicas.durable, self.replicas.shared
        stored = (await durable.find([wanted.user_key])).get(wanted.user_key)
        try:
            repeated = self._is_opted_in(await shared.read(user_id), stored)
            choice = await shared.timestamped(replace(wanted, chosen_ms=stored.chosen_ms if stored else 0))
        except CONNECTION_ERRORS as error:
            raise ChoiceNotShared(
                "Redis is unavailable, so nothing was changed; choose again when it is available"
            ) from error
        await durable.merge([choice])
        self.replicas.remember([choice])
        await self.replicas.mirror([choice])
        try:
            await shared.merge([choice], chosen=True, repeated=repeated)
        except CONNECTION_ERRORS as error:
            reason = "the opt-in is stored, but Redis is unavailable: it takes effect when Redis is available again"
            raise ChoiceNotShared(reason) from error
        return choice

    async def _read(self, user_id: str) -> HeldChoice:
        return await retry_until_available(lambda: self.replicas.shared.read(user_id))

    def _opted_out(self, held: HeldChoice) -> bool:
        newest = self._newest(held)
        return newest is not None and not newest.permanent_memory

    def _was_pushed_before_opt_in(self, held: HeldChoice, first_ms: int) -> bool:
        """Whether the entry is an opt-in that does not apply to this task."""
        entry = parse_entry("", held.entry)
        return entry is not None and entry.permanent_memory and not applies_to(held.entry, first_ms)

    def _of_opt_in(self, newest: Choice | None, held: HeldChoice) -> Verdict:
        """The verdict where nothing denies the turn: unknown while only other replicas than Redis have the opt-in.

        Redis may have lost it, and with it which tasks were pushed before it.
        """
        if newest is None:
            return Verdict.ALLOWED
        entry = strict_entry("", held.entry)
        if entry is not None and entry.chosen_ms == newest.chosen_ms:
            return Verdict.ALLOWED
        self.replicas.request_reconciliation()
        return Verdict.DENIED if entry is not None and not entry.permanent_memory else Verdict.UNKNOWN

    def _is_opted_in(self, held: HeldChoice, stored: Choice | None) -> bool:
        """Whether the entry in Redis is an opt-in, and no replica has a later choice."""
        entry = parse_entry("", held.entry)
        newest = self._newest(held)
        if entry is None or not entry.permanent_memory or newest is None or newest.chosen_ms != entry.chosen_ms:
            return False
        return stored is None or stored.chosen_ms <= entry.chosen_ms

    def _holds(self, opt_out: Choice | None, held: HeldChoice) -> bool:
        """Whether there is an opt-out, and no later opt-in is known."""
        if opt_out is None:
            return False
        newest = self._newest(held)
        return newest is None or not newest.permanent_memory or not newest.beats(opt_out)

    def _newest(self, held: HeldChoice) -> Choice | None:
        """The entry in Redis, unless this bridge has seen a newer choice stored: a failover may have lost that one."""
        entry = strict_entry("", held.entry)
        recent = self.replicas.recent_choice(held.user_id)
        return recent if recent is not None and recent.beats(entry) else entry

    async def _by_stores(self, held: HeldChoice) -> tuple[Verdict, Choice | None]:
        """By the newest choice of the durable store and Redis; without that store, of this host's file and Redis."""
        key = user_key(held.user_id)
        entry = strict_entry(key, held.entry)
        try:
            stored = (await self.replicas.durable.find([key])).get(key)
        except PersistenceError:
            local = await self._on_this_host(key)
            if local is not None and not local.permanent_memory and local.beats(entry):
                return Verdict.DENIED, local
            state = _state_of(held)
            is_known = state.complete and not self.replicas.lost_writes(state)
            newest = self._newest(held)
            newest = local if local is not None and local.beats(newest) else newest
            return (Verdict.ALLOWED if is_known else Verdict.UNKNOWN), newest
        newest = stored if stored is not None and stored.beats(entry) else entry
        return (Verdict.ALLOWED if newest is None or newest.permanent_memory else Verdict.DENIED), newest

    async def _on_this_host(self, key: str) -> Choice | None:
        if self.replicas.local is None:
            return None
        try:
            return (await self.replicas.local.find([key])).get(key)
        except PersistenceError:
            return None

    async def _import(self, opt_out: Choice | None, held: HeldChoice) -> None:
        """Record an opt-out that only a session holds, so that deleting the session does not lose it."""
        if opt_out is not None and held.entry is None:
            chosen_ms = IMPORTED_MS if opt_out.chosen_ms == UNDATED_MS else opt_out.chosen_ms
            with contextlib.suppress(PersistenceError):
                await self.merge(replace(opt_out, chosen_ms=chosen_ms))


def _timestamped_here(wanted: Choice, stored: Choice | None) -> Choice:
    """By this host's clock, because Redis's cannot be read."""
    return replace(wanted, chosen_ms=max(round(time.time() * 1000), stored.chosen_ms + 1 if stored else 0))


def _state_of(held: HeldChoice) -> ReplicaState:
    return ReplicaState.of(held.complete, held.generation, held.changes)
