"""Which agent is this user's: what is known of sessions here, and how it is kept true."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import datetime, timedelta
from typing import Final

from letta_bridge.agents.agent_maker import CLAIM_SECONDS, AgentMaker
from letta_bridge.agents.agent_spec import agent_tags
from letta_bridge.agents.opt_out_tags import TaggedOptOuts
from letta_bridge.agents.tenant_claim import TenantClaim
from letta_bridge.consent import Consent
from letta_bridge.letta.port import AgentRef, LettaAgents
from letta_bridge.request_queue.creation_leases import CreationLeases
from letta_bridge.request_queue.missed_turns import DEFAULT_PERSONA
from letta_bridge.settings import AgentSettings, SessionSettings
from shared_utils.observability import logs
from shared_utils.persistence.erasures.log import user_hash
from shared_utils.persistence.errors import PersistenceError
from shared_utils.persistence.sessions.port import Restoration, Session, SessionStore
from shared_utils.task_end import background

_log = logs.get("letta_bridge.session_manager")
_CHANGES_POLL_SECONDS: Final = 3.0
"""Seconds until what another bridge or an operator wrote counts here."""
_LAST_SEEN_WRITE_SECONDS: Final = 30.0
"""Seconds between two writes of who was here."""
_MAX_LOGGED_SESSION_IDS: Final = 20
"""Unreadable rows in one log line."""


class SessionManager:
    """User and persona → session and agent.

    Args:
        store: where sessions lie; is closed with the manager.
        agents: what an agent is made of.
        sessions: how long they last, and how many are kept in memory.
        tenant: owner of the users and agents.
        owner: names this bridge, like no other.
        claim: seconds after which another bridge may go on where a killed one was making an agent.
        creation_leases: keep attempts to create an agent apart, over all bridges; by default in this process only.
        consent: decides whether an opt-out found in an agent's tags still holds; without it every opt-out does.
        opt_outs: opt-outs in the tags of agents that sessions name; None reads the tags of agents looked for alone.
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
        """What was read into memory last; None before the first time."""
        self._agents = agents
        self._tenant = tenant
        self._opt_outs = opt_outs
        self._claim_on_tenant = claim_on_tenant
        self._settings = sessions or SessionSettings()
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
        self._error: str | None = None

    @property
    def store_error(self) -> str | None:
        """Why the store was of no or less use the last time it was asked; None while it works."""
        return self._error or self.store.last_error

    def persona(self, name: str | None) -> str:
        """The configured persona of this name, ``default`` where there is none."""
        return name if name in self._agents.personas else DEFAULT_PERSONA

    def other_persona(self, name: str | None) -> str | None:
        """Who answers a task that names this persona at a bridge with other settings; None where nobody else does."""
        if not name or name == DEFAULT_PERSONA:
            return None
        return DEFAULT_PERSONA if name in self._agents.personas else name

    async def agents_of(self, user_id: str, persona: str, letta: LettaAgents) -> list[AgentRef]:
        """Every agent that carries the tags of user and persona, whatever the sessions say.

        Raises:
            LettaError: Letta could not be asked.
        """
        return await letta.find_agents(agent_tags(self._tenant, user_id, persona))

    async def session(self, user_id: str, persona: str) -> Session | None:
        """The user's session where one is known; None also while the store is away."""
        key = (user_id, persona)
        session = self._sessions.get(key)
        if session is not None:
            self._sessions.move_to_end(key)
            return session
        with _Watch(self._store_answered):
            session = await self.store.find(user_id, persona)
        if session is not None:
            self._remember(session)
        return session

    async def reread(self, session: Session) -> Session | None:
        """A session as the store has it now, not as this bridge remembers it; unchanged while the store is away."""
        stored: Session | None = session
        with _Watch(self._store_answered):
            stored = await self.store.find(session.user_id, session.persona)
        if stored is None:
            self.forget(session.user_id, session.persona)
        elif stored is not session:
            self._remember(stored)
        return stored

    async def agent_for(self, user_id: str, persona: str, language: str | None, letta: LettaAgents) -> str:
        """The id of the user's agent, made where there is none.

        Raises:
            LettaError: Letta could not be asked.
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
        if session.agent_id is None:
            raise AssertionError("a session with an agent has its id")
        _, messages = self._used.get(session.session_id, ((user_id, persona), 0))
        self._used[session.session_id] = ((user_id, persona), messages + 1)
        return session.agent_id

    async def replace_agent(
        self, user_id: str, persona: str, language: str | None, letta: LettaAgents, gone: str
    ) -> str:
        """The user's agent after Letta said that ``gone`` does not exist any more."""
        _log.warning("agent_gone", agent_id=gone, persona=persona)
        self.forget(user_id, persona)
        session = await self.session(user_id, persona)
        if session is not None and session.agent_id == gone:
            self.forget(user_id, persona)
            with _Watch(self._store_answered):
                await self._maker.release(session, gone)
        return await self.agent_for(user_id, persona, language, letta)

    def forget(self, user_id: str, persona: str) -> None:
        """Drop what is remembered of a session, so that the store is asked again."""
        self._sessions.pop((user_id, persona), None)

    def forget_users(self, hashes: set[str]) -> None:
        """Drop what is remembered of the users whose id has one of these SHA-256 values."""
        for user_id in {user_id for user_id, _ in self._sessions}:
            if user_hash(user_id) in hashes:
                for key in [key for key in self._sessions if key[0] == user_id]:
                    del self._sessions[key]
        self._used = {session_id: use for session_id, use in self._used.items() if user_hash(use[0][0]) not in hashes}

    async def look(self) -> None:
        """Ask the store for something small, so that :attr:`store_error` is what it says now."""
        with _Watch(self._store_answered):
            await self.store.find("", DEFAULT_PERSONA)

    async def count(self) -> Mapping[str, int]:
        """Sessions in the store; empty while it is away."""
        with _Watch(self._store_answered):
            return await self.store.count()
        return {}

    async def restore(self) -> Restoration:
        """Read the active sessions into memory, the most recently used ones where there are too many.

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
        """Keeps memory and store true to each other, and cleans up; at the end it writes down who was here."""
        try:
            async with background(self._upkeep()):
                yield
        finally:
            await self.touch_used()

    async def touch_used(self) -> None:
        """Tell the store which sessions were used since the last time, and forget those it does not have any more."""
        used, self._used = self._used, {}
        if not used:
            return
        messages = {session_id: count for session_id, (_, count) in used.items()}
        hours = self._settings.expires_in_hours if self._settings.sliding else None
        missed = None
        with _Watch(self._store_answered):
            missed = await self.store.touch(list(used), messages=messages, expires_in_hours=hours)
        if missed is None:
            for session_id, (key, count) in used.items():
                _, since = self._used.get(session_id, (key, 0))
                self._used[session_id] = (key, count + since)
            return
        for session_id in missed:
            self.forget(*used[session_id][0])

    async def follow(self) -> None:
        """Forget what others, or this bridge, wrote since the last time."""
        with _Watch(self._store_answered):
            keys, self._changed_at = await self.store.changed(self._changed_at)
            for key in keys:
                self.forget(*key)

    async def clean_up(self) -> None:
        """End expired sessions, remove those ended long ago."""
        with _Watch(self._store_answered):
            done = await self.store.cleanup(grace=timedelta(hours=self._settings.deleted_retention_hours))
            if done.ended or done.removed:
                _log.info("sessions_cleaned_up", ended=done.ended, removed=done.removed)

    async def close(self) -> None:
        """Close the store."""
        await self.store.close()

    async def _upkeep(self) -> None:
        await self.follow()  # first: what is written from now on is told, whatever is read meanwhile
        with _Watch(self._store_answered):
            await self.restore()
        touched = cleaned = time.monotonic()
        while True:
            await asyncio.sleep(_CHANGES_POLL_SECONDS)
            await self.follow()
            if self.restored is None:
                with _Watch(self._store_answered):
                    await self.restore()
            if time.monotonic() - touched >= _LAST_SEEN_WRITE_SECONDS:
                await self.touch_used()
                touched = time.monotonic()
            if time.monotonic() - cleaned >= self._settings.cleanup_interval_seconds:
                await self.clean_up()
                cleaned = time.monotonic()

    async def _with_agent(self, user_id: str, persona: str, language: str | None, letta: LettaAgents) -> Session:
        with _Watch(self._store_answered):
            session = await self._maker.session(user_id, persona, language, letta)
            self._remember(session)
            return session
        # Not remembered: once the store is back, what a user chose in there counts.
        return await self._maker.without_store(user_id, persona, language, letta)

    def _remember(self, session: Session) -> None:
        key = (session.user_id, session.persona)
        self._sessions[key] = session
        self._sessions.move_to_end(key)
        while len(self._sessions) > self._settings.cached:
            self._sessions.popitem(last=False)

    def _store_answered(self, error: PersistenceError | None) -> None:
        if error is not None and self._error is None:
            _log.error("session_store_away", error=str(error))
        self._error = None if error is None else str(error)


class _Watch:
    """Goes on after what is inside could not be done because of the store."""

    def __init__(self, told: Callable[[PersistenceError | None], None]) -> None:
        self._told = told

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        if isinstance(error, PersistenceError):
            self._told(error)
            return True
        if error is None:
            self._told(None)
        return False
