"""The checks behind /readyz and letta_bridge_check_ok: however many dependencies hang, they answer in time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from letta_bridge import health_checks
from letta_bridge.bridge import Bridge
from letta_bridge.request_queue import QueueStatus
from letta_bridge.settings import BridgeSettings


@pytest.fixture
async def bridge(tmp_path: Path) -> AsyncIterator[Bridge]:
    """One that is not running."""
    bridge = Bridge(BridgeSettings.model_validate({"storage": {"data_dir": str(tmp_path)}}))
    yield bridge
    await bridge._close()


async def test_dependencies_are_asked_at_once(bridge: Bridge, monkeypatch: pytest.MonkeyPatch) -> None:
    together = asyncio.Barrier(3)

    async def ask(*_: str) -> str:
        await together.wait()
        return ""

    (server,) = bridge.servers
    monkeypatch.setattr(bridge._redis, "hlen", ask)
    monkeypatch.setattr(server, "port", SimpleNamespace(health=ask, close=server.port.close))
    monkeypatch.setattr(bridge.sessions, "look", ask)
    async with asyncio.timeout(20):
        checks = await bridge.health.checks()
    assert [check.name for check in checks[:3]] == ["redis", "letta", "sessions"]
    assert all(check.ok for check in checks[:3])


async def test_a_session_store_that_hangs_is_a_failed_check(bridge: Bridge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bridge.sessions, "look", asyncio.Event().wait)
    monkeypatch.setattr(health_checks, "_CHECK_SECONDS", 0.01)
    (check,) = await health_checks.sessions_check(bridge.sessions)()
    assert (check.ok, check.detail) == (False, "the store does not answer in time")


async def test_a_stopped_bridge_is_draining(bridge: Bridge) -> None:
    assert [check.ok for check in bridge.health.own_checks()] == [True, True]
    bridge.stop()
    assert [check.detail for check in bridge.health.own_checks() if not check.ok] == ["draining"]


@pytest.mark.parametrize("page", ["/health", "/metrics"])
async def test_a_page_asks_redis_for_the_queues_figures_once(
    bridge: Bridge, monkeypatch: pytest.MonkeyPatch, page: str
) -> None:
    asked = []

    async def status() -> QueueStatus:
        asked.append("status")
        await asyncio.sleep(0)
        return QueueStatus(0, 0, 0, 0, 0, 0.0, 1, {}, None)

    async def recent() -> Any:
        asked.append("recent")
        return QueueStatus(0, 0, 0, 0, 0, 0.0, 1, {}, None).recent

    monkeypatch.setattr(bridge.queue, "status", status)
    monkeypatch.setattr(bridge.queue, "recent", recent)
    transport = httpx.ASGITransport(bridge._app())
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        text = (await client.get(page)).text
    assert asked == ["status"]
    assert "no agent was asked" in text or 'check="answers"' in text or "recent_turns" in text


async def test_sessions_are_counted_once_for_all_pages_of_half_a_minute(
    bridge: Bridge, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = []
    count = bridge.sessions.store.count

    async def counting() -> Any:
        counted.append(1)
        return await count()

    monkeypatch.setattr(bridge.sessions.store, "count", counting)
    transport = httpx.ASGITransport(bridge._app())
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        for page in ("/health", "/metrics", "/readyz", "/health"):
            await client.get(page)
    assert len(counted) == 1
