"""The checks behind /readyz and letta_bridge_check_ok: however many dependencies hang, they answer in time."""

from __future__ import annotations

import asyncio

import pytest

from letta_bridge import bridge as bridge_module
from letta_bridge.bridge import Bridge
from letta_bridge.settings import BridgeSettings
from shared_utils.health import Check


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
    monkeypatch.setattr(bridge.sessions, "count", asyncio.Event().wait)
    monkeypatch.setattr(bridge_module, "_CHECK_SECONDS", 0.01)
    check = await bridge._check_sessions()
    assert (check.ok, check.detail) == (False, "the store does not answer in time")
