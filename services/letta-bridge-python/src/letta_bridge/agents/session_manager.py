"""Finds the agent of a user: a cache of sessions, kept consistent with the store."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping
from datetime import datetime, timedelta
from typing import Final

from letta_bridge.agents.agent_maker import CLAIM_SECONDS, AgentMaker
from letta_bridge.agents.agent_spec import agent_tags
from letta_bridge.agents.model_parameters import AgentParameters, model_parameters
from letta_bridge.agents.opt_out_tags import TaggedOptOuts
from letta_bridge.agents.tenant_claim import TenantClaim
from letta_bridge.consent import Consent
from letta_bridge.letta.port import AgentRef, LettaAgents
from letta_bridge.request_queue.creation_leases import CreationLeases
from letta_bridge.request_queue.missed_turns import DEFAULT_PERSONA
from letta_bridge.settings import AgentSettings, SessionSettings
from shared_utils.observability import logs
from shared_utils.observability.outage import OncePerOutage
from shared_utils.persistence.erasures.log import user_hash
from shared_utils.persistence.errors import PersistenceError
from shared_utils.persistence.sessions.port import Restoration, Session, SessionStore
from shared_utils.task_end import background

_log = logs.get("letta_bridge.session_manager")
_CHANGES_POLL_SECONDS: Final = 3.0
"""Seconds until changes of other bridges or operators take effect here."""
_LAST_SEEN_WRITE_SECONDS: Final = 30.0
"""Seconds between two records of used sessions."""
_MAX_LOGGED_SESSION_IDS: Final = 20
"""Unreadable rows in one log line."""


class SessionManager:
    """User and persona → session and agent.

    Args:
        store: the sessions; is closed with the manager.
        agents: properties of new agents.
        sessions: how long they last, and how many are cached in memory.
        tenant: owner of the users and agents.
        owner: unique name of this bridge.
        claim: seconds after which another bridge may continue the creation of an agent for a killed one.
        creation_leases: serialise attempts to create an agent, across all bridges; by default in this process only.
        consent: decides whether an opt-out found in an agent's tags still holds; without it every opt-out does.
        opt_outs: opt-outs in the tags of agents that sessions name; None reads only the tags of agents that are
            searched for.
        claim_on_tenant: whether this queue may use the tenant's agents; None for a sharded tenant.
    """

    def __init__(
        self,
        store: SessionStore,
        agents: AgentSettings,
        sessions: SessionSettings | None = None,
        *,
        tenant: str = "",
        owner: str | None = None,
        claim: float = CLAIM_SECONDS,
        creation_leases: CreationLeases | None = None,
        consent: Consent | None = None,
        opt_outs: TaggedOptOuts | None = None,
        claim_on_tenant: TenantClaim | None = None,
    ) -> None:
        self.store = store
        self.restored: Restoration | None = None
        """The result of the last restore; None before the first."""
        self._agents = agents
        self._tenant = tenant
        self._opt_outs = opt_outs
        self._claim_on_tenant = claim_on_tenant
        self._settings = sessions or SessionSettings()
        self._parameters = AgentParameters(model_parameters(agents), remembered=self._settings.cached)
        self._maker = AgentMaker(
            store,
            agents,
            tenant=tenant,
            owner=owner or secrets.token_hex(8),
            expires_in_hours=self._settings.expires_in_hours,
            claim=claim,
            leases=creation_leases,
            honours=consent.honours_opt_out if consent else None,
        )
        self._sessions: OrderedDict[tuple[str, str], Session] = OrderedDict()
        self._used: dict[str, tuple[tuple[str, str], int]] = {}
        self._changed_at: datetime | None = None
        self._store_outage = OncePerOutage()

    @property
    def store_error(self) -> str | None:
        """Why the last access to the store failed or was degraded; None while it works."""
        return self._store_outage.last_error or self.store.last_error

    def persona(self, name: str | None) -> str:
        """The configured persona of this name, or ``default``."""
        return name if name in self._agents.personas else DEFAULT_PERSONA

    def other_persona(self, name: str | None) -> str | None:
        """The persona that a bridge with other settings would choose for this name; None if it is the same one."""
        if not name or name == DEFAULT_PERSONA:
            return None
        return DEFAULT_PERSONA if name in self._agents.personas else name

    async def agents_of(self, user_id: str, persona: str, letta: LettaAgents) -> list[AgentRef]:
        """Every agent with the tags of user and persona, regardless of the sessions.

        Raises:
            LettaError: Letta could not be asked.
        """
        return await letta.find_agents(agent_tags(self._tenant, user_id, persona))

    async def session(self, user_id: str, persona: str) -> Session | None:
        """The user's session, if there is one; None also while the store is away."""
        key = (user_id, persona)
        session = self._sessions.get(key)
        if session is not None:
            self._sessions.move_to_end(key)
            return session
        with self._store_tolerated():
            session = await self.store.find(user_id, persona)
        if session is not None:
            self._remember(session)
        return session

    async def reread(self, session: Session) -> Session | None:
        """The session as currently stored, bypassing the cache; unchanged while the store is away."""
        stored: Session | None = session
        with self._store_tolerated():
            stored = await self.store.find(session.user_id, session.persona)
        if stored is None:
            self.forget(session.user_id, session.persona)
        elif stored is not session:
            self._remember(stored)
        return stored

    def known_session(self, user_id: str, persona: str) -> Session | None:
        """The user's session, if it has an agent and nothing must be looked up; None: call :meth:`agent_for`."""
        if self._claim_on_tenant is not None and not self._claim_on_tenant.held:
            return None
        if self._opt_outs is not None and self._opt_outs.may_concern(user_id):
            return None
        key = (user_id, persona)
        session = self._sessions.get(key)
        if session is None or session.agent_id is None or not self._parameters.are_known(session.agent_id):
            return None
        self._sessions.move_to_end(key)
        return session

    def agent_used(self, session: Session) -> str:
        """The session's agent, which is counted as used."""
        if session.agent_id is None:
            raise AssertionError("a session with an agent has its id")
        _, messages = self._used.get(session.session_id, (None, 0))
        self._used[session.session_id] = ((session.user_id, session.persona), messages + 1)
        return session.agent_id

    async def agent_for(self, user_id: str, persona: str, language: str | None, letta: LettaAgents) -> str:
        """The id of the user's agent, which is created if there is none.

        Raises:
            LettaError: Letta could not be asked.
            AgentGone: the session's agent does not exist any more.
            OptedOut: the tags of the user's agents hold an opt-out that is still valid.
            TenantTaken: another queue serves the tenant.
        """
        if self._claim_on_tenant is not None:
            await self._claim_on_tenant.require(letta)
        if self._opt_outs is not None:
            await self._opt_outs.require(user_id, letta)
        session = await self.session(user_id, persona)
        if session is None or session.agent_id is None:
            session = await self._with_agent(user_id, persona, language, letta)
        agent_id = self.agent_used(session)
        await self._parameters.bring_up_to_date(agent_id, letta)
        return agent_id

    async def replace_agent(
        self, user_id: str, persona: str, language: str | None, letta: LettaAgents, gone: str
    ) -> str:
        """The user's agent after Letta said that ``gone`` does not exist any more."""
        _log.warning("agent_gone", agent_id=gone, persona=persona)
        self.forget(user_id, persona)
        session = await self.session(user_id, persona)
        if session is not None and session.agent_id == gone:
            self.forget(user_id, persona)
            with self._store_tolerated():
                await self._maker.release(session, gone)
        return await self.agent_for(user_id, persona, language, letta)

    def forget(self, user_id: str, persona: str) -> None:
        """Drop a session from the cache, so that it is read from the store again."""
        self._sessions.pop((user_id, persona), None)

    def forget_users(self, hashes: set[str]) -> None:
        """Drop the sessions of users whose id has one of these SHA-256 values from the cache."""
        for user_id in {user_id for user_id, _ in self._sessions}:
            if user_hash(user_id) in hashes:
                for key in [key for key in self._sessions if key[0] == user_id]:
                    del self._sessions[key]
        self._used = {session_id: use for session_id, use in self._used.items() if user_hash(use[0][0]) not in hashes}

    async def look(self) -> None:
        """Send the store a small query, so that :attr:`store_error` is up to date."""
        with self._store_tolerated():
            await self.store.find("", DEFAULT_PERSONA)

    async def count(self) -> Mapping[str, int]:
        """Sessions in the store; empty while it is away."""
        with self._store_tolerated():
            return await self.store.count()
        return {}

    async def restore(self) -> Restoration:
        """Read the active sessions into memory; if there are too many, the most recently used ones.

        Raises:
            SessionStoreError: the store is away.
        """
        restored = await self.store.restore(limit=self._settings.cached)
        for session in reversed(restored.sessions):
            known = self._sessions.get((session.user_id, session.persona))
            if known is None or known.version < session.version:
                self._remember(session)
        self.restored = restored
        _log.info("sessions_restored", restored=len(restored.sessions), failed=len(restored.failed))
        if restored.failed:
            _log.error(
                "sessions_unreadable",
                session_ids=sorted(restored.failed)[:_MAX_LOGGED_SESSION_IDS],
                failed=len(restored.failed),
            )
        return restored

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Keep cache and store consistent, and clean up; at the end, record which sessions were used."""
        try:
            async with background(self._upkeep()):
                yield
        finally:
            await self.touch_used()

    async def touch_used(self) -> None:
        """Record in the store which sessions were used since the last call, and drop those that it no longer has."""
        used, self._used = self._used, {}
        if not used:
            return
        messages = {session_id: count for session_id, (_, count) in used.items()}
        hours = self._settings.expires_in_hours if self._settings.sliding else None
        missed = None
        with self._store_tolerated():
            missed = await self.store.touch(list(used), messages=messages, expires_in_hours=hours)
        if missed is None:
            for session_id, (key, count) in used.items():
                _, since = self._used.get(session_id, (key, 0))
                self._used[session_id] = (key, count + since)
            return
        for session_id in missed:
            self.forget(*used[session_id][0])

    async def follow(self) -> None:
        """Drop sessions from the cache that were written since the last call, by other bridges or this one."""
        with self._store_tolerated():
            keys, self._changed_at = await self.store.changed(self._changed_at)
            for key in keys:
                self.forget(*key)

    async def clean_up(self) -> None:
        """End expired sessions, remove those ended long ago."""
        with self._store_tolerated():
            done = await self.store.cleanup(grace=timedelta(hours=self._settings.deleted_retention_hours))
            if done.ended or done.removed:
                _log.info("sessions_cleaned_up", ended=done.ended, removed=done.removed)

    async def close(self) -> None:
        """Close the store."""
        await self.store.close()

    async def _upkeep(self) -> None:
        await self.follow()  # first, so that no write during the reading is missed
        with self._store_tolerated():
            await self.restore()
        touched = cleaned = time.monotonic()
        while True:
            await asyncio.sleep(_CHANGES_POLL_SECONDS)
            await self.follow()
            if self.restored is None:
                with self._store_tolerated():
                    await self.restore()
            if time.monotonic() - touched >= _LAST_SEEN_WRITE_SECONDS:
                await self.touch_used()
                touched = time.monotonic()
            if time.monotonic() - cleaned >= self._settings.cleanup_interval_seconds:
                await self.clean_up()
                cleaned = time.monotonic()

    async def _with_agent(self, user_id: str, persona: str, language: str | None, letta: LettaAgents) -> Session:
        with self._store_tolerated():
            session = await self._maker.session(user_id, persona, language, letta)
            self._remember(session)
            return session
        # Not cached: once the store is back, the user's choice in it counts.
        return await self._maker.without_store(user_id, persona, language, letta)

    def _remember(self, session: Session) -> None:
        key = (session.user_id, session.persona)
        self._sessions[key] = session
        self._sessions.move_to_end(key)
        while len(self._sessions) > self._settings.cached:
            self._sessions.popitem(last=False)

    def _store_tolerated(self) -> contextlib.AbstractContextManager[None, bool]:
        """Suppress failures of the store inside the block, and note each outcome."""
        return self._store_outage.tolerating(
            PersistenceError, lambda reason: _log.error("session_store_away", error=reason)
        )
