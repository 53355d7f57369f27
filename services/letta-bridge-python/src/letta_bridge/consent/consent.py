"""Whether agents may remember a user. "I cannot know" means no: then memory-python answers, and nothing is kept.

A refusal counts for every bridge of the queue as soon as it is entered in Redis, with the next hand-out; a turn handed
out before is the only exception. It is entered there before it is stored, so that a kill in between leaves the stricter
state. Permission is stored durably before it counts anywhere.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import replace
from enum import StrEnum
from typing import Final

from letta_bridge.consent.copies import ChoiceCopies
from letta_bridge.consent.shared_choices import Sighting, entered
from letta_bridge.errors import ChoiceNotShared, ChoiceUnknown
from letta_bridge.request_queue.port import HeldChoice
from shared_utils.persistence.choices import IMPORTED_MS, Choice, user_key
from shared_utils.persistence.errors import PersistenceError
from shared_utils.persistence.sessions import Session
from shared_utils.redis_connection import CONNECTION_ERRORS, persistently

_READINGS: Final = 2
"""Of a hand-out and then of Redis anew: answers of two connections may be read in the wrong order."""


class Verdict(StrEnum):
    """What is known of a user's consent."""

    GIVEN = "given"
    """The user has not refused; it is known that they have not."""
    REFUSED = "refused"
    UNKNOWN = "unknown"
    """Redis cannot vouch for its copy of the choices, and the durable store does not answer."""


class Consent:
    """The consent of all users of a queue.

    Args:
        copies: where choices lie.
    """

    def __init__(self, copies: ChoiceCopies) -> None:
        self.copies = copies

    async def verdict(self, user_id: str, held: HeldChoice | None, session: Session | None) -> Verdict:
        """What holds for a turn. Waits while Redis is away, as the turn's outcome would.

        Args:
            user_id: the task's.
            held: what the hand-out brought.
            session: of any persona, where one is known: bridges of the release before write a refusal there alone.
        """
        if held is None or held.user_id != user_id:
            held = await self._read(user_id)
        if session is not None and not session.permanent_memory:
            await self._import(user_id, held)
            return Verdict.REFUSED
        for _ in range(_READINGS):
            if self._refused(held):
                return Verdict.REFUSED
            if self.copies.believes(_sighting(held)):
                return Verdict.GIVEN
            held = await self._read(user_id)
        return await self._by_stores(held)

    async def permanent_memory(self, user_id: str) -> bool:
        """Whether agents may remember the user, for whoever asks without a turn.

        Raises:
            ChoiceUnknown: nobody can tell now.
        """
        try:
            held = await self.copies.shared.read(user_id)
        except CONNECTION_ERRORS:
            held = HeldChoice(user_id, None, None, None, None)
        verdict = Verdict.REFUSED if self._refused(held) else await self._by_stores(held)
        if verdict is Verdict.UNKNOWN:
            raise ChoiceUnknown
        return verdict is Verdict.GIVEN

    async def choose(self, user_id: str, *, permanent_memory: bool) -> Choice:
        """Enter and store what the user chooses now.

        Raises:
            PersistenceError: it could not be stored. A permission then does not count; a refusal may.
            ChoiceNotShared: Redis is away. A refusal is stored, and counts when Redis is back.
        """
        wanted = Choice(user_key(user_id), permanent_memory, chosen_ms=0)
        return await (self._permit(wanted) if permanent_memory else self._refuse(wanted))

    async def learn(self, choice: Choice) -> None:
        """Take over a choice found elsewhere, on an agent say, where it wins."""
        await persistently(lambda: self.copies.shared.learn([choice]))
        await self.copies.keep(choice)

    async def heed(self, user_id: str, refusal: Choice) -> bool:
        """Whether a refusal found on an agent still holds; then every copy knows it from now on."""
        entry = entered(refusal.user_key, (await self._read(user_id)).entry)
        stored = (await self.copies.stored([refusal.user_key])).get(refusal.user_key)
        newest = stored if stored is not None and stored.beats(entry) else entry
        if newest is not None and not refusal.beats(newest):
            return not newest.permanent_memory
        with contextlib.suppress(PersistenceError):
            await self.learn(refusal)
        return True

    async def _refuse(self, wanted: Choice) -> Choice:
        try:
            choice = await self.copies.shared.choose(wanted)
            stored = (await self.copies.stored([wanted.user_key])).get(wanted.user_key)
            if stored is not None and not choice.beats(stored):  # Redis's clock was behind, and its entry lost
                choice = await self.copies.shared.choose(replace(wanted, chosen_ms=stored.chosen_ms))
        except CONNECTION_ERRORS as error:
            stored = (await self.copies.stored([wanted.user_key])).get(wanted.user_key)
            await self.copies.keep(_dated_here(wanted, stored))
            raise ChoiceNotShared(
                "the refusal is written down, but Redis is away: bridges follow it once Redis is back"
            ) from error
        await self.copies.keep(choice)
        return choice

    async def _permit(self, wanted: Choice) -> Choice:
        durable, shared = self.copies.durable, self.copies.shared
        stored = (await durable.find([wanted.user_key])).get(wanted.user_key)
        try:
            choice = await shared.date(replace(wanted, chosen_ms=stored.chosen_ms if stored else 0))
        except CONNECTION_ERRORS as error:
            raise ChoiceNotShared("Redis is away and nothing was changed; choose again once it is back") from error
        await durable.merge([choice])
        self.copies.note([choice])
        await self.copies.mirror([choice])
        try:
            await shared.learn([choice], chosen=True)
        except CONNECTION_ERRORS as error:
            raise ChoiceNotShared(
                "the permission is written down, but Redis is away: bridges follow it once Redis is back"
            ) from error
        return choice

    async def _read(self, user_id: str) -> HeldChoice:
        return await persistently(lambda: self.copies.shared.read(user_id))

    def _refused(self, held: HeldChoice) -> bool:
        entry = entered("", held.entry)
        if entry is not None and not entry.permanent_memory:
            return True
        recent = self.copies.recent_refusal(held.user_id)
        return recent is not None and recent.beats(entry)

    async def _by_stores(self, held: HeldChoice) -> Verdict:
        """What the durable store and Redis's entry say; while the store is away, what this host and Redis know."""
        key = user_key(held.user_id)
        entry = entered(key, held.entry)
        try:
            stored = (await self.copies.durable.find([key])).get(key)
        except PersistenceError:
            local = await self._on_this_host(key)
            if local is not None and not local.permanent_memory and local.beats(entry):
                return Verdict.REFUSED
            seen = _sighting(held)
            return Verdict.GIVEN if seen.complete and not self.copies.lost_writes(seen) else Verdict.UNKNOWN
        newest = stored if stored is not None and stored.beats(entry) else entry
        return Verdict.GIVEN if newest is None or newest.permanent_memory else Verdict.REFUSED

    async def _on_this_host(self, key: str) -> Choice | None:
        if self.copies.local is None:
            return None
        try:
            return (await self.copies.local.find([key])).get(key)
        except PersistenceError:
            return None

    async def _import(self, user_id: str, held: HeldChoice) -> None:
        """Keep a refusal of the release before, so that it does not go with its session."""
        if held.entry is None:
            with contextlib.suppress(PersistenceError):
                await self.learn(Choice(user_key(user_id), permanent_memory=False, chosen_ms=IMPORTED_MS))


def _dated_here(wanted: Choice, stored: Choice | None) -> Choice:
    """By this host's clock: Redis cannot be asked."""
    return replace(wanted, chosen_ms=max(round(time.time() * 1000), stored.chosen_ms + 1 if stored else 0))


def _sighting(held: HeldChoice) -> Sighting:
    return Sighting.of(held.complete, held.born, held.changes)
