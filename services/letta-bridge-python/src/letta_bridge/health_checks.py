"""The checks behind ``/readyz``: each asks one dependency, and answers in time whatever hangs.

Letta and the sessions only degrade the bridge: there is a fallback.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias

from letta_bridge.agents.session_manager import SessionManager
from letta_bridge.agents.tenant_claim import TenantClaim
from letta_bridge.consent.replicas import ChoiceReplicas
from letta_bridge.journal import Journal
from letta_bridge.letta import LettaServers
from letta_bridge.request_queue import QueueStatus
from letta_bridge.turn.intake import Intake
from letta_bridge.vectors.worker import VectorWorker
from shared_utils.observability.health import Check
from shared_utils.redis.connection import CONNECTION_ERRORS
from shared_utils.redis.failures import explain

_CHECK_SECONDS: Final = 2.0
"""Time limit of a check; a slower dependency counts as unavailable."""

DependencyCheck: TypeAlias = Callable[[], Awaitable[Sequence[Check]]]
"""Asks one dependency; answers within ``_CHECK_SECONDS``, and raises nothing."""


class HealthChecks:
    """A bridge's health; see :class:`shared_utils.observability.health.HealthSource`. It keeps no state.

    Args:
        intake: takes turns, or is stopping.
        dependencies: one check each, in the order in which the page shows them.
        summary: the figures of ``/health``.
    """

    def __init__(
        self,
        intake: Intake,
        dependencies: Sequence[DependencyCheck],
        summary: Callable[[], Awaitable[Mapping[str, Any]]],
    ) -> None:
        self._intake = intake
        self._dependencies = dependencies
        self._summary = summary

    def own_checks(self) -> list[Check]:
        """What the bridge knows by itself."""
        stopping, lack = self._intake.stopping, self._intake.resource_error
        return [
            Check("intake", ok=not stopping, detail="draining" if stopping else "taking", required=True),
            # Required: the bridge takes nothing meanwhile, and an upgrade must not go on to the next bridge.
            Check("resources", ok=lack is None, detail=lack or "enough for a turn", required=True),
        ]

    async def checks(self) -> list[Check]:
        """Each dependency."""
        # At once: several that hang together would outlast a probe's or a scrape's patience.
        answers = await asyncio.gather(*(check() for check in self._dependencies))
        return [check for answer in answers for check in answer]

    async def all_checks(self) -> list[Check]:
        """What a scrape tells."""
        return [*await self.checks(), *self.own_checks()]

    async def summary(self) -> Mapping[str, Any]:
        """What an operator looks at first."""
        return await self._summary()


def redis_check(ping: Callable[[], Awaitable[object]], intake: Intake) -> DependencyCheck:
    """Whether Redis answers ``ping`` and does what the intake asks of it."""

    async def check() -> list[Check]:
        trouble = intake.redis_error
        try:
            async with asyncio.timeout(_CHECK_SECONDS):
                await ping()
        except CONNECTION_ERRORS as error:
            trouble = trouble or explain(error)
        return [Check("redis", ok=trouble is None, detail=trouble or "processes commands", required=True)]

    return check


def letta_check(servers: LettaServers, urls: Sequence[str]) -> DependencyCheck:
    """Whether each Letta server answers: ``letta``, or ``letta-1``, ``letta-2`` … of several."""
    names = ["letta"] if len(urls) == 1 else [f"letta-{number}" for number in range(1, len(urls) + 1)]

    async def check_server(name: str, url: str) -> Check:
        server = next(server for server in servers if server.name == url)
        try:
            async with asyncio.timeout(_CHECK_SECONDS):
                version = await server.port.health()
        except Exception as error:  # noqa: BLE001  # whatever it is, the health page must tell it
            return Check(name, ok=False, detail=f"{url}: {str(error) or 'no answer in time'}")
        return Check(name, ok=True, detail=f"{url}: version {version}, breaker {server.breaker.state.value}")

    async def check() -> list[Check]:
        return list(await asyncio.gather(*map(check_server, names, urls)))

    return check


def sessions_check(sessions: SessionManager) -> DependencyCheck:
    """Whether the session store answers."""

    async def check() -> list[Check]:
        try:
            async with asyncio.timeout(_CHECK_SECONDS):
                await sessions.look()
        except TimeoutError:
            return [Check("sessions", ok=False, detail="the store does not answer in time")]
        error = sessions.store_error
        return [Check("sessions", ok=error is None, detail=error or "the store answers")]

    return check


def session_file_check(ask: Callable[[], Awaitable[str | None]]) -> DependencyCheck:
    """Whether the session file can be written; ``ask`` says why not."""

    async def check() -> list[Check]:
        try:
            async with asyncio.timeout(_CHECK_SECONDS):
                trouble = await ask()
        except TimeoutError:
            trouble = "the session file cannot be written in time"
        return [Check("session_file", ok=trouble is None, detail=trouble or "can be written")]

    return check


def tenant_check(tenant: TenantClaim, name: str) -> DependencyCheck:
    """Whether this queue's bridges may use the agents of the tenant."""

    async def check() -> list[Check]:
        trouble = tenant.last_error
        detail = trouble or f"claim on the tenant '{name}': {tenant.state.value}"
        return [Check("tenant", ok=trouble is None, detail=detail, required=True)]

    return check


def consent_check(choices: ChoiceReplicas) -> DependencyCheck:
    """Whether users' choices are the same in every replica."""
    return _trouble_check("consent", lambda: choices.last_error, "the replicas of users' choices are equal")


def journal_check(journal: Journal) -> DependencyCheck:
    """Whether turns get into the database."""
    return _trouble_check("journal", lambda: journal.last_error, "the journal is written, by this bridge or another")


def vectors_check(worker: VectorWorker) -> DependencyCheck:
    """Whether the vectors follow the turns and passages."""
    return _trouble_check("vectors", lambda: worker.last_error, "synchronised, by this bridge or another")


def answers_check(status: Callable[[], Awaitable[QueueStatus | None]]) -> DependencyCheck:
    """Who answered lately; no check while the queue's figures are unknown, which Redis's own check reports."""

    async def check() -> list[Check]:
        known = await status()
        return [] if known is None else [Check("answers", ok=not known.recent.in_trouble, detail=known.recent.sentence)]

    return check


def _trouble_check(name: str, trouble: Callable[[], str | None], well: str) -> DependencyCheck:
    """A part of the bridge that knows its own trouble; ``well`` is the detail while there is none."""

    async def check() -> list[Check]:
        found = trouble()
        return [Check(name, ok=found is None, detail=found or well)]

    return check
