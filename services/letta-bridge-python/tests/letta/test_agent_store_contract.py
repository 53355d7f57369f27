"""What every store of whole agents does: one suite, run on the fake and on a real server."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from letta_bridge.agent_snapshots import capture
from letta_bridge.agent_snapshots.agent_file import write_agent_file
from letta_bridge.errors import AgentGone, LettaRejected
from letta_bridge.letta.agent_store import StoredConversation, StoredMessage

if TYPE_CHECKING:
    from letta_bridge_tests.letta.conftest import Agents

GONE = "agent-22006411-d94a-4f4b-9bd9-25f0a9d311a8"
server_only = pytest.mark.parametrize("agents", [pytest.param("server", marks=pytest.mark.letta)], indirect=True)
LISTS = ("groups", "blocks", "files", "sources", "tools", "mcp_servers")


def text_of(message: StoredMessage) -> str:
    return "".join(part.get("text", "") for part in message.row.get("content") or [])


async def test_an_agent_is_described(agents: Agents) -> None:
    agent = await agents.made()
    await agents.told(agent, "你好")
    described = await agents.store.describe(agent)
    assert set(described.agent.tags) == set(agents.spec.tags)
    assert described.agent.name == agents.spec.name
    assert described.settings["system"]
    assert described.settings["llm_config"]
    blocks = {block.content["label"]: block for block in described.blocks}
    assert {label: block.content["value"] for label, block in blocks.items()} == {
        "human": "说中文 ✨",
        "persona": "kind",
    }
    assert not any(block.shared for block in described.blocks)
    assert sorted(tool["name"] for tool in described.tools) == sorted(agents.spec.tools)
    assert described.variables == {}
    assert described.left_out == ()
    ids = [message.message_id for message in await agents.rows(agent)]
    assert list(described.context) == ids
    assert described.newest == ids[-1]


@pytest.mark.parametrize("tools", [(), ("memory_insert",), ("conversation_search", "memory_insert", "memory_rethink")])
async def test_written_agent_has_exactly_its_tools(agents: Agents, tools: tuple[Any, ...]) -> None:
    described = await agents.store.describe(await agents.made(tools=tools))
    assert sorted(tool["name"] for tool in described.tools) == sorted(tools)


async def test_every_message_is_read_in_order_also_out_of_context(agents: Agents) -> None:
    agent = await agents.made()
    texts = [f"第{number}句" for number in range(6)]
    otids = await agents.told(agent, *texts)
    before = await agents.rows(agent)
    described = await agents.store.describe(agent)
    await agents.store.set_context(agent, [described.context[0], described.context[-1]])
    rows = await agents.rows(agent)
    assert [row.message_id for row in rows] == [row.message_id for row in before]
    users = [row for row in rows if row.row["role"] == "user"]
    assert [text_of(row) for row in users] == texts
    assert [row.row["otid"] for row in users] == otids
    assert all(row.exact and row.row["created_at"] for row in rows)


async def test_messages_of_later_turns_are_not_part_of_a_description(agents: Agents) -> None:
    agent = await agents.made()
    await agents.told(agent, "before")
    described = await agents.store.describe(agent)
    await agents.told(agent, "after")
    texts = [text_of(message) async for message in agents.store.messages(described)]
    assert "before" in texts
    assert "after" not in texts


async def test_passages_keep_date_tags_and_metadata(agents: Agents) -> None:
    agent = await agents.made()
    texts = [f"第{number}条" for number in range(120)]
    await agents.note(agent, *texts[:60])
    [archive] = await agents.store.archives(agent)
    assert archive.settings["name"] == "notes"
    assert not archive.shared
    passages = [passage async for passage in agents.store.passages(agent)]
    assert [passage.text for passage in passages] == texts[:60]
    assert {passage.archive_id for passage in passages} == {archive.archive_id}
    assert passages[7].tags == ("tag",)
    assert passages[7].metadata == {"number": 7}
    assert passages[7].created_at.startswith("2021-02-03T04:05:07.123456")


async def test_a_written_agent_has_every_message_under_ids_of_its_own(agents: Agents, tmp_path: Path) -> None:
    agent = await agents.made()
    otids = await agents.told(agent, "我叫小明。", "one", "two", "three")
    described = await agents.store.describe(agent)
    await agents.store.set_context(agent, [described.context[0], *described.context[-2:]])
    original = await agents.rows(agent)
    await capture(agents.store, agent, tmp_path / "snapshot")
    write_agent_file(tmp_path / "snapshot", tmp_path / "agent.af")
    await agents.letta.delete_agent(agent)

    written = await agents.store.write(tmp_path / "agent.af", {})
    assert written != agent
    rows = await agents.rows(written)
    assert [text_of(row) for row in rows] == [text_of(row) for row in original]
    assert [row.row["role"] for row in rows] == [row.row["role"] for row in original]
    assert [row.row["created_at"] for row in rows] == [row.row["created_at"] for row in original]
    assert [row.row["otid"] for row in rows if row.row["role"] == "user"] == otids
    assert not {row.message_id for row in rows} & {row.message_id for row in original}
    again = await agents.store.describe(written)
    assert [text_of(row) for row in rows if row.message_id in again.context][1:] == [
        text_of(row) for row in original[-2:]
    ]
    assert set(otids) < {message["otid"] for message in await agents.letta.history(written)}
    await agents.store.recompile(written)
    system = next(row for row in await agents.rows(written) if row.message_id == again.context[0])
    assert written in text_of(system)
    assert agent not in text_of(system)
    await agents.told(written, "再见")


async def test_an_agent_is_given_other_tags(agents: Agents) -> None:
    agent = await agents.made()
    await agents.store.retag(agent, [agents.tag, "formerly:agent-x"])
    [found] = await agents.store.find([agents.tag, "formerly:agent-x"])
    assert set(found.tags) == {agents.tag, "formerly:agent-x"}
    assert found.former_ids == ("agent-x",)
    assert (await agents.store.get(agent)).former_ids == ("agent-x",)
    assert await agents.store.find(["bridge", agents.tag]) == []


async def test_shared_block_and_archive_are_described_as_shared(agents: Agents) -> None:
    one, other = await agents.made(), await agents.made(blocks=())
    await agents.note(one, "shared")
    block = (await agents.store.describe(one)).blocks[0]
    [archive] = await agents.store.archives(one)
    assert await agents.store.attach_block(other, block.block_id)
    assert await agents.store.attach_archive(other, archive.archive_id)
    [shared] = (await agents.store.describe(other)).blocks
    assert shared.block_id == block.block_id
    assert shared.shared
    assert [one.shared for one in await agents.store.archives(other)] == [True]
    assert [passage.text async for passage in agents.store.passages(other)] == ["shared"]


async def test_attaching_a_missing_block_or_archive_returns_false(agents: Agents) -> None:
    agent = await agents.made()
    assert not await agents.store.attach_block(agent, f"block-{uuid.uuid4()}")
    assert not await agents.store.attach_archive(agent, f"archive-{uuid.uuid4()}")


async def test_a_conversation_is_forked_with_the_context_of_the_moment(agents: Agents) -> None:
    agent = await agents.made()
    await agents.told(agent, "one", "two")
    assert await agents.store.conversations(agent) == []
    described = await agents.store.describe(agent)
    await agents.store.set_context(agent, described.context[:3])
    made = await agents.store.fork(agent, StoredConversation("", (), "side talk"))
    [conversation] = await agents.store.conversations(agent)
    assert conversation.conversation_id == made
    assert conversation.summary == "side talk"
    assert conversation.context[1:] == described.context[1:3]
    assert conversation.context[0] not in described.context


@pytest.mark.parametrize("agent_id", [GONE, "agent-of nobody"])
async def test_an_agent_that_does_not_exist_cannot_be_described(agents: Agents, agent_id: str) -> None:
    with pytest.raises(AgentGone):
        await agents.store.describe(agent_id)
    with pytest.raises(AgentGone):
        await agents.store.get(agent_id)
    assert not await agents.store.delete(agent_id)


@pytest.mark.parametrize("content", [b"", b"{}", b'{"agents": []}', "不是".encode()])
async def test_write_refuses_an_invalid_agent_file(agents: Agents, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "agent.af").write_bytes(content)
    with pytest.raises(LettaRejected):
        await agents.store.write(tmp_path / "agent.af", {})


@server_only
async def test_write_sets_variables_and_keeps_existing_tools(agents: Agents, tmp_path: Path) -> None:
    name = f"tool_{uuid.uuid4().hex[:8]}"
    source = f'def {name}() -> str:\n    """Say it."""\n    return "it"\n'
    agent = await agents.made()
    settings = dict((await agents.store.describe(agent)).settings)
    tool = {
        "id": "tool-0",
        "name": name,
        "tool_type": "custom",
        "source_type": "python",
        "source_code": source,
    }
    written = {
        "id": "agent-0",
        "name": "variables",
        "tags": [agents.tag],
        "system": "x",
        "agent_type": "letta_v1_agent",
        "llm_config": settings["llm_config"],
        "tool_ids": ["tool-0"],
        "block_ids": [],
        "messages": [],
        "in_context_message_ids": [],
        "include_base_tools": False,
        "secrets": {"KEY": ""},
        "tool_exec_environment_variables": {"KEY": ""},
    }
    file = {"agents": [written], **{name: [] for name in LISTS}, "tools": [tool]}
    (tmp_path / "agent.af").write_text(json.dumps(file))
    await agents.store.write(tmp_path / "agent.af", {"KEY": "first"})  # the tool exists from now on
    tool["source_code"] = source.replace("it", "something else")
    (tmp_path / "agent.af").write_text(json.dumps(file))
    described = await agents.store.describe(await agents.store.write(tmp_path / "agent.af", {"KEY": "value"}))
    assert described.variables == {"KEY": "value"}
    [kept] = described.tools
    assert kept["source_code"] == source
