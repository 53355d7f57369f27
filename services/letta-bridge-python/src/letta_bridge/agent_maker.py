"""Makes a user's agent, so that the user never has two: over all bridges, and whenever one is killed.

Reserve the session, claim the right to make its agent, look in Letta for one with the user's tags, mark the attempt,
make one, look again, write it down. Making an agent is not idempotent: Letta goes on with a request whose connection
was lost, and shows the agent late. So after any failure that leaves its fate open nobody makes another one before that
one had time to show. What shows too late all the same is told apart by what it holds (``agent_selection``).

A bridge killed in between leaves a claim and a mark that end by themselves, and perhaps an agent, which the next one
finds. No database connection is held while Letta works. While the store is away the tags alone decide.
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

from letta_bridge.agent_attempts import SHOWS_WITHIN_SECONDS, AgentAttempts, Attempt, InMemoryAgentAttempts
from letta_bridge.agent_selection import Candidate, Selection, candidates, select
from letta_bridge.agent_spec import Owner, agent_spec, agent_tags, refusal_in, refusal_tags
from letta_bridge.errors import LettaError, LettaRejected, LettaUnavailable, MemoryRefused
from letta_bridge.letta.port import AgentContents, AgentRef, LettaPort
from letta_bridge.settings import AgentSettings
from shared_utils import logs
from shared_utils.persistence.choices import Choice
from shared_utils.persistence.errors import PersistenceError
from shared_utils.persistence.sessions import Session, SessionStore, SessionStoreError, StaleSession

_log = logs.get(__name__)
CLAIM_SECONDS: Final = 30.0
"""Seconds after which a killed bridge's claim is free; a living one renews it."""
_LOOK_MIN_SECONDS, _LOOK_MAX_SECONDS = 0.05, 1.0
"""Between looks whether another bridge, or a lost request, has made the agent."""
_SAVE_ATTEMPTS: Final = 5
_ENDED_SESSIONS: Final = 100
"""Of one user, looked through for the agent that one of them names."""

Heed = Callable[[str, Choice], Awaitable[bool]]
"""Told of (user, refusal) found on an agent; whether the refusal still holds."""


async def _heed_every_refusal(_user_id: str, _refusal: Choice) -> bool:
    return True


@dataclass(slots=True)
class _Making:
    """One session on its way to an agent."""

    session: Session
    language: str | None
    letta: LettaPort
    attempt: Attempt
    doubtful: bool = False
    """Letta may still be making an agent of this attempt."""

    @classmethod
    def of(cls, session: Session, language: str | None, letta: LettaPort) -> Self:
        attempt = Attempt(session.user_id, session.persona, secrets.token_hex(8))
        return cls(session, language, letta, attempt)


class AgentMaker:
    """Makes agents for sessions.

    Args:
        store: where sessions lie.
        settings: what an agent is made of.
        tenant: whose agents they are.
        owner: names this bridge in claims, like no other.
        expires_in_hours: when a session ends after it got its agent.
        claim: seconds a claim lasts without being renewed.
        attempts: marks of attempts, over all bridges.
        heed: whether a refusal of permanent memory that is found on an agent still holds; None: each does.
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
        attempts: AgentAttempts | None = None,
        heed: Heed | None = None,
    ) -> None:
        self._store = store
        self._settings = settings
        self._tenant = tenant
        self._owner = owner
        self._hours = expires_in_hours
        self._claim_seconds = claim
        self._attempts = attempts or InMemoryAgentAttempts()
        self._heed = heed or _heed_every_refusal
        self._making: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()

    async def session(self, user_id: str, persona: str, language: str | None, letta: LettaPort) -> Session:
        """The user's session, with its agent in the store.

        Raises:
            LettaError: Letta could not be asked.
            MemoryRefused: the user's agents say that no agent may remember this user.
            SessionStoreError: the store could not; :meth:`without_store` can still find or make the agent.
        """
        key = (user_id, persona)
        async with self._making.setdefault(key, asyncio.Lock()):  # the claim is the whole bridge's
            async for _ in _looks():
                session = await self._store.reserve(user_id, persona)
                if session.agent_id is not None:
                    return session
                if await self._store.claim(session.session_id, self._owner, self._claim_seconds):
                    async with self._renewed(session):
                        return await self._made(_Making.of(session, language, letta))
        raise AssertionError("looking ends with a claim")

    async def without_store(self, user_id: str, persona: str, language: str | None, letta: LettaPort) -> Session:
        """A session nobody has written down, with the user's agent.

        Raises:
            LettaError: Letta could not be asked.
            MemoryRefused: see :meth:`session`.
        """
        session = Session(user_id, persona)
        agent_id, _ = await self._found_or_made(_Making.of(session, language, letta))
        return replace(session, agent_id=agent_id)

    async def release(self, session: Session, agent_id: str) -> None:
        """Take an agent that is gone from a session, unless somebody has done so.

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
        except (LettaError, MemoryRefused):
            if not making.doubtful:  # else a bridge of the release before, which knows no marks, would begin anew
                with contextlib.suppress(SessionStoreError):
                    await self._store.claim(session.session_id, self._owner, 0)
            raise
        saved = await self._confirmed(session, agent_id)
        if new and saved.agent_id != agent_id:
            await self._remove_if_empty(agent_id, making)
        return saved

    async def _found_or_made(self, making: _Making) -> tuple[str, bool]:
        """The agent's id, and whether it was made just now."""
        half_made_until = time.monotonic() + SHOWS_WITHIN_SECONDS
        async for _ in _looks():
            found = await self._look(making)
            if found.chosen is not None:
                _log.info("agent_adopted", agent_id=found.chosen.agent_id, persona=making.session.persona)
                return found.chosen.agent_id, False
            if found.half_made and time.monotonic() < half_made_until:
                continue
            if await self._attempts.begin(making.attempt):
                for half_made in found.half_made:
                    await self._remove_if_empty(half_made.agent_id, making)
                return await self._created(making)
        raise AssertionError("looking ends with an agent or an attempt")

    async def _created(self, making: _Making) -> tuple[str, bool]:
        session, letta, attempt = making.session, making.letta, making.attempt
        whose = Owner(self._tenant, session.user_id, session.persona)
        spec = agent_spec(self._settings, whose, making.language, attempt=attempt.token)
        try:
            made = await letta.create_agent(spec)
        except LettaError as error:
            # A refused connection or a wrong request made nothing. Whatever else failed may have made an agent, or a
            # part of one; and so may a request that this bridge itself gave up, whose mark ends later still.
            refused = isinstance(error, LettaUnavailable) and error.refused
            making.doubtful = not refused and not isinstance(error, LettaRejected)
            await (self._attempts.doubt if making.doubtful else self._attempts.end)(attempt)
            raise
        _log.info("agent_created", agent_id=made.agent_id, persona=session.persona)
        chosen_id = made.agent_id
        with contextlib.suppress(LettaError):  # the agent is made; whether it is the only one is seen another time
            agents = await letta.find_agents(self._tags(session))
            if [agent.agent_id for agent in agents] != [made.agent_id]:
                found = await self._selected(making, agents)
                if found.chosen is not None and found.chosen.agent_id != made.agent_id:
                    chosen_id = found.chosen.agent_id
                    await self._remove_if_empty(made.agent_id, making)
        await self._attempts.end(attempt)
        return chosen_id, chosen_id == made.agent_id

    async def _look(self, making: _Making) -> Selection:
        """Which agent is the user's, of those in Letta now."""
        agents = await making.letta.find_agents(self._tags(making.session))
        await self._heed_refusal(making, agents)
        if len(agents) == 1:  # most often; what it holds makes no difference
            whole = bool(await making.letta.history(agents[0].agent_id, limit=1))
            return select([Candidate(agents[0], AgentContents(whole, 0, 0, {}, running=False), used=whole)], None)
        return await self._selected(making, agents) if agents else Selection()

    async def _selected(self, making: _Making, agents: Sequence[AgentRef]) -> Selection:
        persona = making.session.persona
        found = select(
            await candidates(making.letta, self._settings, persona, agents), await self._named(making.session)
        )
        if found.chosen is not None and (found.surplus or found.rivals):
            # Where more than one holds something, a part of what the user said is in each: somebody's to mend.
            log = _log.error if found.rivals else _log.warning
            log(
                "duplicate_agents",
                persona=persona,
                agent_id=found.chosen.agent_id,
                surplus=[one.agent_id for one in found.surplus],
                with_content=[one.agent_id for one in found.rivals],
            )
        return found

    async def _heed_refusal(self, making: _Making, agents: Sequence[AgentRef]) -> None:
        refusal = refusal_in(making.session.user_id, [tag for agent in agents for tag in agent.tags])
        if refusal is None:
            return
        if await self._heed(making.session.user_id, refusal):
            raise MemoryRefused
        for agent in agents:
            if stale := refusal_tags(agent.tags):
                with contextlib.suppress(LettaError):
                    await making.letta.retag(agent.agent_id, remove=stale)

    async def _named(self, session: Session) -> str | None:
        """The agent that a session of this user and persona names, the one used last of those that ended."""
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
                # Somebody else wrote it meanwhile, an operator say; the agent joins what is there now.
                current = await self._store.reserve(session.user_id, session.persona)
                if current.agent_id is not None:
                    return current
        raise SessionStoreError(f"session {session.session_id} is written all the time; who does that?")

    async def _remove_if_empty(self, agent_id: str, making: _Making) -> None:
        """Delete an agent of this bridge's own making, or one that was never finished, where it holds nothing."""
        letta, persona = making.letta, making.session.persona
        with contextlib.suppress(LettaError):
            for one in await candidates(letta, self._settings, persona, [await letta.get_agent(agent_id)]):
                if not one.used:
                    _log.warning("surplus_agent_deleted", agent_id=agent_id, persona=persona)
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

        renewing = asyncio.create_task(renew())
        try:
            yield
        finally:
            renewing.cancel()


async def _looks() -> AsyncIterator[None]:
    """Look at once, and then again and again, at growing intervals."""
    pause = _LOOK_MIN_SECONDS
    while True:
        yield
        await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311  # spreads the looks, no secret
        pause = min(2 * pause, _LOOK_MAX_SECONDS)
