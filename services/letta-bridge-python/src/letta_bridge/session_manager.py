"""Which agent is this user's: looked up, adopted, or made, so that a user never has two."""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from letta_bridge.letta.port import AgentRef, AgentSpec, Block, LettaPort
from letta_bridge.settings import AgentSettings
from shared_utils import logs
from shared_utils.persistence.sessions import Session, SessionStore, SessionStoreError, StaleSession

_log = logs.get(__name__)
_TOUCH_SECONDS: Final = 60.0
"""A session in use is marked so at most this often."""


class SessionManager:
    """User and persona → agent. One turn of a user runs at a time (the queue sees to that), so no lock is needed here.

    Reserve the row, look in Letta for an agent with the user's tags, make one where there is none, write it down. A
    kill between any two of these leaves an agent that the next turn finds by its tags. While the store is away the
    tags alone decide.
    """

    def __init__(self, store: SessionStore, settings: AgentSettings, *, cached: int = 50_000) -> None:
        self._store = store
        self._settings = settings
        self._cached = cached
        self._sessions: OrderedDict[tuple[str, str], Session] = OrderedDict()
        self._touched: dict[str, float] = {}
        self.store_error: str | None = None
        """Why the store was of no use the last time it was asked; None while it works."""

    def persona(self, name: str | None) -> str:
        """The configured persona of this name, ``default`` where there is none."""
        return name if name in self._settings.personas else "default"

    async def session(self, user_id: str, persona: str) -> Session | None:
        """The user's session where one is known; None also while the store is away."""
        key = (user_id, persona)
        session = self._sessions.get(key)
        if session is not None:
            self._sessions.move_to_end(key)
            return session
        try:
            session = await self._store.find(user_id, persona)
            self.store_error = None
        except SessionStoreError as error:
            self._store_failed(error)
        if session is not None:
            self._remember(session)
        return session

    async def agent_for(self, user_id: str, persona: str, language: str | None, letta: LettaPort) -> str:
        """The id of the user's agent, made where there is none.

        Raises:
            LettaError: Letta could not be asked.
        """
        session = await self.session(user_id, persona)
        if session is None or session.agent_id is None:
            session = await self._with_agent(session or await self._reserve(user_id, persona), language, letta)
        await self._touch(session)
        if session.agent_id is None:
            raise AssertionError("a session with an agent has its id")
        return session.agent_id

    async def replace_agent(self, user_id: str, persona: str, language: str | None, letta: LettaPort, gone: str) -> str:
        """The user's agent after Letta said that ``gone`` does not exist any more."""
        _log.warning("agent_gone", agent_id=gone, persona=persona)
        self.forget(user_id, persona)
        session = await self.session(user_id, persona) or await self._reserve(user_id, persona)
        if session.agent_id == gone:
            session = await self._with_agent(replace(session, agent_id=None), language, letta)
        return await self.agent_for(user_id, persona, language, letta)

    def forget(self, user_id: str, persona: str) -> None:
        """Drop what is remembered of a session, so that the store is asked again."""
        self._sessions.pop((user_id, persona), None)

    async def count(self) -> Mapping[str, int]:
        """Sessions in the store; empty while it is away."""
        try:
            counts = await self._store.count()
        except SessionStoreError as error:
            self._store_failed(error)
            return {}
        self.store_error = None
        return counts

    async def close(self) -> None:
        """Close the store."""
        await self._store.close()

    async def _reserve(self, user_id: str, persona: str) -> Session:
        try:
            return await self._store.reserve(user_id, persona)
        except SessionStoreError as error:
            self._store_failed(error)
            return Session(user_id, persona)

    async def _with_agent(self, session: Session, language: str | None, letta: LettaPort) -> Session:
        agent = await self._adopt(session, letta)
        if agent is None:
            agent = await letta.create_agent(self._spec(session.user_id, session.persona, language))
            _log.info("agent_created", agent_id=agent.agent_id, persona=session.persona)
        return await self._confirm(replace(session, agent_id=agent.agent_id))

    async def _adopt(self, session: Session, letta: LettaPort) -> AgentRef | None:
        agents = await letta.find_agents(_tags(session.user_id, session.persona))
        if not agents:
            return None
        if len(agents) > 1:
            twins = [agent.agent_id for agent in agents]
            _log.warning("agent_twins", agent_ids=twins, chosen=twins[0], persona=session.persona)
        _log.info("agent_adopted", agent_id=agents[0].agent_id, persona=session.persona)
        return agents[0]

    async def _confirm(self, session: Session) -> Session:
        """Write the agent down. Only what the store has is remembered, so that a user's choice in there counts."""
        try:
            saved = await self._saved(session)
        except SessionStoreError as error:
            self._store_failed(error)
            return session
        self._remember(saved)
        return saved

    async def _saved(self, session: Session) -> Session:
        try:
            return await self._store.save(session)
        except StaleSession:
            # Somebody else wrote it meanwhile, an operator say; the agent joins what is there now.
            current = await self._store.reserve(session.user_id, session.persona)
            return await self._store.save(replace(current, agent_id=session.agent_id))

    async def _touch(self, session: Session) -> None:
        now = time.monotonic()
        if now - self._touched.get(session.session_id, -_TOUCH_SECONDS) < _TOUCH_SECONDS:
            return
        if len(self._touched) >= self._cached:
            self._touched.clear()
        self._touched[session.session_id] = now
        try:
            await self._store.touch([session.session_id])
        except SessionStoreError as error:
            self._store_failed(error)

    def _remember(self, session: Session) -> None:
        self._sessions[session.user_id, session.persona] = session
        self._sessions.move_to_end((session.user_id, session.persona))
        while len(self._sessions) > self._cached:
            self._sessions.popitem(last=False)

    def _store_failed(self, error: SessionStoreError) -> None:
        if self.store_error is None:
            _log.error("session_store_away", error=str(error))
        self.store_error = str(error)

    def _spec(self, user_id: str, persona: str, language: str | None) -> AgentSpec:
        settings = self._settings
        templates = settings.personas[self.persona(persona)]
        blocks = tuple(
            Block(label, self._in_language(texts, language), limit=settings.block_limit)
            for label, texts in (("persona", templates.persona), ("human", templates.human))
        )
        digest = hashlib.sha256(f"{user_id}\0{persona}".encode()).hexdigest()[:24]
        return AgentSpec(
            name=f"bridge-{digest}",
            tags=_tags(user_id, persona),
            model=settings.model,
            embedding=settings.embedding,
            agent_type=settings.agent_type,
            blocks=blocks,
            tools=settings.tools,
            context_window=settings.context_window,
        )

    def _in_language(self, texts: Mapping[str, str], language: str | None) -> str:
        for wanted in (language or "", (language or "")[:2].lower(), self._settings.language):
            if wanted in texts:
                return texts[wanted]
        return next(iter(texts.values()), "")


def _tags(user_id: str, persona: str) -> tuple[str, ...]:
    return ("bridge", f"user:{user_id}", f"persona:{persona}")
