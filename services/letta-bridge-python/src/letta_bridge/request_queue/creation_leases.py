"""Leases on creating an agent, shared by all bridges of the queue, whatever data directories they have.

Letta completes a request to create an agent even if its connection was lost, and lists the agent seconds later. So each
attempt takes a lease in Redis before it sends the request. While the lease lasts, no other attempt begins; other turns
look for the agent until it is listed. The attempt releases its lease if it definitely succeeded or failed; otherwise
the lease expires.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final, Protocol, cast

from letta_bridge.request_queue.keys import Keys
from shared_utils.redis.connection import RedisClient, retry_until_available
from shared_utils.redis.lua_scripts import Call, Script, run

LEASE_SECONDS: Final = 60.0
"""Lifetime of a lease whose bridge is gone: the request's own timeout, and the time an agent may take to be listed."""
LISTED_WITHIN_SECONDS: Final = 30.0
"""How long an agent may take to be listed after its request was lost; 6 s were measured on an overloaded server."""

_EXPIRE: Final = Script.read(__package__ or "", "expire_creation")


@dataclass(frozen=True, slots=True)
class CreationLease:
    """One attempt to create one agent."""

    user_id: str
    persona: str
    token: str
    """Idempotency token of the attempt; the agent carries it in a tag."""


class CreationLeases(Protocol):
    """The leases. Every method waits while Redis is away, as the turn's settlement does."""

    async def acquire(self, lease: CreationLease) -> bool:
        """Begin an attempt; False while another attempt for this user and persona holds the lease."""
        ...

    async def mark_uncertain(self, lease: CreationLease) -> None:
        """The response was lost: keep the lease until the agent must have been listed."""
        ...

    async def release(self, lease: CreationLease) -> None:
        """The attempt definitely succeeded or failed."""
        ...


class RedisCreationLeases:
    """See :class:`CreationLeases`. Leases expire within a minute, so an erasure need not remove them."""

    def __init__(self, client: RedisClient, keys: Keys) -> None:
        self._client = client
        self._keys = keys

    async def acquire(self, lease: CreationLease) -> bool:
        """See :class:`CreationLeases`. Safe to retry after a lost response."""
        key = self._key(lease)
        milliseconds = round(LEASE_SECONDS * 1000)

        async def acquired() -> bool:
            if await self._client.set(key, lease.token, nx=True, px=milliseconds):
                return True
            return cast("bytes | None", await self._client.get(key)) == lease.token.encode()

        return await retry_until_available(acquired)

    async def mark_uncertain(self, lease: CreationLease) -> None:
        """See :class:`CreationLeases`."""
        await self._expire(lease, LISTED_WITHIN_SECONDS)

    async def release(self, lease: CreationLease) -> None:
        """See :class:`CreationLeases`."""
        await self._expire(lease, 0)

    async def _expire(self, lease: CreationLease, seconds: float) -> None:
        call = Call(_EXPIRE, (self._key(lease),), (lease.token, round(seconds * 1000)))
        await retry_until_available(lambda: run(self._client, call))

    def _key(self, lease: CreationLease) -> str:
        return self._keys.creating(lease.user_id, lease.persona)


class InMemoryCreationLeases:
    """See :class:`CreationLeases`. The leases of one process: for tests, and for programs without a queue."""

    def __init__(self) -> None:
        self._held: dict[tuple[str, str], tuple[str, float]] = {}

    async def acquire(self, lease: CreationLease) -> bool:
        """See :class:`CreationLeases`."""
        token, until = self._held.get(_owner(lease), (lease.token, 0.0))
        if token != lease.token and until > time.monotonic():
            return False
        self._held[_owner(lease)] = (lease.token, time.monotonic() + LEASE_SECONDS)
        return True

    async def mark_uncertain(self, lease: CreationLease) -> None:
        """See :class:`CreationLeases`."""
        if self._is_held(lease):
            self._held[_owner(lease)] = (lease.token, time.monotonic() + LISTED_WITHIN_SECONDS)

    async def release(self, lease: CreationLease) -> None:
        """See :class:`CreationLeases`."""
        if self._is_held(lease):
            del self._held[_owner(lease)]

    def _is_held(self, lease: CreationLease) -> bool:
        return self._held.get(_owner(lease), ("", 0.0))[0] == lease.token


def _owner(lease: CreationLease) -> tuple[str, str]:
    return lease.user_id, lease.persona
