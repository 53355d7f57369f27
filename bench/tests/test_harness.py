"""What the bridge finds where it is measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from bridge_bench import machine
from bridge_bench.harness import Harness, known_agents
from shared_utils.persistence.sessions.file_store import FileSessionStore


async def test_every_user_has_an_agent_already(tmp_path: Path) -> None:
    file = tmp_path / "bridge" / "sessions.db"
    known_agents(file, 3)
    known_agents(file, 3)
    store = FileSessionStore(file)
    restored = await store.restore(limit=10)
    await store.close()
    assert not restored.failed
    assert {session.user_id for session in restored.sessions} == {"user-0", "user-1", "user-2"}
    assert all(session.agent_id for session in restored.sessions)


@pytest.mark.integration
def test_valkey_has_the_official_images_allocator_where_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Harness(tmp_path / "as-it-is") as harness:
        loaded = Path(f"/proc/{harness.valkey.pid}/maps").read_text("utf-8")
    assert ("jemalloc" in loaded) is (machine.allocator() is not None)
    assert ("on jemalloc" in machine.versions([])) is ("jemalloc" in loaded)
    monkeypatch.setattr(machine, "find_library", lambda _: None)
    with Harness(tmp_path / "without") as harness:
        assert "jemalloc" not in Path(f"/proc/{harness.valkey.pid}/maps").read_text("utf-8")
    assert machine.versions([]).endswith("on libc's malloc")
