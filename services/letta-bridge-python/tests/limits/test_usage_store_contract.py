"""One suite, two meters: the scripts on a real Redis, and the one in memory."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from letta_bridge.limits import RedisUsageStore, UsageSnapshot
from letta_bridge.request_queue import Keys
from letta_bridge.testing.usage_store import InMemoryUsageStore
from shared_utils.config.settings import RedisSettings
from shared_utils.redis.connection import connect

FAST = {"per_minute": 600.0, "burst": 3}
"""One turn every 100 ms in the long run."""
SLOW: dict[str, Any] = {"per_minute": 0.001, "burst": 3}
NO_LIMIT: dict[str, Any] = {"per_minute": 0.0, "burst": 3}


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.integration)])
async def meter(request: pytest.FixtureRequest) -> AsyncIterator[Any]:
    if request.param == "memory":
        yield InMemoryUsageStore(time.time)
        return
    client = connect(RedisSettings(url=request.getfixturevalue("redis_url")), name="meter")
    yield RedisUsageStore(client, Keys("q"))
    await client.aclose()


async def admitted(meter: Any, user: Any, times: Any, limits: Any) -> list[bool]:
    return [(await meter.admit(user, **limits)).in_rate for _ in range(times)]


async def test_a_quiet_user_may_take_a_burst_and_no_more(meter: RedisUsageStore | InMemoryUsageStore) -> None:
    assert await admitted(meter, "ada", 5, SLOW) == [True, True, True, False, False]


async def test_each_user_has_a_rate_of_its_own(meter: RedisUsageStore | InMemoryUsageStore) -> None:
    assert await admitted(meter, "ada", 4, SLOW) == [True, True, True, False]
    assert await admitted(meter, "用户:1", 4, SLOW) == [True, True, True, False]


async def test_rate_allowance_refills_over_time(meter: Any) -> None:
    began = time.monotonic()
    taken = 0
    while taken < 6:
        taken += (await meter.admit("ada", **FAST)).in_rate
        await asyncio.sleep(0.005)
        assert time.monotonic() - began < 30
    # Three at once, and three more at 100 ms each.
    assert time.monotonic() - began > 0.25


async def test_without_a_limit_nothing_is_counted(meter: Any) -> None:
    assert all(await admitted(meter, "ada", 20, NO_LIMIT))
    assert (await meter.admit("ada", **SLOW)).in_rate


async def test_tokens_add_up_by_user_and_for_all(meter: Any) -> None:
    await meter.spend("ada", 100)
    await meter.spend("ada", 20)
    await meter.spend("bo", 3)
    assert await meter.admit("ada", **NO_LIMIT) == UsageSnapshot(user_tokens=120, all_tokens=123)
    assert await meter.admit("eve", **NO_LIMIT) == UsageSnapshot(user_tokens=0, all_tokens=123)


async def test_token_counts_start_at_zero_each_day() -> None:
    now = 86_400.0 * 20_000
    meter = InMemoryUsageStore(lambda: now)
    await meter.spend("ada", 100)
    now += 86_399.0
    assert (await meter.admit("ada", **NO_LIMIT)).user_tokens == 100
    now += 1.0
    assert await meter.admit("ada", **NO_LIMIT) == UsageSnapshot()


@pytest.mark.integration
async def test_every_key_expires_and_carries_the_queues_hash_tag(redis_url: str) -> None:
    client = connect(RedisSettings(url=redis_url), name="meter")
    meter = RedisUsageStore(client, Keys("q"))
    await meter.admit("ada", **SLOW)
    await meter.spend("ada", 5)
    names = [name.decode() async for name in client.scan_iter()]
    assert sorted(name.split(":")[1] for name in names) == ["rate", "tokens"]
    for name in names:
        assert name.startswith("{q}:")
        assert await client.pttl(name) > 0
    await client.aclose()
