"""A backup brought back into an empty place is what it was made of; a damaged one is not brought back."""

from __future__ import annotations

import asyncio
import json

import pytest

from letta_bridge.backup.backup import make_backup, restore_backup
from letta_bridge.backup.manifest import BackupDamaged
from letta_bridge.letta import AgentSpec, InMemoryLetta, TurnMessage
from letta_bridge.settings import BridgeSettings
from shared_utils.persistence.errors import Conflict
from shared_utils.persistence.file_sessions import FileSessionStore


@pytest.fixture
def settings(tmp_path):
    return BridgeSettings.model_validate({"bridge": {"data_dir": str(tmp_path / "data")}})


@pytest.fixture
async def letta():
    letta = InMemoryLetta(models=frozenset({"fake/model"}))
    for number in range(3):
        spec = AgentSpec(
            name="bridge-x",
            tags=("bridge", f"user:用户{number}", "persona:default"),
            model="fake/model",
            embedding=None,
            agent_type="letta_v1_agent",
            blocks=(),
            tools=(),
        )
        agent = await letta.create_agent(spec)
        await letta.send(agent.agent_id, [TurnMessage("user", "你好", f"otid-{number}")], timeout=5)
    return letta


@pytest.fixture
async def filled(settings):
    store = FileSessionStore(settings.data_dir / settings.sessions.file)
    session = await store.reserve("用户0", "default")
    await store.close()
    return session


async def test_files_and_agents_come_back(settings, letta, filled, tmp_path):
    folder = tmp_path / "backup"
    done = []
    made = await make_backup(settings, letta, folder, configuration={"letta.timeout": 60.0}, progress=done.append)
    assert (made.method, made.agents, done) == ("file", 3, [1, 2, 3])
    assert json.loads((folder / "config.json").read_text("utf-8")) == {"letta.timeout": 60.0}

    empty = BridgeSettings.model_validate({"bridge": {"data_dir": str(tmp_path / "elsewhere")}})
    other = InMemoryLetta(models=frozenset({"fake/model"}))
    restored, imported = await restore_backup(empty, other, folder)
    assert restored == made
    assert imported == 3
    store = FileSessionStore(empty.data_dir / empty.sessions.file)
    assert await store.find("用户0", "default") == filled
    await store.close()
    [agent] = await other.find_agents(["user:用户1"])
    assert [message["content"] for message in await other.history(agent.agent_id)][-2:] == ["你好", "echo: 你好"]


async def test_agents_that_are_there_are_left_alone(settings, letta, filled, tmp_path):
    await make_backup(settings, letta, tmp_path / "backup", configuration={})
    empty = BridgeSettings.model_validate({"bridge": {"data_dir": str(tmp_path / "elsewhere")}})
    [agent] = await letta.find_agents(["user:用户1"])
    await letta.delete_agent(agent.agent_id)
    _, imported = await restore_backup(empty, letta, tmp_path / "backup")
    assert imported == 1
    assert len(await letta.find_agents(["bridge"])) == 3


async def test_a_place_that_is_not_empty_is_refused(settings, letta, filled, tmp_path):
    folder = tmp_path / "backup"
    await make_backup(settings, None, folder, configuration={})
    with pytest.raises(Conflict, match="not empty"):
        await make_backup(settings, None, folder, configuration={})
    with pytest.raises(Conflict, match="exists already"):
        await restore_backup(settings, None, folder)


@pytest.mark.parametrize("harm", ["changed", "missing", "incomplete", "newer"])
async def test_a_damaged_backup_changes_nothing(settings, letta, filled, tmp_path, harm):
    folder = tmp_path / "backup"
    await make_backup(settings, letta, folder, configuration={})
    agent_file = next((folder / "agents").iterdir())
    match harm:
        case "changed":
            agent_file.write_bytes(agent_file.read_bytes() + b" ")
        case "missing":
            agent_file.unlink()
        case "incomplete":
            (folder / "manifest.json").unlink()
        case "newer":
            text = (folder / "manifest.json").read_text("utf-8")
            (folder / "manifest.json").write_text(text.replace('"format": 1', '"format": 2'), "utf-8")
    other = InMemoryLetta(models=frozenset({"fake/model"}))
    empty = BridgeSettings.model_validate({"bridge": {"data_dir": str(tmp_path / "elsewhere")}})
    with pytest.raises(BackupDamaged):
        await restore_backup(empty, other, folder)
    assert await other.find_agents(["bridge"]) == []
    assert not (await asyncio.to_thread(empty.data_dir.exists))
