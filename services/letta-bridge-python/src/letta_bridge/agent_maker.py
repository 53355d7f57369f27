"""Makes a user's agent, so that the user never has two: over all bridges, and whenever one is killed.

Reserve the session, claim the right to make its agent, look in Letta for one with the user's tags, make one where there
is none, write it down. A bridge killed in between leaves a claim that ends by itself, and perhaps an agent, which the
next one finds by its tags. No database connection is held while Letta works. While the store is away the tags alone
decide.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Final
from weakref import WeakValueDictionary

from letta_bridge.agent_spec import agent_spec, agent_tags
from letta_bridge.errors import LettaError, TurnFateUnknown
from letta_bridge.letta.port import LettaPort
from letta_bridge.settings import AgentSettings
from shared_utils import logs
from shared_utils.persistence.sessions import Session, SessionStore, SessionStoreError, StaleSession

_log = logs.get(__name__)
CLAIM_SECONDS: Final = 30.0
"""Seconds after which a killed bridge's claim is free; a living one renews it."""
_LOOK_MIN, _LOOK_MAX = 0.05, 1.0
"""Seconds between looks whether another bridge has made the agent."""
_TRIES: Final = 5


class AgentMaker:
    """Makes agents for sessions.

    Args:
        store: where sessions lie.
        settings: what an agent is made of.
        owner: names this bridge in claims, like no other.
        expires_in_hours: when a session ends after it got its agent.
        claim: seconds a claim lasts without being renewed.
    """

    def __init__(
        self,
        store: SessionStore,
        settings: AgentSettings,
        *,
        owner: str,
        expires_in_hours: float | None = None,
        claim: float = CLAIM_SECONDS,
    ) -> None:
        self._store = store
        self._settings = settings
        self._owner = owner
        self._hours = expires_in_hours
        self._claim_seconds = claim
        self._making: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()

    async def session(self, user_id: str, persona: str, language: str | None, letta: LettaPort) -> Session:
        """The user's session, with its agent in the store.

        Raises:
            LettaError: Letta could not be asked.
            SessionStoreError: the store could not; :meth:`without_store` can still find or make the agent.
        """
        key = (user_id, persona)
        async with self._making.setdefault(key, asyncio.Lock()):  # the claim is the whole bridge's
            pause = _LOOK_MIN
            while True:
                session = await self._store.reserve(user_id, persona)
                if session.agent_id is not None:
                    return session
                if await self._store.claim(session.session_id, self._owner, self._claim_seconds):
                    async with self._renewed(session):
                        return await self._made(session, language, letta)
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311  # spreads the looks, no secret
                pause = min(2 * pause, _LOOK_MAX)

    async def without_store(self, user_id: str, persona: str, language: str | None, letta: LettaPort) -> Session:
        """A session nobody has written down, with the user's agent.

        Raises:
            LettaError: Letta could not be asked.
        """
        session = Session(user_id, persona)
        agent_id, _ = await self._found_or_made(session, language, letta)
        return replace(session, agent_id=agent_id)

    async def release(self, session: Session, agent_id: str) -> None:
        """Take an agent that is gone from a session, unless somebody has done so.

        Raises:
            SessionStoreError: the store is away.
        """
        if session.agent_id == agent_id:
            with contextlib.suppress(StaleSession):
                await self._store.save(replace(session, agent_id=None))

    async def _made(self, session: Session, language: str | None, letta: LettaPort) -> Session:
        try:
            agent_id, new = await self._found_or_made(session, language, letta)
        except LettaError as error:
            if not isinstance(error, TurnFateUnknown):  # then Letta may still be at it: nobody else shall begin
                with contextlib.suppress(SessionStoreError):
                    await self._store.claim(session.session_id, self._owner, 0)
            raise
        saved = await self._confirmed(session, agent_id)
        if new and saved.agent_id != agent_id:
            await self._removed(agent_id, saved, letta)
        return saved

    async def _found_or_made(self, session: Session, language: str | None, letta: LettaPort) -> tuple[str, bool]:
        """The agent's id, and whether it was made just now."""
        agents = await letta.find_agents(agent_tags(session.user_id, session.persona))
        if not agents:
            agent = await letta.create_agent(agent_spec(self._settings, session.user_id, session.persona, language))
            _log.info("agent_created", agent_id=agent.agent_id, persona=session.persona)
            return agent.agent_id, True
        if len(agents) > 1:
            twins = [agent.agent_id for agent in agents]
            _log.warning("agent_twins", agent_ids=twins, chosen=twins[0], persona=session.persona)
        _log.info("agent_adopted", agent_id=agents[0].agent_id, persona=session.persona)
        return agents[0].agent_id, False

    async def _confirmed(self, session: Session, agent_id: str) -> Session:
        current = session
        for _ in range(_TRIES):
            try:
                return await self._store.save(replace(current, agent_id=agent_id), expires_in_hours=self._hours)
            except StaleSession:
                # Somebody else wrote it meanwhile, an operator say; the agent joins what is there now.
                current = await self._store.reserve(session.user_id, session.persona)
                if current.agent_id is not None:
                    return current
        raise SessionStoreError(f"session {session.session_id} is written all the time; who does that?")

    async def _removed(self, agent_id: str, saved: Session, letta: LettaPort) -> None:
        """Another bridge made the agent while this one was asleep for longer than its claim; this one is empty."""
        _log.warning("agent_surplus", agent_id=agent_id, chosen=saved.agent_id, persona=saved.persona)
        with contextlib.suppress(LettaError):
            await letta.delete_agent(agent_id)

    @contextlib.asynccontextmanager
    async def _renewed(self, session: Session) -> AsyncIterator[None]:
        async def renew() -> None:
            while True:
                await asyncio.sleep(self._claim_seconds / 3)
                with contextlib.suppress(SessionStoreError):
                    await self._store.claim(session.session_id, self._owner, self._claim_seconds)

        renewing = asyncio.create_task(renew())
        try:
            yield
        finally:
            renewing.cancel()
