"""A backup brought back into an empty place is what it was made of; a damaged one is not brought back."""

from __future__ import annotations

import asyncio
import json
import shutil
import sqlite3
from collections.abc import AsyncIterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from letta_bridge.agent_snapshots.errors import SnapshotDamaged
from letta_bridge.backup import manifest
from letta_bridge.backup.backup import make_backup
from letta_bridge.backup.errors import BackupDamaged
from letta_bridge.backup.restore import restore_backup
from letta_bridge.errors import AgentGone, LettaRejected, LettaUnavailable
from letta_bridge.letta import AgentSpec, Block, TurnMessage
from letta_bridge.letta.agent_store import AgentDescription
from letta_bridge.settings import BridgeSettings
from letta_bridge.testing.agent_store import InMemoryAgentStore
from letta_bridge.testing.letta import InMemoryLetta
from shared_utils.persistence.choices.file_store import FileChoiceStore
from shared_utils.persistence.choices.port import Choice
from shared_utils.persistence.erasures.log import FileErasureLog
from shared_utils.persistence.errors import Conflict
from shared_utils.persistence.sessions.file_store import FileSessionStore
from shared_utils.persistence.sessions.port import Session


def settings_of(folder: Path) -> BridgeSettings:
    return BridgeSettings.model_validate({"storage": {"data_dir": str(folder)}})


@pytest.fixture
def settings(tmp_path: Path) -> BridgeSettings:
    return settings_of(tmp_path / "data")


@pytest.fixture
def empty(tmp_path: Path) -> BridgeSettings:
    """Settings of another, empty place."""
    return settings_of(tmp_path / "elsewhere")


@pytest.fixture
async def letta() -> InMemoryLetta:
    letta = InMemoryLetta(models=frozenset({"fake/model"}))
    for number in range(3):
        spec = AgentSpec(
            name="bridge-x",
            tags=("bridge", f"user:用户{number}", "persona:default"),
            model="fake/model",
            embedding=None,
            agent_type="letta_v1_agent",
            blocks=(Block("human", "x"),),
            tools=(),
        )
        agent = await letta.create_agent(spec)
        for turn in range(4):
            await letta.send(agent.agent_id, [TurnMessage("user", f"你好{turn}", f"otid-{number}-{turn}")], timeout=5)
        letta.note(agent.agent_id, "喜欢猫")
    return letta


@pytest.fixture
def store(letta: InMemoryLetta) -> InMemoryAgentStore:
    return InMemoryAgentStore(letta)


@pytest.fixture
async def filled(settings: BridgeSettings, letta: InMemoryLetta) -> Session:
    """Sessions of the three users, the first one's at hand."""
    sessions = FileSessionStore(settings.data_dir / settings.sessions.file)
    found = []
    for number in range(3):
        [agent] = await letta.find_agents([f"user:用户{number}"])
        session = await sessions.reserve(f"用户{number}", "default")
        found.append(await sessions.save(replaced(session, agent.agent_id)))
    await sessions.close()
    return found[0]


def replaced(session: Session, agent_id: str) -> Session:
    return type(session)(**{**{f: getattr(session, f) for f in session.__dataclass_fields__}, "agent_id": agent_id})


def modes(folder: Path) -> set[str]:
    return {oct(path.stat().st_mode & 0o777) for path in folder.rglob("*") if path.is_file()} | {
        oct(path.stat().st_mode & 0o777) for path in (folder, *folder.rglob("*")) if path.is_dir()
    }


async def test_session_file_and_agents_come_back_whole(
    settings: BridgeSettings,
    empty: BridgeSettings,
    letta: InMemoryLetta,
    store: InMemoryAgentStore,
    filled: Any,
    tmp_path: Path,
) -> None:
    folder = tmp_path / "backup"
    await FileErasureLog(settings.data_dir / "erasures.jsonl").begin("gone")
    done = []
    made = await make_backup(
        settings, store, folder, configuration={"letta.timeout_seconds": 60.0}, progress=lambda *one: done.append(one)
    )
    assert ([state.method for state in made.state], len(made.agents)) == (["file"], 3)
    assert [count for what, count in done if what == "agents"] == [1, 2, 3]
    assert all(agent.counts["message"] == 9 and agent.counts["passage"] == 1 for agent in made.agents)
    assert json.loads((folder / "config.json").read_text("utf-8")) == {"letta.timeout_seconds": 60.0}

    other = InMemoryLetta(models=frozenset({"fake/model"}))
    report = await restore_backup(empty, InMemoryAgentStore(other), folder)
    assert report.manifest == made
    assert report.whole
    assert report.outcomes == {"restored": 3}
    assert report.compared["message"] == 3 * 8
    assert report.compared["passage"] == 3
    assert report.lacks == ()
    assert report.state.moved_sessions == 3
    sessions = FileSessionStore(empty.data_dir / empty.sessions.file)
    found = await sessions.find("用户0", "default")
    await sessions.close()
    [agent] = await other.find_agents(["user:用户0"])
    assert found is not None
    assert found.agent_id == agent.agent_id
    assert found.version == filled.version + 1
    assert found.session_id == filled.session_id
    assert agent.former_ids == (filled.agent_id,)
    assert [message["content"] for message in await other.history(agent.agent_id)][-2:] == ["你好3", "echo: 你好3"]
    assert len(await FileErasureLog(empty.data_dir / "erasures.jsonl").history("gone")) == 1
    assert [path.name for path in (empty.data_dir / ".restore").iterdir()] == ["lock"]


async def test_backup_files_are_private(
    settings: BridgeSettings, empty: BridgeSettings, store: InMemoryAgentStore, filled: Session, tmp_path: Path
) -> None:
    folder = tmp_path / "backup"
    await make_backup(settings, store, folder, configuration={})
    assert modes(folder) == {"0o600", "0o700"}
    await restore_backup(empty, InMemoryAgentStore(InMemoryLetta()), folder)
    assert modes(empty.data_dir) == {"0o600", "0o700"}


async def test_repeated_restore_reports_agents_as_restored_and_changes_nothing(
    settings: BridgeSettings, empty: BridgeSettings, store: InMemoryAgentStore, filled: Session, tmp_path: Path
) -> None:
    folder = tmp_path / "backup"
    await make_backup(settings, store, folder, configuration={})
    other = InMemoryLetta()
    await restore_backup(empty, InMemoryAgentStore(other), folder)
    before = {agent: len(held.history) for agent, held in other.agents.items()}
    again = await restore_backup(empty, InMemoryAgentStore(other), folder)
    assert again.state.done_before
    assert again.outcomes == {"restored_before": 3}
    assert {agent: len(held.history) for agent, held in other.agents.items()} == before


async def test_restore_does_not_change_existing_agents(
    settings: BridgeSettings,
    empty: BridgeSettings,
    letta: InMemoryLetta,
    store: InMemoryAgentStore,
    filled: Session,
    tmp_path: Path,
) -> None:
    await make_backup(settings, store, tmp_path / "backup", configuration={})
    [agent] = await letta.find_agents(["user:用户1"])
    await letta.delete_agent(agent.agent_id)
    report = await restore_backup(empty, store, tmp_path / "backup")
    assert report.outcomes == {"there": 2, "restored": 1}
    assert len(await letta.find_agents(["bridge"])) == 3


async def test_a_user_with_another_agent_keeps_it_and_is_named(
    settings: BridgeSettings, empty: BridgeSettings, letta: Any, store: InMemoryAgentStore, filled: Any, tmp_path: Path
) -> None:
    await make_backup(settings, store, tmp_path / "backup", configuration={})
    await letta.delete_agent(filled.agent_id)
    spec = AgentSpec("x", ("bridge", "user:用户0", "persona:default"), "fake/model", None, "letta_v1_agent", (), ())
    other = (await letta.create_agent(spec)).agent_id
    report = await restore_backup(empty, store, tmp_path / "backup")
    assert not report.whole
    [occupied] = [agent for agent in report.agents if agent.outcome == "occupied"]
    assert (occupied.agent_id, occupied.other) == (filled.agent_id, other)
    sessions = FileSessionStore(empty.data_dir / empty.sessions.file)
    found = await sessions.find("用户0", "default")
    assert found is not None
    assert found.agent_id == other
    await sessions.close()


async def test_an_agent_deleted_meanwhile_does_not_end_the_backup(
    settings: BridgeSettings, letta: InMemoryLetta, store: InMemoryAgentStore, filled: Session, tmp_path: Path
) -> None:
    class Vanishing(InMemoryAgentStore):
        async def describe(self, agent_id: str) -> AgentDescription:
            if agent_id == filled.agent_id:
                raise AgentGone
            return await super().describe(agent_id)

    made = await make_backup(settings, Vanishing(letta), tmp_path / "backup", configuration={})
    assert len(made.agents) == 2
    [skipped] = made.skipped
    assert (skipped.agent_id, skipped.harmless) == (filled.agent_id, True)
    assert manifest.read(tmp_path / "backup") == made


async def test_an_agent_letta_cannot_read_is_named_and_not_harmless(
    settings: BridgeSettings, letta: InMemoryLetta, store: InMemoryAgentStore, filled: Session, tmp_path: Path
) -> None:
    class Unreadable(InMemoryAgentStore):
        async def describe(self, agent_id: str) -> AgentDescription:
            if agent_id == filled.agent_id:
                raise LettaRejected("broken")
            return await super().describe(agent_id)

    made = await make_backup(settings, Unreadable(letta), tmp_path / "backup", configuration={})
    [skipped] = made.skipped
    assert (skipped.agent_id, skipped.harmless) == (filled.agent_id, False)
    assert "broken" in skipped.reason


async def test_a_moment_of_failure_with_letta_does_not_end_the_backup(
    settings: BridgeSettings, letta: InMemoryLetta, filled: Session, tmp_path: Path
) -> None:
    troubles = iter([LettaUnavailable("away"), LettaUnavailable("away")])

    class Troubled(InMemoryAgentStore):
        async def describe(self, agent_id: str) -> AgentDescription:
            if (trouble := next(troubles, None)) is not None:
                raise trouble
            return await super().describe(agent_id)

    made = await make_backup(settings, Troubled(letta), tmp_path / "backup", configuration={})
    assert len(made.agents) == 3


async def test_a_place_that_is_not_empty_is_refused_before_any_agent_is_written(
    settings: BridgeSettings, store: InMemoryAgentStore, filled: Session, tmp_path: Path
) -> None:
    folder = tmp_path / "backup"
    await make_backup(settings, store, folder, configuration={})
    with pytest.raises(Conflict, match="not empty"):
        await make_backup(settings, store, folder, configuration={})
    other = InMemoryLetta()
    with pytest.raises(Conflict, match="already contains sessions"):
        await restore_backup(settings, InMemoryAgentStore(other), folder)
    assert other.agents == {}


@pytest.mark.parametrize("agents", [False, True])
async def test_backup_of_another_tenant_is_refused_with_and_without_agents(
    settings: BridgeSettings, store: InMemoryAgentStore, filled: Session, tmp_path: Path, agents: bool
) -> None:
    folder, other = tmp_path / "backup", InMemoryLetta()
    await make_backup(settings, store if agents else None, folder, configuration={})
    place = {"storage": {"data_dir": str(tmp_path / "shop")}, "tenant": {"name": "shop"}}
    shop = BridgeSettings.model_validate(place)
    with pytest.raises(Conflict, match="is of the tenant ''"):
        await restore_backup(shop, InMemoryAgentStore(other) if agents else None, folder)
    assert not shop.session_file.exists()
    assert other.agents == {}


async def test_backup_that_names_no_tenant_is_refused_by_its_agents_even_without_agents(
    settings: BridgeSettings, store: InMemoryAgentStore, filled: Session, tmp_path: Path
) -> None:
    folder = tmp_path / "backup"
    made = await make_backup(settings, store, folder, configuration={})
    manifest.write(folder, made.model_copy(update={"tenant": None}))
    place = {"storage": {"data_dir": str(tmp_path / "shop")}, "tenant": {"name": "shop"}}
    shop = BridgeSettings.model_validate(place)
    with pytest.raises(SnapshotDamaged, match="of another tenant"):
        await restore_backup(shop, None, folder)
    assert not shop.session_file.exists()
    assert (await restore_backup(settings_of(tmp_path / "same"), None, folder)).whole


@pytest.fixture
async def begun(empty: BridgeSettings) -> AsyncIterator[FileChoiceStore]:
    """The session file of a bridge that was started before the restore, and stored what Redis knew."""
    choices = FileChoiceStore(empty.session_file)
    await choices.merge([Choice("new", False, 7), Choice("both", False, 9), Choice("tie", True, 5)])
    yield choices
    await choices.close()


async def test_choices_of_a_bridge_that_was_started_first_are_merged(
    settings: BridgeSettings,
    empty: BridgeSettings,
    store: InMemoryAgentStore,
    filled: Session,
    begun: FileChoiceStore,
    tmp_path: Path,
) -> None:
    saved = FileChoiceStore(settings.session_file)
    await saved.merge([Choice("both", True, 8), Choice("tie", False, 5), Choice("old", False, 3)])
    await saved.close()
    await make_backup(settings, store, tmp_path / "backup", configuration={})
    await begun.close()
    report = await restore_backup(empty, InMemoryAgentStore(InMemoryLetta()), tmp_path / "backup")
    assert report.whole
    assert {choice.user_key: (choice.permanent_memory, choice.chosen_ms) for choice in await begun.page()} == {
        "new": (False, 7),
        "both": (False, 9),
        "tie": (False, 5),
        "old": (False, 3),
    }
    sessions = FileSessionStore(empty.session_file)
    assert (await sessions.count())["active"] == 3
    await sessions.close()
    again = await restore_backup(empty, None, tmp_path / "backup")
    assert again.state.done_before


async def test_audit_file_at_the_new_place_is_merged_with_that_of_the_backup(
    settings: BridgeSettings, empty: BridgeSettings, filled: Session, tmp_path: Path
) -> None:
    saved, here = (
        FileErasureLog(settings.data_dir / "erasures.jsonl"),
        FileErasureLog(empty.data_dir / "erasures.jsonl"),
    )
    both = await saved.begin("both")
    await saved.begin("old")
    await make_backup(settings, None, tmp_path / "backup", configuration={})
    shutil.copytree(settings.data_dir, empty.data_dir, ignore=shutil.ignore_patterns("*.db*"))
    await here.note(both, finished=True)
    await here.begin("new")
    await restore_backup(empty, None, tmp_path / "backup")
    await restore_backup(empty, None, tmp_path / "backup")
    found = {user: await here.history(user) for user in ("old", "both", "new")}
    assert {user: [row["finished_at"] is not None for row in rows] for user, rows in found.items()} == {
        "old": [False],
        "both": [True],
        "new": [False],
    }


async def test_file_that_a_bridge_has_open_is_refused_before_any_agent_is_written(
    settings: BridgeSettings,
    empty: BridgeSettings,
    store: InMemoryAgentStore,
    filled: Session,
    begun: FileChoiceStore,
    tmp_path: Path,
) -> None:
    await make_backup(settings, store, tmp_path / "backup", configuration={})
    other = InMemoryLetta()
    with pytest.raises(Conflict, match="; stop the bridges of this host and repeat"):
        await restore_backup(empty, InMemoryAgentStore(other), tmp_path / "backup")
    assert other.agents == {}
    assert len(await begun.page()) == 3


async def test_a_backup_that_broke_off_is_recognised(
    settings: Any, empty: BridgeSettings, letta: Any, filled: Session, tmp_path: Any
) -> None:
    class Broken(InMemoryAgentStore):
        async def find(self, tags: Any) -> Any:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        await make_backup(settings, Broken(letta), tmp_path / "backup", configuration={})
    with pytest.raises(BackupDamaged, match="incomplete"):
        await restore_backup(empty, None, tmp_path / "backup")
    with pytest.raises(Conflict, match="incomplete"):
        await make_backup(settings, None, tmp_path / "backup", configuration={})


async def test_an_agent_that_letta_rejects_does_not_keep_the_others_from_being_restored(
    settings: BridgeSettings, empty: Any, store: InMemoryAgentStore, filled: Session, tmp_path: Any
) -> None:
    await make_backup(settings, store, tmp_path / "backup", configuration={})
    writes = count(1)

    class Choosy(InMemoryAgentStore):
        async def write(self, agent_file: Path, variables: Any) -> str:
            if next(writes) == 2:
                raise LettaRejected("its name is odd")
            return await super().write(agent_file, variables)

    letta = InMemoryLetta()
    report = await restore_backup(empty, Choosy(letta), tmp_path / "backup")
    assert report.outcomes == {"restored": 2, "refused": 1}
    assert not report.whole
    assert report.state.moved_sessions == 2
    [refused] = [agent for agent in report.agents if agent.outcome == "refused"]
    assert refused.reason == "its name is odd"
    again = await restore_backup(empty, InMemoryAgentStore(letta), tmp_path / "backup")
    assert again.outcomes == {"restored_before": 2, "restored": 1}
    assert again.state.done_before
    assert again.state.moved_sessions == 1

    sessions = FileSessionStore(empty.data_dir / empty.sessions.file)
    for user in range(3):
        found = await sessions.find(f"用户{user}", "default")
        assert found is not None
        assert [found.agent_id] == [agent.agent_id for agent in await letta.find_agents([f"user:用户{user}"])]
    await sessions.close()


async def test_two_restores_do_not_work_in_one_data_directory(
    settings: BridgeSettings, empty: BridgeSettings, store: InMemoryAgentStore, filled: Session, tmp_path: Path
) -> None:
    await make_backup(settings, store, tmp_path / "backup", configuration={})

    class Slow(InMemoryAgentStore):
        async def find(self, tags: Any) -> Any:
            with pytest.raises(Conflict, match="another restore"):
                await restore_backup(empty, InMemoryAgentStore(InMemoryLetta()), tmp_path / "backup")
            return await super().find(tags)

    report = await restore_backup(empty, Slow(InMemoryLetta()), tmp_path / "backup")
    assert report.whole


@pytest.mark.parametrize(
    "harm", ["changed", "missing", "unnamed", "linked", "incomplete", "newer", "outside", "no_snapshot"]
)
async def test_a_damaged_backup_changes_nothing(
    settings: BridgeSettings,
    empty: BridgeSettings,
    store: InMemoryAgentStore,
    filled: Session,
    tmp_path: Path,
    harm: str,
) -> None:
    folder = tmp_path / "backup"
    await make_backup(settings, store, folder, configuration={})
    agent_file = next((folder / "agents").iterdir())
    text = (folder / "manifest.json").read_text("utf-8")
    match harm:
        case "changed":
            agent_file.write_bytes(agent_file.read_bytes() + b" ")
        case "missing":
            agent_file.unlink()
        case "unnamed":
            shutil.copy(agent_file, folder / "agents" / "agent-of-mine.jsonl")
        case "linked":
            (folder / "agents" / "link").symlink_to("/etc")
        case "incomplete":
            (folder / "manifest.json").unlink()
        case "newer":
            (folder / "manifest.json").write_text(text.replace('"format": 2', '"format": 3'), "utf-8")
        case "outside":
            (folder / "manifest.json").write_text(text.replace('"path": "config.json"', '"path": "../x"', 1), "utf-8")
            (folder / "config.json").unlink()
        case "no_snapshot":
            agent_file.write_bytes(b"{}\n")
            part = next(part for part in manifest.parts_of(folder) if part.path.endswith(agent_file.name))
            before = next(p for p in json.loads(text)["parts"] if p["path"].endswith(agent_file.name))
            changed = text.replace(before["sha256"], part.sha256).replace(f'"size": {before["size"]}', '"size": 3')
            (folder / "manifest.json").write_text(changed, "utf-8")
    other = InMemoryLetta()
    with pytest.raises((BackupDamaged, SnapshotDamaged)) as caught:
        await restore_backup(empty, InMemoryAgentStore(other), folder)
    assert caught.value.code in {"backup_damaged", "snapshot_damaged"}
    assert not await asyncio.to_thread((empty.data_dir / empty.sessions.file).exists)
    if harm != "no_snapshot":
        assert other.agents == {}


async def test_a_backup_of_an_earlier_release_is_still_read(
    settings: BridgeSettings,
    empty: BridgeSettings,
    letta: InMemoryLetta,
    store: InMemoryAgentStore,
    filled: Session,
    tmp_path: Path,
) -> None:
    """Format 1: a session file, and agent files with the only the messages in context."""
    folder = tmp_path / "backup"
    (folder / "agents").mkdir(parents=True)
    with sqlite3.connect(settings.data_dir / settings.sessions.file) as reading:
        with sqlite3.connect(folder / "sessions.db") as writing:
            reading.backup(writing)
        writing.close()
    reading.close()
    agent_file = {
        "agents": [
            {
                "id": "agent-0",
                "name": "bridge-x",
                "tags": ["bridge", "user:用户0", "persona:default"],
                "tool_ids": [],
                "block_ids": [],
                "in_context_message_ids": ["message-0"],
                "messages": [{"id": "message-0", "role": "system", "content": [{"type": "text", "text": "hello"}]}],
            }
        ],
        "blocks": [],
        "tools": [],
    }
    (folder / "agents" / f"{filled.agent_id}.af").write_text(json.dumps(agent_file))
    (folder / "config.json").write_text("{}\n")
    old = {
        "format": 1,
        "release": "0.1.0",
        "created_at": "2026-11-20T12:00:00Z",
        "method": "file",
        "rows": {},
        "agents": 1,
        "parts": [part.model_dump() for part in manifest.parts_of(folder)],
    }
    (folder / "manifest.json").write_text(json.dumps(old))
    other = InMemoryLetta()
    report = await restore_backup(empty, InMemoryAgentStore(other), folder)
    assert report.outcomes == {"restored": 1}
    [lack] = report.lacks
    assert "only the messages in context" in lack
    [agent] = await other.find_agents(["user:用户0"])
    assert agent.former_ids == (filled.agent_id,)
    again = await restore_backup(empty, InMemoryAgentStore(other), folder)
    assert again.outcomes == {"restored_before": 1}
    assert again.state.done_before
    sessions = FileSessionStore(empty.data_dir / empty.sessions.file)
    assert agent is not None
    found = await sessions.find("用户0", "default")
    assert found is not None
    assert found.agent_id == agent.agent_id
    await sessions.close()


async def test_the_user_data_of_a_killed_restore_does_not_stay(
    settings: BridgeSettings, empty: BridgeSettings, store: InMemoryAgentStore, filled: Session, tmp_path: Path
) -> None:
    await make_backup(settings, store, tmp_path / "backup", configuration={})
    left = empty.data_dir / ".restore" / "scratch" / "tmp-killed"
    left.mkdir(parents=True)
    (left / "agent.af").write_text("secret")
    await restore_backup(empty, InMemoryAgentStore(InMemoryLetta()), tmp_path / "backup")
    assert not left.exists()
