"""Reads and writes a user's choice about permanent memory, in ``consent`` and in the forms that older bridges read."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Final

from letta_bridge.agents.opt_out_tags import OptOutTags
from letta_bridge.consent import Consent
from shared_utils.persistence.choices.port import Choice, user_key
from shared_utils.persistence.errors import PersistenceError
from shared_utils.persistence.sessions.port import CHOICE_FIELD, CHOSEN_FIELD, Session, SessionStore, StaleSession

_SESSIONS_OF_A_USER: Final = 1000
"""Upper bound; a user has one active session per persona."""
_WRITE_ATTEMPTS: Final = 5


class UserSettings:
    """The settings of users, which apply to all their personas.

    Args:
        consent: stores the choices.
        sessions: the form that bridges of the previous release read.
        agents: tags of the users' agents, which replicate opt-outs; None writes none.
    """

    def __init__(self, consent: Consent, sessions: SessionChoices, agents: OptOutTags | None = None) -> None:
        self._consent = consent
        self._sessions = sessions
        self._agents = agents

    async def permanent_memory(self, user_id: str) -> bool:
        """Whether agents may remember this user; True for a user who has not chosen.

        Raises:
            ChoiceUnknown: no store can answer now.
        """
        try:
            opt_out = await self._sessions.opt_out(user_id)
        except PersistenceError:
            opt_out = None  # consent may still know the choice
        return await self._consent.permanent_memory(user_id, opt_out)

    async def chosen_ms(self, user_id: str) -> int | None:
        """When the user chose, in ms since 1970, by the durable stores; None without a choice."""
        key = user_key(user_id)
        stored = (await self._consent.replicas.stored([key])).get(key)
        return None if stored is None else stored.chosen_ms

    async def set_permanent_memory(self, user_id: str, wanted: bool) -> None:
        """Set it for every present and future persona. An opt-out applies to every bridge from its next hand-out on.

        Raises:
            PersistenceError: it could not be stored; safe to retry.
            ChoiceNotShared: Redis is away.
        """
        choice = await self._consent.choose(user_id, permanent_memory=wanted)
        await self._sessions.write(user_id, choice)
        if self._agents is not None:
            await self._agents.write(user_id, choice)

    async def by_session(self, sessions: Sequence[Session]) -> Mapping[str, bool]:
        """Session id → whether agents may remember its user, by the durable stores."""
        stored = await self._consent.replicas.stored({user_key(session.user_id) for session in sessions})
        return {
            session.session_id: newest is None or newest.permanent_memory
            for session in sessions
            for newest in [_newer(session.opt_out, stored.get(user_key(session.user_id)))]
        }


class SessionChoices:
    """Choices in session metadata: the form of earlier releases, still written for bridges of the previous release.

    Args:
        store: the sessions.
        personas: all configured personas; an opt-out is written to a session of each, created where it is missing.
        forget: called with (user, persona) of each session that changed, to invalidate caches.
    """

    def __init__(
        self, store: SessionStore, personas: Collection[str], forget: Callable[[str, str], None] | None = None
    ) -> None:
        self._store = store
        self._personas = personas
        self._forget = forget

    async def opt_out(self, user_id: str) -> Choice | None:
        """The latest opt-out in a session of the user; None if there is none.

        Raises:
            SessionStoreError: the store is away.
        """
        latest: Choice | None = None
        for session in await self._of(user_id):
            latest = _newer(latest, session.opt_out)
        return latest

    async def write(self, user_id: str, choice: Choice) -> None:
        """Write it to every session of the user.

        Raises:
            SessionStoreError: the store is away, or another writer keeps changing the same session.
        """
        personas = {session.persona for session in await self._of(user_id)}
        if not choice.permanent_memory:
            personas |= set(self._personas)
        for persona in sorted(personas):
            await self._switched(user_id, persona, choice)

    async def _switched(self, user_id: str, persona: str, choice: Choice) -> None:
        for _ in range(_WRITE_ATTEMPTS - 1):
            try:
                return await self._switch(user_id, persona, choice)
            except StaleSession:
                continue  # another bridge changed it concurrently
        return await self._switch(user_id, persona, choice)

    async def _switch(self, user_id: str, persona: str, choice: Choice) -> None:
        session = await self._store.reserve(user_id, persona)
        written = {CHOICE_FIELD: choice.permanent_memory, CHOSEN_FIELD: choice.chosen_ms}
        held = session.choice
        if held is not None and (held == choice or held.beats(choice)):
            return  # a choice made after this one was quicker to get here
        await self._store.save(replace(session, metadata={**session.metadata, **written}))
        if self._forget is not None:
            self._forget(user_id, persona)

    async def _of(self, user_id: str) -> Collection[Session]:
        return (await self._store.page(limit=_SESSIONS_OF_A_USER, user_id=user_id)).sessions


def _newer(one: Choice | None, other: Choice | None) -> Choice | None:
    return one if one is not None and one.beats(other) else other
