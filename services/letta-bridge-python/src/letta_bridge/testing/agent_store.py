"""An :class:`~letta_bridge.letta.agent_store.AgentStore` without a server, over the agents of an ``InMemoryLetta``.

It copies measured behaviour of Letta 0.16.8: a written agent gets new ids, and messages keep their otids and dates.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from letta_bridge.errors import LettaRejected
from letta_bridge.letta.agent_store import (
    AgentDescription,
    Json,
    StoredArchive,
    StoredBlock,
    StoredConversation,
    StoredMessage,
    StoredPassage,
)
from letta_bridge.letta.port import AgentPassage, AgentRef, AgentSpec
from letta_bridge.testing.letta import FakeAgent, InMemoryLetta

_TYPES: Final = {
    "user": "user_message",
    "summary": "user_message",
    "system": "system_message",
    "tool": "tool_return_message",
    "assistant": "assistant_message",
}
_SETTINGS: Final = ("system", "agent_type", "llm_config", "embedding_config", "tool_rules", "description", "metadata")


@dataclass
class _Archive:
    settings: Json
    passages: list[AgentPassage]
    details: dict[str, StoredPassage] = field(default_factory=dict)


@dataclass
class _Whole:
    """Parts of an agent beside its messages."""

    settings: dict[str, Any]
    blocks: dict[str, dict[str, Any]]
    """By id; agents that share a block have one object."""
    tools: list[Json]
    variables: dict[str, str] = field(default_factory=dict)
    context: list[str] | None = None
    """None while everything is in context."""
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Message id → row, of messages that were written as rows."""
    conversations: list[StoredConversation] = field(default_factory=list)
    archives: dict[str, _Archive] = field(default_factory=dict)


class InMemoryAgentStore:
    """A store over the agents of a fake. Several stores over one fake share its state.

    Args:
        letta: the fake.
    """

    def __init__(self, letta: InMemoryLetta) -> None:
        self._letta = letta

    async def find(self, tags: Sequence[str]) -> list[AgentRef]:
        return await self._letta.find_agents(tags)

    async def get(self, agent_id: str) -> AgentRef:
        return await self._letta.get_agent(agent_id)

    async def delete(self, agent_id: str) -> bool:
        return await self._letta.delete_agent(agent_id)

    async def describe(self, agent_id: str) -> AgentDescription:
        agent, whole = await self._of(agent_id)
        ids = [str(message["id"]) for message in agent.history]
        return AgentDescription(
            agent=agent.ref,
            settings=dict(whole.settings),
            blocks=tuple(
                StoredBlock(block_id, dict(content), self._users("blocks", block_id) > 1)
                for block_id, content in whole.blocks.items()
            ),
            tools=tuple(whole.tools),
            variables=dict(whole.variables),
            context=tuple(ids if whole.context is None else whole.context),
            newest=ids[-1] if ids else None,
        )

    async def messages(self, described: AgentDescription) -> AsyncIterator[StoredMessage]:
        agent, whole = await self._of(described.agent.agent_id)
        for entry in list(agent.history):
            message_id, run_id = str(entry["id"]), entry.get("run_id")
            row = whole.rows.get(message_id) or _row(entry)
            await self._letta.health()
            yield StoredMessage(message_id, dict(row), str(run_id) if run_id else None)
            if message_id == described.newest:
                return

    async def conversations(self, agent_id: str) -> Sequence[StoredConversation]:
        return list((await self._of(agent_id))[1].conversations)

    async def archives(self, agent_id: str) -> Sequence[StoredArchive]:
        _, whole = await self._of(agent_id)
        return [
            StoredArchive(archive_id, archive.settings, self._users("archives", archive_id) > 1)
            for archive_id, archive in whole.archives.items()
        ]

    async def passages(self, agent_id: str) -> AsyncIterator[StoredPassage]:
        _, whole = await self._of(agent_id)
        for archive_id, archive in whole.archives.items():
            for passage in list(archive.passages):
                plain = StoredPassage(passage.passage_id, archive_id, passage.text, passage.created_at)
                yield archive.details.get(passage.passage_id, plain)

    async def write(self, agent_file: Path, variables: Mapping[str, str]) -> str:
        await self._letta.health()
        try:
            content = json.loads(agent_file.read_bytes())  # noqa: ASYNC240  # a fake may block
            written = content["agents"][0]
            name, tags, messages = str(written["name"]), tuple(written["tags"]), list(written["messages"])
        except (ValueError, KeyError, IndexError, TypeError):
            raise LettaRejected("Letta refused the request: not an agent file.") from None
        spec = AgentSpec(name, tags, "", None, str(written.get("agent_type")), (), ())
        ref = AgentRef(f"agent-{uuid.uuid4()}", name, tags, datetime.now(UTC).isoformat())
        agent = FakeAgent(ref, spec)
        blocks = {one["id"]: one for one in content["blocks"]}
        tools = {one["id"]: one for one in content["tools"]}
        whole = _Whole(
            settings={key: written[key] for key in _SETTINGS if written.get(key) is not None},
            blocks={f"block-{uuid.uuid4()}": _without_id(blocks[one]) for one in written["block_ids"]},
            tools=[_without_id(tools[one]) for one in written["tool_ids"]],
            variables={key: variables.get(key, "") for key in written.get("secrets") or {}},
        )
        agent.whole["whole"] = whole
        ids = {}
        for message in messages:
            ids[message["id"]] = message_id = f"message-{uuid.uuid4()}"
            whole.rows[message_id] = {key: value for key, value in message.items() if key != "id"}
            agent.history.append(_entry(message_id, message))
        whole.context = [ids[one] for one in written["in_context_message_ids"]]
        self._letta.agents[ref.agent_id] = agent
        return ref.agent_id

    async def set_context(self, agent_id: str, message_ids: Sequence[str]) -> None:
        (await self._of(agent_id))[1].context = list(message_ids)

    async def recompile(self, agent_id: str) -> None:
        agent, whole = await self._of(agent_id)
        first = whole.context[0] if whole.context else str(agent.history[0]["id"])
        blocks = "".join(f"<{block['label']}>{block['value']}" for block in whole.blocks.values())
        text = f"{whole.settings.get('system')} {blocks} {agent_id}"
        whole.rows[first] = {"role": "system", "content": [{"type": "text", "text": text}]}

    async def retag(self, agent_id: str, tags: Sequence[str]) -> None:
        agent, _ = await self._of(agent_id)
        agent.ref = replace(agent.ref, tags=tuple(tags))

    async def attach_block(self, agent_id: str, block_id: str) -> bool:
        _, whole = await self._of(agent_id)
        for other in self._wholes():
            if block_id in other.blocks:
                whole.blocks[block_id] = other.blocks[block_id]
                return True
        return False

    async def make_archive(self, settings: Json) -> str:
        await self._letta.health()
        archive_id = f"archive-{uuid.uuid4()}"
        self._unattached[archive_id] = _Archive(settings, [])
        return archive_id

    async def attach_archive(self, agent_id: str, archive_id: str) -> bool:
        agent, whole = await self._of(agent_id)
        archive = self._archive(archive_id)
        if archive is None:
            return False
        whole.archives[archive_id] = archive
        agent.passages = archive.passages
        return True

    async def add_passages(self, archive_id: str, passages: Sequence[StoredPassage]) -> None:
        await self._letta.health()
        archive = self._archive(archive_id)
        if archive is None:
            raise LettaRejected("Letta has nothing there.", cause="not_found", status=404)
        for passage in passages:
            made = replace(passage, passage_id=f"passage-{uuid.uuid4()}", archive_id=archive_id)
            archive.passages.append(AgentPassage(made.passage_id, made.text, made.created_at))
            archive.details[made.passage_id] = made

    async def fork(self, agent_id: str, conversation: StoredConversation) -> str:
        agent, whole = await self._of(agent_id)
        system_id, conversation_id = f"message-{uuid.uuid4()}", f"conv-{uuid.uuid4()}"
        row = {"role": "system", "content": [{"type": "text", "text": f"compiled for {conversation_id}"}]}
        whole.rows[system_id] = row
        agent.history.append(_entry(system_id, row))
        context = whole.context or [str(message["id"]) for message in agent.history[:-1]]
        forked = replace(conversation, conversation_id=conversation_id, context=(system_id, *context[1:]))
        whole.conversations.append(forked)
        return conversation_id

    async def close(self) -> None:
        """Nothing to delete."""

    async def _of(self, agent_id: str) -> tuple[FakeAgent, _Whole]:
        await self._letta.get_agent(agent_id)
        agent = self._letta.agents[agent_id]
        return agent, _whole_of(agent)

    def _wholes(self) -> list[_Whole]:
        return [_whole_of(agent) for agent in self._letta.agents.values()]

    def _users(self, what: str, thing_id: str) -> int:
        return sum(thing_id in getattr(whole, what) for whole in self._wholes())

    @property
    def _unattached(self) -> dict[str, _Archive]:
        held: dict[str, _Archive] = self._letta.__dict__.setdefault("_unattached_archives", {})
        return held

    def _archive(self, archive_id: str) -> _Archive | None:
        attached = (whole.archives.get(archive_id) for whole in self._wholes())
        return self._unattached.get(archive_id) or next((one for one in attached if one is not None), None)


def _whole_of(agent: FakeAgent) -> _Whole:
    """The parts of an agent, created on first use for an agent made by ``create_agent``."""
    if "whole" not in agent.whole:
        spec = agent.spec
        agent.whole["whole"] = _Whole(
            settings={
                "system": spec.system or "system",
                "agent_type": spec.agent_type,
                "llm_config": {"model": "fake"},
            },
            blocks={
                f"block-{uuid.uuid4()}": {
                    "label": block.label,
                    "value": block.value,
                    "limit": block.limit,
                    "description": block.description,
                }
                for block in spec.blocks
            },
            tools=[{"name": name, "tool_type": "letta_core"} for name in spec.tools],
        )
    whole: _Whole = agent.whole["whole"]
    if agent.passages and not whole.archives:
        whole.archives[f"archive-{uuid.uuid4()}"] = _Archive({"name": "archive"}, agent.passages)
    return whole


def _row(entry: Mapping[str, object]) -> dict[str, Any]:
    roles = {"user_message": "user", "system_message": "system", "assistant_message": "assistant"}
    role = roles[str(entry["message_type"])]
    row: dict[str, Any] = {
        "role": role,
        "content": [{"type": "text", "text": entry["content"]}],
        "created_at": entry["date"],
    }
    return row if role == "assistant" else row | {"otid": entry["otid"]}


def _entry(message_id: str, row: Json) -> dict[str, object]:
    """The listed form of a row."""
    texts = [part.get("text", "") for part in row.get("content") or []]
    return {
        "id": message_id,
        "message_type": _TYPES[row["role"]],
        "otid": row.get("otid") or str(uuid.uuid4()),
        "run_id": None,
        "content": "".join(texts),
        "date": row.get("created_at"),
    }


def _without_id(content: Json) -> dict[str, Any]:
    return {key: value for key, value in content.items() if key != "id"}
