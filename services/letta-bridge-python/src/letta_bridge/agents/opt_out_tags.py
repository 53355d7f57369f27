"""A user's opt-out in the tags of the user's agents: the last replica if database and Redis are lost or outdated.

The tags of a user's agents are read whenever an agent is found by its tags, so they hold for a new database and a new
Redis. A database restored from a backup names agents, so the bridge does not search for them by tags. For these users,
every bridge reads the tags of all agents at its start and after Redis has lost the choices.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from typing import Final

from letta_bridge.agents.agent_spec import (
    OPT_OUT_TAG,
    bridge_tag,
    opt_out_in,
    opt_out_tag,
    opt_out_tags_in,
    user_tags,
    users_in,
)
from letta_bridge.consent import Consent
from letta_bridge.errors import BreakerOpen, LettaError, OptedOut, TenantTaken
from letta_bridge.letta.port import LettaAgents
from shared_utils.observability import logs
from shared_utils.persistence.choices.port import Choice, user_key
from shared_utils.redis.connection import CONNECTION_ERRORS, retry_until_available
from shared_utils.task_end import background

_log = logs.get("letta_bridge.opt_out_tags")
_TAG_WRITE_TIMEOUT_SECONDS: Final = 5.0
"""How long a choice waits for Letta; it is valid without the tags."""
_TAG_POLL_SECONDS: Final = 1.0
"""Between two looks in the background at whether the tags have to be read."""

Allowed = Callable[[LettaAgents], Awaitable[None]]
"""Raises TenantTaken while another queue's users have the tenant's agents."""

ForgetMissed = Callable[[str], Awaitable[object]]
"""Given a user's id."""


async def always_allowed(_letta: LettaAgents) -> None:
    """For callers that have already compared the claims."""


class OptOutTags:
    """The opt-out tags of all users' agents.

    Args:
        letta: returns a server that may be called now; raises BreakerOpen if there is none.
        tenant: name of the tenant whose agents are tagged.
        allowed: asked before any agent is.
    """

    def __init__(self, letta: Callable[[], LettaAgents], tenant: str, allowed: Allowed = always_allowed) -> None:
        self._letta = letta
        self._tenant = tenant
        self._allowed = allowed

    async def write(self, user_id: str, choice: Choice) -> bool:
        """Update the tags of a user's agents; False if Letta is away, or they are another queue's."""
        wanted = set() if choice.permanent_memory else {opt_out_tag(choice)}
        try:
            async with asyncio.timeout(_TAG_WRITE_TIMEOUT_SECONDS):
                letta = self._letta()
                await self._allowed(letta)
                for agent in await letta.find_agents(user_tags(self._tenant, user_id)):
                    held = set(opt_out_tags_in(agent.tags))
                    latest = opt_out_in(user_id, agent.tags)
                    if latest is not None and latest.beats(choice):
                        continue  # a choice made after this one was quicker to get here
                    if held != wanted:
                        await letta.retag(agent.agent_id, add=wanted - held, remove=held - wanted)
        except (LettaError, BreakerOpen, TenantTaken, TimeoutError) as error:
            _log.warning("opt_out_tags_failed", error=str(error) or "no answer in time")
            return False
        return True


class TaggedOptOuts:
    """Opt-outs in the tags of a tenant's agents, merged into the replicas of users' choices.

    Args:
        consent: stores the opt-outs, and has later opt-ins.
        tenant: name of the tenant whose agents are read.
        forget_missed: drops a user's missed turns, because they may be from after the opt-out. It is repeated while
            Redis is away.
    """

    def __init__(self, consent: Consent, tenant: str, forget_missed: ForgetMissed | None = None) -> None:
        self._consent = consent
        self._tenant = tenant
        self._forget_missed = forget_missed
        self._read_for = -1
        """Number of generations of the replica in Redis that this bridge had seen when it read the tags last."""
        self._reading = asyncio.Lock()
        self._found: dict[str, Choice] = {}
        """User key → opt-out, for turns whose verdict is older than the reading; opted-out users bound it."""

    async def require(self, user_id: str, letta: LettaAgents) -> None:
        """Raise if the user's agents are tagged with an opt-out that still holds. Reads all tags if they are due.

        Raises:
            OptedOut: they are.
            LettaError: the tags are due and cannot be read.
        """
        await self._read(letta)
        if not self._found:
            return
        opt_out = self._found.get(user_key(user_id))
        if opt_out is None:
            return
        if await self._consent.honours_opt_out(user_id, opt_out):
            raise OptedOut
        self._found.pop(opt_out.user_key, None)

    def may_concern(self, user_id: str) -> bool:
        """Whether :meth:`require` has anything to look up for this user."""
        return self._due() or (bool(self._found) and user_key(user_id) in self._found)

    @contextlib.asynccontextmanager
    async def running(self, letta: Callable[[], LettaAgents], allowed: Allowed) -> AsyncIterator[None]:
        """Read the tags in the background when they are due, so that no turn has to wait for it.

        Args:
            letta: returns a server; raises BreakerOpen while the circuit breaker is open.
            allowed: asked before any agent is.
        """
        async with background(self._keep_read(letta, allowed)):
            yield

    async def _keep_read(self, letta: Callable[[], LettaAgents], allowed: Allowed) -> None:
        while True:
            if self._due() and self._consent.replicas.generations:
                with contextlib.suppress(LettaError, BreakerOpen, TenantTaken, *CONNECTION_ERRORS):
                    server = letta()
                    await allowed(server)
                    await self._read(server)
            await asyncio.sleep(_TAG_POLL_SECONDS)

    def _due(self) -> bool:
        return self._read_for < self._consent.replicas.generations

    async def _read(self, letta: LettaAgents) -> None:
        if not self._due():
            return
        async with self._reading:
            if not self._due():
                return
            generations = self._consent.replicas.generations
            newest = await self._newest(letta)
            unheard = await self._consent.unheard(newest)
            # Before any replica has the opt-out: a bridge that was killed after that would never repeat this.
            await self._forget(unheard)
            taken_over = await self._consent.replicas.take_over(list(newest.values()))
            await self._forget(unheard)
            if taken_over:
                _log.warning("opt_outs_found_in_tags", users=taken_over)
            self._found = {opt_out.user_key: opt_out for opt_out in newest.values()}
            self._read_for = generations

    async def _newest(self, letta: LettaAgents) -> dict[str, Choice]:
        """User id → the newest opt-out in the tags of the user's agents."""
        newest: dict[str, Choice] = {}
        for agent in await letta.find_tagged_agents(OPT_OUT_TAG):
            if bridge_tag(self._tenant) not in agent.tags:
                continue
            for user_id in users_in(agent.tags):
                opt_out = opt_out_in(user_id, agent.tags)
                if opt_out is not None and opt_out.beats(newest.get(user_id)):
                    newest[user_id] = opt_out
        return newest

    async def _forget(self, users: Collection[str]) -> None:
        if (forget := self._forget_missed) is not None:
            for user_id in users:
                await retry_until_available(functools.partial(forget, user_id))
