"""Prevents bridges from creating a user's agent while a restored one gets the user's tags."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Final

from letta_bridge.agents.agent_spec import owner_of
from letta_bridge.request_queue.creation_leases import LEASE_SECONDS, CreationLease, CreationLeases
from shared_utils.redis.connection import CONNECTION_ERRORS

_PATIENCE_SECONDS: Final = LEASE_SECONDS + 5.0
"""Longer than the lease of a dead bridge lasts."""
_PAUSE_SECONDS: Final = 0.2
_UNAVAILABLE_ERRORS: Final[tuple[type[Exception], ...]] = (TimeoutError, *CONNECTION_ERRORS)


class TagLease:
    """The creation leases of a queue, as a restore uses them.

    Args:
        leases: None does without: an agent that a bridge creates meanwhile is still found by its tags.
    """

    def __init__(self, leases: CreationLeases | None) -> None:
        self._leases = leases

    @contextlib.asynccontextmanager
    async def held(self, tags: Sequence[str]) -> AsyncIterator[None]:
        """Hold the lease on the agent with these tags, if it can be had, while the block runs."""
        user, persona = owner_of(tags)
        if user is None or persona is None:
            yield
            return
        lease = CreationLease(user, persona, secrets.token_hex(8))
        await self._try(lambda leases: _acquire(leases, lease))
        try:
            yield
        finally:
            await self._try(lambda leases: leases.release(lease))

    async def _try(self, work: Callable[[CreationLeases], Awaitable[None]]) -> None:
        if self._leases is None:
            return
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                await work(self._leases)
        except _UNAVAILABLE_ERRORS:
            self._leases = None  # do not wait for Redis with every agent


async def _acquire(leases: CreationLeases, lease: CreationLease) -> None:
    while not await leases.acquire(lease):  # noqa: ASYNC110  # another process releases it
        await asyncio.sleep(_PAUSE_SECONDS)
