"""Exported files: named safely whatever ids hold, readable whatever texts hold, and for their owner only."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from letta_bridge.letta import AgentSpec, Block, TurnMessage
from letta_bridge.testing.agent_store import InMemoryAgentStore
from letta_bridge.testing.letta import InMemoryLetta
from letta_bridge.user_data.agent_data import AgentUserData
from letta_bridge.user_data.conversation_data import ConversationUserData
from letta_bridge.user_data.files import write_json, write_json_lines
from shared_utils.persistence.conversations.records import Conversation, Message
from shared_utils.persistence.repositories.repository import Page

NASTY = ("../../escaped", "a/b", "a\nb", "用户" * 128, "x" * 256, "half \ud83d", "..")


class Conversations:
    """Stands for the service: one conversation of this id, with one message."""

    def __init__(self, conversation_id: str) -> None:
        now = datetime.now(UTC)
        self._conversation = Conversation(
            id=conversation_id, user_id="u", source="s", title="t", metadata={}, created_at=now, updated_at=now
        )
        self._message = Message(
            id="m", conversation_id=conversation_id, ordinal=1, role="user", content="你好", metadata={}, created_at=now
        )

    async def of_user(self, _user_id: Any, **_page: Any) -> Any:
        return Page([self._conversation], None)

    async def history(self, _conversation_id: Any, **_page: Any) -> Any:
        return Page([self._message], None)


def files(folder: Path) -> list[Any]:
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize("conversation_id", NASTY)
async def test_a_conversation_of_any_id_stays_inside_the_export(tmp_path: Path, conversation_id: Any) -> None:
    folder = tmp_path / "export"
    conversations: Any = Conversations(conversation_id)
    assert await ConversationUserData(conversations).export("u", folder) == {"conversations": 1}
    [file] = files(tmp_path)
    assert file.parent == folder / "conversations"
    first, second = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    assert first["id"] == conversation_id
    assert second["content"] == "你好"


@pytest.mark.parametrize("user", NASTY)
async def test_the_agents_of_a_user_of_any_id_are_exported(tmp_path: Path, user: str) -> None:
    letta = InMemoryLetta()
    spec = AgentSpec("x", ("bridge", f"user:{user}"), "m", None, "letta_v1_agent", (Block("human", user),), ())
    agent = await letta.create_agent(spec)
    await letta.send(agent.agent_id, [TurnMessage("user", f"I am {user}", "otid")], timeout=5)
    counts = await AgentUserData(letta, InMemoryAgentStore(letta)).export(user, tmp_path / "export")
    assert counts == {"agents": 1, "agent_messages": 3, "agent_passages": 0}
    assert {file.name for file in files(tmp_path)} == {
        f"{agent.agent_id}.jsonl",
        f"{agent.agent_id}.af",
        "contents.json",
    }
    assert {oct(file.stat().st_mode & 0o777) for file in files(tmp_path)} == {"0o600"}
    [about] = json.loads((tmp_path / "export" / "agents" / "contents.json").read_bytes())["agents"]
    assert about["tags"] == ["bridge", f"user:{user}"]


def test_half_a_surrogate_pair_is_written_as_an_escape(tmp_path: Path) -> None:
    write_json(tmp_path / "one.json", {"text": "half \ud83d 你好"})
    assert write_json_lines(tmp_path / "lines.jsonl", [{"text": "half \ud83d"}, b'"\\ud83d"', b"no json \xff"]) == 3
    assert json.loads((tmp_path / "one.json").read_bytes()) == {"text": "half \ud83d 你好"}
    lines = (tmp_path / "lines.jsonl").read_text("utf-8").splitlines()
    assert [json.loads(line) for line in lines] == [{"text": "half \ud83d"}, "�", "no json �"]
    assert "你好" in (tmp_path / "one.json").read_text("utf-8")


def test_nothing_to_write_makes_no_file(tmp_path: Path) -> None:
    assert write_json_lines(tmp_path / "lines.jsonl", []) == 0
    assert files(tmp_path) == []
