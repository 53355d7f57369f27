"""The checks behind /readyz and letta_bridge_check_ok: however many dependencies hang, they answer in time."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from letta_bridge import bridge as bridge_module
from letta_bridge.bridge import Bridge
from letta_bridge.request_queue import QueueStatus
from letta_bridge.settings import BridgeSettings
from shared_utils.observability.health import Check


@pytest.fixture
async def bridge(tmp_path):
    """One that is not running."""
    bridge = Bridge(BridgeSettings.model_validate({"bridge": {"data_dir": str(tmp_path)}}))
    yield bridge
    await bridge._close()


async def test_dependencies_are_asked_at_once(bridge, monkeypatch):
    together = asyncio.Barrier(3)

    async def check(name):
        await together.wait()
        return Check(name, ok=True, detail="")

    async def letta():
        return [await check("letta")]

    monkeypatch.setattr(bridge, "_check_redis", lambda: check("redis"))
    monkeypatch.setattr(bridge, "_check_letta", letta)
    monkeypatch.setattr(bridge, "_check_sessions", lambda: check("sessions"))
    async with asyncio.timeout(20):
        names = [check.name for check in await bridge.checks()]
    assert names[:3] == ["redis", "letta", "sessions"]


async def test_a_session_store_that_hangs_is_a_failed_check(bridge, monkeypatch):
    monkeypatch.setattr(bridge.sessions, "look", asyncio.Event().wait)
    monkeypatch.setattr(bridge_module, "_CHECK_SECONDS", 0.01)
    check = await bridge._check_sessions()
    assert (check.ok, check.detail) == (False, "the store does not answer in time")


@pytest.mark.parametrize("page", ["/health", "/metrics"])
async def test_a_page_asks_redis_for_the_queues_figures_once(bridge, monkeypatch, page):
    asked = []

    async def status():
        asked.append("status")
        await asyncio.sleep(0)
        return QueueStatus(0, 0, 0, 0, 0, 0.0, 1, {}, None)

    async def recent():
        asked.append("recent")
        return QueueStatus(0, 0, 0, 0, 0, 0.0, 1, {}, None).recent

    monkeypatch.setattr(bridge.queue, "status", status)
    monkeypatch.setattr(bridge.queue, "recent", recent)
    transport = httpx.ASGITransport(bridge._app())
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        text = (await client.get(page)).text
    assert asked == ["status"]
    assert "no agent was asked" in text or 'check="answers"' in text or "recent_turns" in text


async def test_sessions_are_counted_once_for_all_pages_of_half_a_minute(bridge, monkeypatch):
    counted = []
    count = bridge.sessions.store.count

    async def counting():
        counted.append(1)
        return await count()

    monkeypatch.setattr(bridge.sessions.store, "count", counting)
    transport = httpx.ASGITransport(bridge._app())
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        for page in ("/health", "/metrics", "/readyz", "/health"):
            await client.get(page)
    assert len(counted) == 1
