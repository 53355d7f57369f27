"""Finds or creates a user's agent, so that a user has one agent across all bridges, even if a bridge is killed.

The steps: reserve the session, claim it, search Letta by the user's tags, acquire the creation lease, create the agent,
search again, save the agent in the session. Creating an agent is not idempotent: Letta completes a request whose
connection was lost, and lists the agent late. After a failure with an unknown outcome, no other attempt begins until
Letta must have listed that agent. If agents appear even later, ``agent_selection`` chooses among them by content.

A bridge that is killed in between leaves a claim and a lease, which expire, and perhaps an agent, which the next search
finds. No database connection is held during requests to Letta. While the store is away, only the tags decide.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Self
from weakref import WeakValueDictionary

from letta_bridge.agents.agent_selection import Candidate, Selection, candidates, select
from letta_bridge.agents.agent_spec import Owner, agent_spec, agent_tags, opt_out_in, opt_out_tags_in
from letta_bridge.errors import LettaError, LettaRejected, LettaUnavailable, OptedOut
from letta_bridge.letta.port import AgentContents, AgentRef, LettaAgents
from letta_bridge.request_queue.creation_leases import (
    LISTED_WITHIN_SECONDS,
    CreationLease,
    CreationLeases,
    InMemoryCreationLeases,
)
from letta_bridge.settings import AgentSettings
from shared_utils.observability import logs
from shared_utils.persistence.choices.port import Choice
from shared_utils.persistence.errors import PersistenceError
from shared_utils.persistence.sessions.port import Session, SessionStore, SessionStoreError, StaleSession
from shared_utils.task_end import end_and_log

_log = logs.get("letta_bridge.agent_maker")
CLAIM_SECONDS: Final = 30.0
"""Seconds after which a killed bridge's claim expires; a running bridge renews its claim."""
_INCOMPLETE_AGENTS: Final = 1000
"""Incomplete agents that are remembered, those seen last."""
_SEARCH_MIN_SECONDS, _SEARCH_MAX_SECONDS = 0.05, 1.0
"""Between two searches while another attempt may still produce the agent."""
_SAVE_ATTEMPTS: Final = 5
_ENDED_SESSIONS: Final = 100
"""Sessions of one user that are searched for the agent they name."""

Honours = Callable[[str, Choice], Awaitable[bool]]
"""(user, opt-out found in an agent's tags) → whether the opt-out is still valid."""


async def _honour_every_opt_out(_user_id: str, _opt_out: Choice) -> bool:
    return True


@dataclass(slots=True)
class _Making:
    """The agent of one session, being found or created."""

    session: Session
    language: str | None
    letta: LettaAgents
    lease: CreationLease
    uncertain: bool = False
    """Letta may still be creating an agent of this attempt."""

    @classmethod
    def of(cls, session: Session, language: str | None, letta: LettaAgents) -> Self:
        lease = CreationLease(session.user_id, session.persona, secrets.token_hex(8))
        return cls(session, language, letta, lease)


class AgentMaker:
    """Makes agents for sessions.

    Args:
        store: where sessions lie.
        settings: the model, personas and other properties of new agents.
        tenant: owner of the agents.
        owner: unique name of this bridge in claims.
        expires_in_hours: when a session ends after it got its agent.
        claim: seconds a claim lasts without being renewed.
        leases: serialise attempts to create an agent, across all bridges; by default in this process only.
        honours: whether an opt-out found in an agent's tags is still valid; by default every one is.
    """

    def __init__(
        self,
        store: SessionStore,
        settings: AgentSettings,
        *,
        tenant: str = "",
        owner: str,
        expires_in_hours: float | None = None,
        claim: float = CLAIM_SECONDS,
        leases: CreationLeases | None = None,
        honours: Honours | None = None,
    ) -> None:
        self._store = store
        self._settings = settings
        self._tenant = tenant
        self._owner = owner
        self._hours = expires_in_hours
        self._claim_seconds = claim
        self._leases = leases or InMemoryCreationLeases()
        self._honours = honours or _honour_every_opt_out
        self._incomplete_since: dict[str, float] = {}
        """Agent id → when this bridge saw it first without its system message, by the monotonic clock."""
        self._making: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()

    async def session(self, user_id: str, persona: str, language: str | None, letta: LettaAgents) -> Session:
        """The user's session, with its agent in the store.

        Raises:
            LettaError: Letta could not be asked.
            OptedOut: the tags of the user's agents hold an opt-out that is still valid.
            SessionStoreError: the store is unavailable; :meth:`without_store` can still find or make the agent.
        """
        key = (user_id, persona)
        async with self._making.setdefault(key, asyncio.Lock()):  # all turns of this bridge share the claim
            async for _ in _searches():
                session = await self._store.reserve(user_id, persona)
                if session.agent_id is not None:
                    return session
                if await self._store.claim(session.session_id, self._owner, self._claim_seconds):
                    async with self._renewed(session):
                        return await self._made(_Making.of(session, language, letta))
        raise AssertionError("the search ends with a claim")

    async def without_store(self, user_id: str, persona: str, language: str | None, letta: LettaAgents) -> Session:
        """A session that is not stored, with the user's agent.

        Raises:
            LettaError: Letta could not be asked.
            OptedOut: see :meth:`session`.
        """
        session = Session(user_id, persona)
        agent_id, _ = await self._found_or_made(_Making.of(session, language, letta))
        return replace(session, agent_id=agent_id)

    async def release(self, session: Session, agent_id: str) -> None:
        """Remove a deleted agent from a session, unless that has been done already.

        Raises:
            SessionStoreError: the store is away.
        """
        if session.agent_id == agent_id:
            with contextlib.suppress(StaleSession):
                await self._store.save(replace(session, agent_id=None))

    async def _made(self, making: _Making) -> Session:
        session = making.session
        try:
            agent_id, new = await self._found_or_made(making)
        except (LettaError, OptedOut):
            if not making.uncertain:  # else a bridge of the previous release, which has no leases, would start again
                with contextlib.suppress(SessionStoreError):
                    await self._store.claim(session.session_id, self._owner, 0)
            raise
        saved = await self._confirmed(session, agent_id)
        if new and saved.agent_id != agent_id:
            await self._remove_if_empty(agent_id, making)
        return saved

    async def _found_or_made(self, making: _Making) -> tuple[str, bool]:
        """The agent's id, and whether this call created it."""
        async for _ in _searches():
            found = await self._look(making)
            if found.chosen is not None:
                _log.info("agent_adopted", agent_id=found.chosen.agent_id, persona=making.session.persona)
                return found.chosen.agent_id, False
            if self._may_be_completed(found.incomplete):
                continue
            if await self._leases.acquire(making.lease):
                for incomplete in found.incomplete:
                    await self._remove_if_empty(incomplete.agent_id, making)
                return await self._created(making)
        raise AssertionError("the search ends with an agent or a lease")

    def _may_be_completed(self, incomplete: Sequence[Candidate]) -> bool:
        """Whether one of them is so new that Letta may still be creating it.

        The time counts from this bridge's first search, across turns: one turn may end before Letta's time is over.
        """
        now = time.monotonic()
        since = [self._incomplete_since.setdefault(one.agent_id, now) for one in incomplete]
        while len(self._incomplete_since) > _INCOMPLETE_AGENTS:
            del self._incomplete_since[next(iter(self._incomplete_since))]
        return any(now - began < LISTED_WITHIN_SECONDS for began in since)

    async def _created(self, making: _Making) -> tuple[str, bool]:
        session, letta, lease = making.session, making.letta, making.lease
        whose = Owner(self._tenant, session.user_id, session.persona)
        spec = agent_spec(self._settings, whose, making.language, attempt=lease.token)
        try:
            made = await letta.create_agent(spec)
        except LettaError as error:
            # A refused connection or an invalid request created nothing. Any other failure may have created an agent,
            # or a part of one; a cancelled request may, too, and its lease lasts longest.
            refused = isinstance(error, LettaUnavailable) and error.unopened
            making.uncertain = not refused and not isinstance(error, LettaRejected)
            await (self._leases.mark_uncertain if making.uncertain else self._leases.release)(lease)
            raise
        _log.info("agent_created", agent_id=made.agent_id, persona=session.persona)
        chosen_id = made.agent_id
        with contextlib.suppress(LettaError):  # the agent exists; another search can tell whether it is the only one
            agents = await letta.find_agents(self._tags(session))
            if [agent.agent_id for agent in agents] != [made.agent_id]:
                found = await self._selected(making, agents)
                if found.chosen is not None and found.chosen.agent_id != made.agent_id:
                    chosen_id = found.chosen.agent_id
                    await self._remove_if_empty(made.agent_id, making)
        await self._leases.release(lease)
        return chosen_id, chosen_id == made.agent_id

    async def _look(self, making: _Making) -> Selection:
        """The user's agent among those that Letta currently lists."""
        agents = await making.letta.find_agents(self._tags(making.session))
        await self._check_opt_out(making, agents)
        if len(agents) == 1:  # the usual case: its content makes no difference
            whole = bool(await making.letta.history(agents[0].agent_id, limit=1))
            return select([Candidate(agents[0], AgentContents(whole, 0, 0, {}, running=False), used=whole)], None)
        return await self._selected(making, agents) if agents else Selection()

    async def _selected(self, making: _Making, agents: Sequence[AgentRef]) -> Selection:
        persona = making.session.persona
        found = select(
            await candidates(making.letta, self._settings, persona, agents), await self._named(making.session)
        )
        if found.chosen is not None and (found.empty or found.conflicting):
            # If several have content, each has a part of the user's history; an operator has to decide.
            log = _log.error if found.conflicting else _log.warning
            log(
                "duplicate_agents",
                persona=persona,
                agent_id=found.chosen.agent_id,
                empty=[one.agent_id for one in found.empty],
                conflicting=[one.agent_id for one in found.conflicting],
            )
        return found

    async def _check_opt_out(self, making: _Making, agents: Sequence[AgentRef]) -> None:
        opt_out = opt_out_in(making.session.user_id, [tag for agent in agents for tag in agent.tags])
        if opt_out is None:
            return
        if await self._honours(making.session.user_id, opt_out):
            raise OptedOut
        for agent in agents:
            if stale := opt_out_tags_in(agent.tags):
                with contextlib.suppress(LettaError):
                    await making.letta.retag(agent.agent_id, remove=stale)

    async def _named(self, session: Session) -> str | None:
        """The agent named by this session, else by the user's most recently used one with this persona."""
        if session.agent_id is not None:
            return session.agent_id
        with contextlib.suppress(PersistenceError):
            page = await self._store.page(limit=_ENDED_SESSIONS, include_inactive=True, user_id=session.user_id)
            named = [one for one in page.sessions if one.persona == session.persona and one.agent_id is not None]
            return named[0].agent_id if named else None
        return None

    async def _confirmed(self, session: Session, agent_id: str) -> Session:
        current = session
        for _ in range(_SAVE_ATTEMPTS):
            try:
                return await self._store.save(replace(current, agent_id=agent_id), expires_in_hours=self._hours)
            except StaleSession:
                # Another writer, for example an operator, changed the session meanwhile; add the agent to its present
                # content.
                current = await self._store.reserve(session.user_id, session.persona)
                if current.agent_id is not None:
                    return current
        raise SessionStoreError(
            f"session {session.session_id} changed at every attempt to store its agent; find out which program "
            f"writes it"
        )

    async def _remove_if_empty(self, agent_id: str, making: _Making) -> None:
        """Delete an agent that this attempt created, or one that was never completed, if it has no content."""
        letta, persona = making.letta, making.session.persona
        with contextlib.suppress(LettaError):
            for one in await candidates(letta, self._settings, persona, [await letta.get_agent(agent_id)]):
                if not one.used:
                    _log.warning("empty_agent_deleted", agent_id=agent_id, persona=persona)
                    await letta.delete_agent(agent_id)

    def _tags(self, session: Session) -> tuple[str, ...]:
        return agent_tags(self._tenant, session.user_id, session.persona)

    @contextlib.asynccontextmanager
    async def _renewed(self, session: Session) -> AsyncIterator[None]:
        async def renew() -> None:
            while True:
                await asyncio.sleep(self._claim_seconds / 3)
                with contextlib.suppress(SessionStoreError):
                    await self._store.claim(session.session_id, self._owner, self._claim_seconds)

        renewing = asyncio.create_task(renew(), name="agent-claim")
        try:
            yield
        finally:
            await end_and_log(renewing)


async def _searches() -> AsyncIterator[None]:
    """Search times: at once, and then at growing intervals without end."""
    pause = _SEARCH_MIN_SECONDS
    while True:
        yield
        await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311  # spreads the looks, no secret
        pause = min(2 * pause, _SEARCH_MAX_SECONDS)
