"""Where sessions lie, and that a bridge serves without its database."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest

from letta_bridge.agents.session_manager import SessionManager
from letta_bridge.agents.session_stores import session_store
from letta_bridge.settings import BridgeSettings
from letta_bridge.testing.letta import InMemoryLetta
from local_stack.fixtures import BridgeFactory
from shared_utils.persistence.database.database import Database

NOWHERE = "postgresql://bridge:secret-of-the-database@127.0.0.1:1/bridge"


@pytest.fixture
def settings(tmp_path: Path) -> BridgeSettings:
    return BridgeSettings.model_validate(
        {
            "storage": {"data_dir": str(tmp_path)},
            "database": {"db_url": NOWHERE, "connection_timeout": 1},
            "sessions": {"max_data_bytes": 2048},
        }
    )


async def test_without_a_database_the_file_serves(settings: BridgeSettings) -> None:
    store = session_store(settings, None)
    assert str(settings.data_dir / "sessions.db") in await store.check()
    assert store.last_error is None
    await store.close()


async def test_while_the_database_is_unavailable_users_get_agents_and_keep_them(settings: BridgeSettings) -> None:
    letta, agents = InMemoryLetta(), set()
    for _ in range(2):  # the second one is the bridge after a restart
        store = session_store(settings, Database(settings.database))
        manager = SessionManager(store, settings.agents, settings.sessions)
        agents.add(await manager.agent_for("ada", "default", None, letta))
        assert manager.store_error is not None
        assert "bridge on 127.0.0.1:1" in manager.store_error
        assert "the session file is used instead" in manager.store_error
        assert "secret-of-the-database" not in manager.store_error
        assert (await manager.count())["active"] == 1
        await manager.close()
    assert len(agents) == 1


@pytest.mark.acceptance
def test_bridge_without_its_database_is_ready_and_degraded(bridge_factory: BridgeFactory, redis_url: str) -> None:
    bridge = bridge_factory(redis_url, "http://127.0.0.1:1", DATABASE_URL=NOWHERE, DB_CONNECTION_TIMEOUT="1")
    assert httpx.get(f"{bridge.url}/readyz", timeout=20).status_code == 200
    health = httpx.get(f"{bridge.url}/health", timeout=20).json()
    assert "the session file is used instead" in json.dumps(health["checks"]["sessions"])
    assert health["status"] == "degraded"
