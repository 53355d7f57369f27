"""What a user may choose: whether agents remember. Kept by ``consent``, and in sessions for one more release."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Final

from letta_bridge.agent_refusals import AgentRefusals
from letta_bridge.consent import Consent
from shared_utils.persistence.choices import user_key
from shared_utils.persistence.errors import PersistenceError
from shared_utils.persistence.sessions import Session, SessionStore, StaleSession

_METADATA_KEY: Final = "permanent_memory"
_SESSIONS_OF_A_USER: Final = 1000
"""At most; there is one per persona."""
_WRITE_ATTEMPTS: Final = 5


class UserSettings:
    """The settings of users, over all their personas.

    Args:
        consent: where choices lie.
        sessions: what bridges of the release before read.
        agents: the users' agents, which carry a refusal as well; None leaves them alone.
    """

    def __init__(self, consent: Consent, sessions: SessionChoices, agents: AgentRefusals | None = None) -> None:
        self._consent = consent
        self._sessions = sessions
        self._agents = agents

    async def permanent_memory(self, user_id: str) -> bool:
        """Whether agents remember this user; they do where the user is known to have chosen nothing.

        Raises:
            ChoiceUnknown: nobody can tell now.
        """
        try:
            refused = await self._sessions.refused(user_id)
        except PersistenceError:
            refused = False  # the choice itself may still be known
        return not refused and await self._consent.permanent_memory(user_id)

    async def chosen_ms(self, user_id: str) -> int | None:
        """When the user chose, in ms since 1970, as far as the stores tell; None where there is no choice."""
        key = user_key(user_id)
        stored = (await self._consent.copies.stored([key])).get(key)
        return None if stored is None else stored.chosen_ms

    async def set_permanent_memory(self, user_id: str, wanted: bool) -> None:
        """Switch it for every persona, now and to come. A refusal counts for every bridge from the next hand-out on.

        Raises:
            PersistenceError: it could not be stored; it may be repeated.
            ChoiceNotShared: Redis is away.
        """
        choice = await self._consent.choose(user_id, permanent_memory=wanted)
        await self._sessions.write(user_id, wanted)
        if self._agents is not None:
            await self._agents.write(user_id, choice)

    async def by_session(self, sessions: Sequence[Session]) -> Mapping[str, bool]:
        """Session id → whether agents may remember its user, as far as the stores tell."""
        stored = await self._consent.copies.stored({user_key(session.user_id) for session in sessions})
        return {
            session.session_id: session.permanent_memory and (choice is None or choice.permanent_memory)
            for session in sessions
            for choice in [stored.get(user_key(session.user_id))]
        }


class SessionChoices:
    """Choices in the metadata of sessions, where releases before ``consent`` keep them; written for one release more.

    Args:
        store: where sessions lie.
        personas: those an agent may have. A user who wants no memory gets a session of each, so that none begins one.
        forget: told (user, persona) of each session that changed.
    """

    def __init__(
        self, store: SessionStore, personas: Collection[str], forget: Callable[[str, str], None] | None = None
    ) -> None:
        self._store = store
        self._personas = personas
        self._forget = forget

    async def refused(self, user_id: str) -> bool:
        """Whether a session of the user refuses.

        Raises:
            SessionStoreError: the store is away.
        """
        return any(not session.permanent_memory for session in await self._of(user_id))

    async def write(self, user_id: str, wanted: bool) -> None:
        """Switch it in every session of the user.

        Raises:
            SessionStoreError: the store is away, or somebody else keeps writing the same session.
        """
        personas = {session.persona for session in await self._of(user_id)}
        if not wanted:
            personas |= set(self._personas)
        for persona in sorted(personas):
            await self._switched(user_id, persona, wanted)

    async def _switched(self, user_id: str, persona: str, wanted: bool) -> None:
        for _ in range(_WRITE_ATTEMPTS - 1):
            try:
                return await self._switch(user_id, persona, wanted)
            except StaleSession:
                continue  # a bridge wrote it meanwhile
        return await self._switch(user_id, persona, wanted)

    async def _switch(self, user_id: str, persona: str, wanted: bool) -> None:
        session = await self._store.reserve(user_id, persona)
        if session.permanent_memory == wanted:
            return
        await self._store.save(replace(session, metadata={**session.metadata, _METADATA_KEY: wanted}))
        if self._forget is not None:
            self._forget(user_id, persona)

    async def _of(self, user_id: str) -> Collection[Session]:
        return (await self._store.page(limit=_SESSIONS_OF_A_USER, user_id=user_id)).sessions
