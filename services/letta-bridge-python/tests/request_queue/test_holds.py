"""Holds as leases: taken, renewed, taken over, lost; on a real Redis."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from typing import Any
from unittest.mock import AsyncMock

import pytest
from structlog.testing import capture_logs

from letta_bridge.request_queue import Keys, holds
from letta_bridge.request_queue.holds import Holds, LaneHeld
from shared_utils.redis.connection import RedisClient

pytestmark = pytest.mark.integration


@pytest.fixture
def keys() -> Keys:
    return Keys(f"q-{uuid.uuid4().hex[:8]}")


@pytest.fixture
def held(client: RedisClient, keys: Keys) -> holds.Holds:
    return Holds(client, keys)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Holders renew and are given up after fractions of a second."""
    monkeypatch.setattr(holds, "TTL_SECONDS", 30.0)
    monkeypatch.setattr(holds, "STALE_SECONDS", 0.5)
    monkeypatch.setattr(holds, "RENEW_SECONDS", 0.05)


async def test_a_hold_is_shown_with_why_and_how_long(held: holds.Holds) -> None:
    assert await held.take("小明 x", "one", "an erasure") == 0
    (hold,) = await held.all()
    assert (hold.lane, hold.why) == ("小明 x", "an erasure")
    assert 0 <= hold.held_seconds < 30
    assert 0 < hold.seconds_left <= holds.TTL_SECONDS
    assert await held.lift("小明 x")
    assert await held.all() == []
    assert not await held.lift("小明 x")


async def test_only_the_holder_renews_and_lifts_unless_an_operator_does(held: holds.Holds) -> None:
    assert await held.take("ada", "one", "") == 0
    assert await held.take("ada", "one", "") == 0
    assert 0 < await held.take("ada", "two", "") <= holds.STALE_SECONDS
    assert not await held.lift("ada", "two")
    assert await held.lift("ada")


async def test_a_hold_that_is_not_renewed_is_taken_over(held: holds.Holds, quick: None) -> None:
    assert await held.take("ada", "killed", "") == 0
    wait = await held.take("ada", "two", "")
    await asyncio.sleep(wait)
    assert await held.take("ada", "two", "") == 0
    assert await held.take("ada", "killed", "") > 0


async def test_one_waits_for_the_other(held: holds.Holds, quick: None) -> None:
    order = []

    async def work(name: str) -> None:
        async with held.held("ada", "erasure", 30):
            order.append(f"{name} begins")
            await asyncio.sleep(0.2)
            order.append(f"{name} ends")

    await asyncio.gather(work("one"), work("two"))
    assert [step.split()[1] for step in order] == ["begins", "ends"] * 2


async def test_without_patience_the_second_is_refused(held: holds.Holds) -> None:
    async with held.held("ada", "erasure", 0):
        with pytest.raises(LaneHeld, match="letta-bridge user release"):
            async with held.held("ada", "erasure", 0):
                pass
        async with held.held("bo", "erasure", 0):
            assert {hold.lane for hold in await held.all()} == {"ada", "bo"}
    assert await held.all() == []


async def test_lost_hold_cancels_the_block(held: holds.Holds, quick: None) -> None:
    async def work() -> None:
        async with held.held("ada", "erasure", 0):
            await held.lift("ada")
            await held.take("ada", "another", "")
            await asyncio.sleep(30)
            pytest.fail("it went on")

    with pytest.raises(LaneHeld, match="another command now holds"):
        await work()
    assert len(await held.all()) == 1  # the other's


async def test_who_cannot_renew_the_hold_for_a_defect_does_not_continue(
    held: Any, quick: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work() -> None:
        async with held.held("ada", "erasure", 0):
            monkeypatch.setattr(held, "take", AsyncMock(side_effect=LookupError))
            await asyncio.sleep(30)
            pytest.fail("it went on")

    with pytest.raises(LookupError), capture_logs() as logged:
        await work()
    assert [(line["event"], line["task"]) for line in logged] == [("background_task_failed", "hold")]


async def test_an_error_of_the_work_ends_the_hold_and_is_reported(held: holds.Holds) -> None:
    with pytest.raises(TimeoutError):
        async with held.held("ada", "erasure", 0):
            raise TimeoutError
    assert await held.all() == []


async def test_held_block_can_be_cancelled(held: holds.Holds) -> None:
    entered = asyncio.Event()

    async def work() -> None:
        async with held.held("ada", "erasure", 0):
            entered.set()
            await asyncio.sleep(60)

    task = asyncio.create_task(work())
    await entered.wait()
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert await held.all() == []


async def test_the_number_of_held_users_is_bounded(held: holds.Holds, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holds, "MAX_HELD", 2)
    for user in ("ada", "bo"):
        await held.take(user, "one", "")
    with pytest.raises(LaneHeld, match="2 users are held already"):
        await held.take("cy", "one", "")
    assert await held.take("ada", "one", "") == 0


async def test_held_key_is_removed_with_the_last_hold(held: holds.Holds, client: RedisClient, keys: Keys) -> None:
    await held.take("ada", "killed", "")
    assert 0 < await client.pttl(keys.held) <= holds.TTL_SECONDS * 1000
    await held.lift("ada")
    assert not await client.exists(keys.held)
