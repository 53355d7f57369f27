"""One suite, two adapters: leases in a real Redis, and in memory."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest

from letta_bridge.request_queue import creation_leases
from letta_bridge.request_queue.creation_leases import CreationLease, InMemoryCreationLeases, RedisCreationLeases
from letta_bridge.request_queue.keys import Keys
from shared_utils.config.settings import RedisSettings
from shared_utils.redis.connection import connect

FIRST = CreationLease("ada:x%", "default", "first")
SECOND = CreationLease("ada:x%", "default", "second")


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.integration)])
async def leases(request: pytest.FixtureRequest) -> AsyncIterator[Any]:
    if request.param == "memory":
        yield InMemoryCreationLeases()
        return
    client = connect(RedisSettings(url=request.getfixturevalue("redis_url")), name="test")
    yield RedisCreationLeases(client, Keys(f"q-{uuid.uuid4().hex[:8]}"))
    await client.aclose()


async def test_one_attempt_at_a_time_holds_the_lease(
    leases: creation_leases.InMemoryCreationLeases | creation_leases.RedisCreationLeases,
) -> None:
    assert await leases.acquire(FIRST)
    assert not await leases.acquire(SECOND)
    await leases.release(FIRST)
    assert await leases.acquire(SECOND)


async def test_acquire_can_be_retried_after_a_lost_response(
    leases: creation_leases.InMemoryCreationLeases | creation_leases.RedisCreationLeases,
) -> None:
    assert await leases.acquire(FIRST)
    assert await leases.acquire(FIRST)
    assert not await leases.acquire(SECOND)


@pytest.mark.parametrize("other", [CreationLease("ada", "x%:default", "o"), CreationLease("ada:x%", "coach", "o")])
async def test_users_and_personas_have_separate_leases(
    leases: creation_leases.InMemoryCreationLeases | creation_leases.RedisCreationLeases,
    other: creation_leases.CreationLease,
) -> None:
    assert await leases.acquire(FIRST)
    assert await leases.acquire(other)


async def test_only_the_holder_can_release_or_shorten_a_lease(
    leases: creation_leases.InMemoryCreationLeases | creation_leases.RedisCreationLeases,
) -> None:
    assert await leases.acquire(FIRST)
    await leases.release(SECOND)
    await leases.mark_uncertain(SECOND)
    assert not await leases.acquire(SECOND)


async def test_an_uncertain_attempt_blocks_others_until_its_agent_must_be_listed(
    leases: creation_leases.InMemoryCreationLeases | creation_leases.RedisCreationLeases,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(creation_leases, "LISTED_WITHIN_SECONDS", 0.2)
    assert await leases.acquire(FIRST)
    await leases.mark_uncertain(FIRST)
    assert not await leases.acquire(SECOND)
    async with asyncio.timeout(10):
        while not await leases.acquire(SECOND):
            await asyncio.sleep(0.02)
    await leases.release(FIRST)
    assert not await leases.acquire(CreationLease(FIRST.user_id, FIRST.persona, "third"))


async def test_the_lease_of_a_killed_bridge_expires(
    leases: creation_leases.InMemoryCreationLeases | creation_leases.RedisCreationLeases,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(creation_leases, "LEASE_SECONDS", 0.2)
    assert await leases.acquire(FIRST)
    async with asyncio.timeout(10):
        while not await leases.acquire(SECOND):
            await asyncio.sleep(0.02)
