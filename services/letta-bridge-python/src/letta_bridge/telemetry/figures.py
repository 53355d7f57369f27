"""Cached figures of the queue and the sessions, for the health page and scrapes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, Final

from letta_bridge import __version__
from letta_bridge.agents.session_manager import SessionManager
from letta_bridge.letta import LettaServers
from letta_bridge.request_queue import QueueStatus, RequestQueue
from shared_utils.redis.connection import CONNECTION_ERRORS
from shared_utils.remembered import Remembered

_STATUS_SECONDS: Final = 2.0
"""Time limit for Redis; beyond it, the health page omits the queue's figures."""
_STATUS_MAX_AGE_SECONDS: Final = 0.1
"""The parts of a health page or a scrape ask at the same time and share one answer."""
_SESSIONS_MAX_AGE_SECONDS: Final = 30.0
"""A database with a million sessions counts each of them."""


class Figures:
    """Used by the health page, its check of answers, and the scrape.

    State: the last status of the queue and the last count of the sessions.

    Args:
        bridge: this bridge's name.
        queue: says how it is, over all bridges.
        sessions: counts them.
        servers: the Letta servers and their breakers.
        in_flight: counts the turns that this bridge holds.
    """

    def __init__(
        self,
        bridge: str,
        queue: RequestQueue,
        sessions: SessionManager,
        servers: LettaServers,
        in_flight: Callable[[], int],
    ) -> None:
        self._bridge = bridge
        self._queue = queue
        self._servers = servers
        self._in_flight = in_flight
        self.status = Remembered(self._ask_queue, _STATUS_MAX_AGE_SECONDS)
        """The queue's figures; raises what Redis raises while it is away."""
        self.sessions = Remembered(sessions.count, _SESSIONS_MAX_AGE_SECONDS)
        """Sessions by state; empty while their store is away."""

    async def status_in_time(self) -> QueueStatus | None:
        """The queue's figures; None if Redis does not answer in time."""
        try:
            async with asyncio.timeout(_STATUS_SECONDS):
                return await self.status()
        except CONNECTION_ERRORS:
            return None

    async def summary(self) -> Mapping[str, Any]:
        """See :class:`shared_utils.observability.health.HealthSource`."""
        counts, status = await asyncio.gather(self.sessions(), self.status_in_time())
        return self._here() | {"sessions": dict(counts)} | ({} if status is None else _queue(status))

    def _here(self) -> dict[str, Any]:
        return {
            "service": "letta-bridge",
            "version": __version__,
            "bridge": self._bridge,
            "in_flight_here": self._in_flight(),
            "breakers": {name: state.value for name, state in self._servers.states().items()},
            "users_paused": self._servers.users.paused,
        }

    async def _ask_queue(self) -> QueueStatus:
        return await self._queue.status()


def _queue(status: QueueStatus) -> dict[str, Any]:
    return {
        "queue_depth": status.depth,
        "waiting_in_lanes": status.waiting,
        "in_flight": status.in_flight,
        "oldest_task_age_seconds": round(status.oldest_age, 3),
        "dead_letters": status.dead,
        "bridges": status.bridges,
        "paused": status.paused,
        "recent_turns": asdict(status.recent) | {"failed_share": round(status.recent.failed_share, 3)},
        "counters": status.counters,
    }
