"""What `letta-bridge backup` and `restore` say, and how they end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from typer.testing import CliRunner

from letta_bridge.cli import backup as commands
from letta_bridge.cli import own_agents
from letta_bridge.errors import LettaRejected
from letta_bridge.letta import AgentSpec, Block, TurnMessage
from letta_bridge.letta.agent_store import AgentDescription
from letta_bridge.letta.letta_client import LettaClient
from letta_bridge.main import app
from letta_bridge.settings import BridgeSettings
from letta_bridge.testing.agent_store import InMemoryAgentStore
from letta_bridge.testing.letta import InMemoryLetta


@pytest.fixture
def letta() -> InMemoryLetta:
    letta = InMemoryLetta()

    async def fill() -> None:
        for user in ("小明", "ada"):
            tags = ("bridge", f"user:{user}", "persona:default")
            spec = AgentSpec("x", tags, "m", None, "letta_v1_agent", (Block("human", user),), ())
            agent = await letta.create_agent(spec)
            await letta.send(agent.agent_id, [TurnMessage("user", "secret words", "otid")], timeout=5)
            letta.note(agent.agent_id, "likes cats")

    asyncio.run(fill())
    return letta


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, letta: InMemoryLetta) -> Callable[..., Any]:
    """A command against the fake, without a database and without Redis."""
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    monkeypatch.delenv("DATABASE_URL", raising=False)

    def call(*arguments: Path | str, code: int = 0, store: Any = None, data: str = "data") -> str:
        monkeypatch.setattr(commands, "letta_client", lambda _settings: letta)
        monkeypatch.setattr(commands, "agent_store", lambda client: store or InMemoryAgentStore(client))
        variables = {
            "LETTA_BRIDGE_CONFIG": str(tmp_path / "config.json"),
            "DATA_DIR": str(tmp_path / data),
            "REDIS_URL": "redis://127.0.0.1:1/0",
            "TERM": "dumb",
        }
        result = CliRunner().invoke(app, [str(argument) for argument in arguments], env=variables)
        assert result.exit_code == code, result.output
        return result.output

    return call


def test_backup_prints_its_contents_and_omissions(call: Callable[..., Any], tmp_path: Path) -> None:
    told = call("backup", tmp_path / "backup")
    assert "2 agents with 6 messages and 2 passages" in told
    assert "in no backup: embeddings of passages, which Letta computes again" in told
    assert "not saved, in Redis: redis:" in told
    assert "secret words" not in told


def test_an_agent_that_cannot_be_read_is_named_and_ends_in_failure(
    call: Callable[..., Any], letta: InMemoryLetta, tmp_path: Path
) -> None:
    class Unreadable(InMemoryAgentStore):
        async def describe(self, agent_id: str) -> AgentDescription:
            if agent_id == next(iter(letta.agents)):
                raise LettaRejected("its history is broken")
            return await super().describe(agent_id)

    told = call("backup", tmp_path / "backup", code=1, store=Unreadable(letta))
    assert f"skipped: agent x ({next(iter(letta.agents))}): Letta cannot read it: its history is broken" in told
    assert "its history is broken" in call("restore", tmp_path / "backup", data="elsewhere")


def test_restore_prints_its_results_and_comparisons(
    call: Callable[..., Any], letta: InMemoryLetta, tmp_path: Path
) -> None:
    call("backup", tmp_path / "backup")
    letta.agents.clear()
    told = call("restore", tmp_path / "backup", data="elsewhere")
    assert "agents: 2 restored, 0 restored by an earlier run, 0 there already, 0 not restored" in told
    assert "compared with the backup: 2 archives, 2 blocks, 4 messages, 2 passages" in told
    again = call("restore", tmp_path / "backup", data="elsewhere")
    assert "agents: 0 restored, 2 restored by an earlier run" in again


def test_an_agent_that_was_not_restored_is_named_and_ends_in_failure(
    call: Callable[..., Any], letta: InMemoryLetta, tmp_path: Path
) -> None:
    call("backup", tmp_path / "backup")
    saved = next(iter(letta.agents))
    del letta.agents[saved]
    tags = ("bridge", "user:小明", "persona:default")
    other = asyncio.run(letta.create_agent(AgentSpec("x", tags, "m", None, "letta_v1_agent", (), ())))
    told = call("restore", tmp_path / "backup", code=1, data="elsewhere")
    assert (
        f"not restored: {saved} (bridge, user:小明, persona:default): the user has the agent {other.agent_id}" in told
    )


def test_a_difference_is_listed_and_ends_in_failure(
    call: Callable[..., Any], letta: InMemoryLetta, tmp_path: Path
) -> None:
    class Forgetful(InMemoryAgentStore):
        async def add_passages(self, archive_id: str, passages: Any) -> None:
            await super().add_passages(archive_id, passages[1:])

    call("backup", tmp_path / "backup")
    letta.agents.clear()
    told = call("restore", tmp_path / "backup", code=1, store=Forgetful(letta), data="elsewhere")
    assert told.count("1 of 1 passages are missing or differ") == 2
    again = call("restore", tmp_path / "backup", code=1, store=InMemoryAgentStore(letta), data="elsewhere")
    assert "2 restored by an earlier run" in again
    assert again.count("1 of 1 passages are missing or differ") == 2


def test_backup_and_restore_print_json(call: Callable[..., Any], letta: InMemoryLetta, tmp_path: Path) -> None:
    made = json.loads(call("backup", tmp_path / "backup", "--json").splitlines()[-1])
    assert made["format"] == 2
    assert {agent["counts"]["message"] for agent in made["agents"]} == {3}
    letta.agents.clear()
    report = json.loads(call("restore", tmp_path / "backup", "--json", data="elsewhere").splitlines()[-1])
    assert report["whole"] is True
    assert report["outcomes"] == {"restored": 2}
    assert report["agents"][0]["compared"]["message"] == 2


def test_a_script_that_asks_for_plain_text_still_works(call: Callable[..., Any], tmp_path: Path) -> None:
    call("backup", tmp_path / "backup", "--plain")


def test_agents_can_be_left_out(call: Callable[..., Any], letta: InMemoryLetta, tmp_path: Path) -> None:
    assert "0 agents" in call("backup", tmp_path / "backup", "--no-agents")
    assert "agents: 0 restored" in call("restore", tmp_path / "backup", "--no-agents", data="elsewhere")


def test_a_second_backup_into_a_directory_is_refused_in_one_sentence(call: Callable[..., Any], tmp_path: Path) -> None:
    call("backup", tmp_path / "backup")
    told = call("backup", tmp_path / "backup", code=1)
    assert told.strip().splitlines()[-1].startswith("letta-bridge: ")
    assert "not empty" in told


@pytest.mark.parametrize(("option", "outcome"), [("--agents", ["asked", "answered"]), ("--no-agents", ["asked"])])
def test_only_a_backup_without_agents_continues_while_letta_is_silent(
    call: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str, outcome: list[str]
) -> None:
    async def slow(*_args: LettaClient | BridgeSettings | Redis) -> None:
        seen.append("asked")
        await asyncio.sleep(5 * patience)
        seen.append("answered")

    patience = 0.3
    seen: list[Any] = []
    monkeypatch.setattr(commands, "_PATIENCE_SECONDS", patience)
    monkeypatch.setattr(own_agents, "require_own_agents", slow)
    assert "not saved, in Redis" in call("backup", tmp_path / "backup", option)
    assert seen == outcome


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("restore", "{folder}/none"), "{folder}/none does not exist; name the directory of a backup"),
        (("restore", "{folder}/config.json"), "{folder}/config.json is not a directory; name a directory"),
        (("backup", "{folder}/config.json"), "{folder}/config.json is not a directory; name a directory"),
        (("user", "export", "ada", "--to", "{folder}/config.json"), "{folder}/config.json is not a directory; name"),
    ],
    ids=["restore nothing", "restore a file", "backup to a file", "export to a file"],
)
def test_a_path_that_is_no_directory_is_named_in_one_sentence(
    call: Callable[..., Any], tmp_path: Path, arguments: tuple[Any, ...], says: str
) -> None:
    told = call(*(argument.format(folder=tmp_path) for argument in arguments), code=2)
    assert told.startswith(f"letta-bridge: {says.format(folder=tmp_path)}")
    assert len(told.splitlines()) == 1
