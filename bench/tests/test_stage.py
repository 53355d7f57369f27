"""What the bridge finds where it is measured."""

from __future__ import annotations

from bridge_bench.stage import known_agents
from shared_utils.persistence.file_sessions import FileSessionStore


async def test_every_user_has_an_agent_already(tmp_path):
    file = tmp_path / "bridge" / "sessions.db"
    known_agents(file, 3)
    known_agents(file, 3)
    store = FileSessionStore(file)
    restored = await store.restore(limit=10)
    await store.close()
    assert not restored.failed
    assert {session.user_id for session in restored.sessions} == {"user-0", "user-1", "user-2"}
    assert all(session.agent_id for session in restored.sessions)
