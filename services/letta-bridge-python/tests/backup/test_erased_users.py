"""Users who are erased while a backup is made, or after it, do not come back with it."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from letta_bridge import fail_points
from letta_bridge.backup import manifest
from letta_bridge.backup.backup import make_backup
from letta_bridge.backup.restore import restore_backup
from letta_bridge.letta import AgentSpec, Block, TurnMessage
from letta_bridge.request_queue.erasure_ledger import LedgerEntry
from letta_bridge.settings import BridgeSettings
from letta_bridge.testing.agent_store import InMemoryAgentStore
from letta_bridge.testing.letta import InMemoryLetta
from shared_utils.clock import utc_now
from shared_utils.persistence.erasures.log import FileErasureLog, user_hash
from shared_utils.persistence.sessions.file_store import FileSessionStore

USERS = ("小明", "ada")


class Ledger:
    """As the ledger in Redis."""

    def __init__(self, error: ConnectionError | None = None) -> None:
        self.entries: dict[str, Any] = {}
        self.error = error

    def erase(self, user: str, ago: timedelta = timedelta()) -> None:
        self.entries[user_hash(user)] = int((utc_now() - ago).timestamp() * 1000)

    async def since(self, at_ms: int) -> list[Any]:
        if self.error is not None:
            raise self.error
        return [LedgerEntry(user, at) for user, at in self.entries.items() if at >= at_ms]


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


@pytest.fixture
def settings(tmp_path: Path) -> BridgeSettings:
    return BridgeSettings.model_validate({"storage": {"data_dir": str(tmp_path / "data")}})


@pytest.fixture
def empty(tmp_path: Path) -> BridgeSettings:
    return BridgeSettings.model_validate({"storage": {"data_dir": str(tmp_path / "elsewhere")}})


@pytest.fixture
async def letta(settings: BridgeSettings) -> InMemoryLetta:
    """An agent and a session of each user."""
    letta, sessions = InMemoryLetta(), FileSessionStore(settings.session_file)
    for user in USERS:
        tags = ("bridge", f"user:{user}", "persona:default")
        agent = await letta.create_agent(AgentSpec("x", tags, "m", None, "letta_v1_agent", (Block("human", "x"),), ()))
        await letta.send(agent.agent_id, [TurnMessage("user", "hello", f"otid-{user}")], timeout=5)
        await sessions.save(replace(await sessions.reserve(user, "default"), agent_id=agent.agent_id))
    await sessions.close()
    return letta


@pytest.fixture
async def backup(settings: BridgeSettings, letta: InMemoryLetta, tmp_path: Path) -> Path:
    await make_backup(settings, InMemoryAgentStore(letta), tmp_path / "backup", configuration={})
    return tmp_path / "backup"


def users_of(letta: InMemoryLetta) -> set[str]:
    return {tag for agent in letta.agents.values() for tag in agent.ref.tags if tag.startswith("user:")}


async def sessions_of(settings: BridgeSettings) -> set[str]:
    store = FileSessionStore(settings.session_file)
    found = {user for user in USERS if await store.find(user, "default") is not None}
    await store.close()
    return found


async def test_restore_leaves_out_a_user_whom_the_ledger_names_since_the_backup(
    backup: Any, empty: Any, ledger: Any
) -> None:
    ledger.erase("ada")
    other = InMemoryLetta()
    report = await restore_backup(empty, InMemoryAgentStore(other), backup, ledger=ledger)
    assert (report.outcomes, report.erased_since, report.unread) == ({"restored": 1, "erased": 1}, 1, ())
    assert report.whole
    assert users_of(other) == {"user:小明"}
    assert await sessions_of(empty) == {"小明"}
    row = b"adadefault"  # as SQLite stores user and persona
    assert row in (backup / "sessions.db").read_bytes()
    assert row not in empty.session_file.read_bytes()


async def test_restore_leaves_out_a_user_whom_the_audit_of_the_place_names(backup: Path, empty: BridgeSettings) -> None:
    await FileErasureLog(empty.tenant_dir / "erasures.jsonl").begin("ada")
    other = InMemoryLetta()
    report = await restore_backup(empty, InMemoryAgentStore(other), backup)
    assert report.erased_since == 1
    assert users_of(other) == {"user:小明"}
    assert await sessions_of(empty) == {"小明"}


async def test_restore_brings_back_a_user_who_was_erased_before_the_backup_and_returned(
    backup: Any, empty: Any, ledger: Any
) -> None:
    ledger.erase("ada", ago=timedelta(minutes=5))
    report = await restore_backup(empty, InMemoryAgentStore(InMemoryLetta()), backup, ledger=ledger)
    assert (report.outcomes, report.erased_since) == ({"restored": 2}, 0)


async def test_repeated_restore_leaves_out_an_agent_whose_user_was_erased_in_between(
    backup: Any, empty: Any, ledger: Any
) -> None:
    other = InMemoryLetta()
    await restore_backup(empty, InMemoryAgentStore(other), backup, ledger=ledger)
    ledger.erase("ada")
    [agent] = await other.find_agents(["user:ada"])
    await other.delete_agent(agent.agent_id)
    again = await restore_backup(empty, InMemoryAgentStore(other), backup, ledger=ledger)
    assert (again.outcomes, again.erased_since) == ({"restored_before": 1, "erased": 1}, 1)
    assert users_of(other) == {"user:小明"}


async def test_restore_names_an_agent_that_exists_although_its_user_was_erased(
    backup: Any, empty: Any, letta: Any, ledger: Any
) -> None:
    ledger.erase("ada")
    report = await restore_backup(empty, InMemoryAgentStore(letta), backup, ledger=ledger)
    [agent] = await letta.find_agents(["user:ada"])
    assert [one.other for one in report.agents if one.outcome == "erased"] == [agent.agent_id]
    assert not report.whole


async def test_restore_leaves_out_a_user_whose_erasure_begins_while_it_writes_agents(
    backup: Any, empty: Any, ledger: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = InMemoryLetta()
    monkeypatch.setattr(fail_points, "reach", lambda step: ledger.erase("ada") if step == "agent_restored" else None)
    report = await restore_backup(empty, InMemoryAgentStore(other), backup, ledger=ledger)
    assert await sessions_of(empty) == {"小明"}
    assert report.erased_since == 1


async def test_backup_leaves_out_the_agent_of_a_user_who_is_erased_meanwhile_and_names_the_user(
    settings: Any, empty: BridgeSettings, letta: Any, ledger: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fail_points, "reach", lambda step: ledger.erase("ada") if step == "state_saved" else None)
    folder = tmp_path / "backup"
    made = await make_backup(settings, InMemoryAgentStore(letta), folder, configuration={}, ledger=ledger)
    assert made.erased == (user_hash("ada"),)
    [skipped] = made.skipped
    assert "erased" in skipped.reason
    assert not any(b"user:ada" in path.read_bytes() for path in (folder / "agents").iterdir())
    # A place that knows nothing of the erasure leaves the user out by the manifest alone.
    report = await restore_backup(empty, InMemoryAgentStore(InMemoryLetta()), folder)
    assert report.erased_since == 1
    assert await sessions_of(empty) == {"小明"}


async def test_backup_names_a_user_whose_erasure_began_before_it_and_has_not_ended(
    settings: BridgeSettings, letta: InMemoryLetta, tmp_path: Path
) -> None:
    await FileErasureLog(settings.tenant_dir / "erasures.jsonl").begin("ada")
    made = await make_backup(settings, InMemoryAgentStore(letta), tmp_path / "backup", configuration={})
    assert made.erased == (user_hash("ada"),)


async def test_backup_and_restore_say_that_the_ledger_cannot_be_read(
    settings: Any, empty: Any, letta: InMemoryLetta, tmp_path: Any
) -> None:
    away: Any = Ledger(ConnectionError("refused"))
    store = InMemoryAgentStore(letta)
    made = await make_backup(settings, store, tmp_path / "backup", configuration={}, ledger=away)
    assert "list of erasures in Redis cannot be read" in made.erasures_unread[0]
    report = await restore_backup(empty, store, tmp_path / "backup", ledger=away)
    assert "list of erasures in Redis cannot be read" in report.unread[0]


async def test_restore_warns_that_the_ledger_does_not_reach_back_to_an_old_backup(
    backup: Any, empty: Any, ledger: Any
) -> None:
    old = manifest.read(backup).model_copy(update={"created_at": utc_now() - timedelta(days=500)})
    manifest.write(backup, old)
    report = await restore_backup(empty, InMemoryAgentStore(InMemoryLetta()), backup, ledger=ledger)
    assert "keeps an entry for only 400 days" in report.unread[0]
