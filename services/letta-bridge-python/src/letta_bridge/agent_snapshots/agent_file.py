"""Converts a snapshot to an agent file, Letta's import format: settings, tools, blocks and every message.

Letta's own exports hold only the messages in context, but its import accepts any number of messages together with the
list of those in context. The format has no place for passages.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from letta_bridge.agent_snapshots.records import lines
from shared_utils.private_files import replacing

WRITTEN_SETTINGS: Final = (
    "agent_type",
    "system",
    "description",
    "metadata",
    "llm_config",
    "embedding_config",
    "model_settings",
    "compaction_settings",
    "tool_rules",
    "response_format",
    "timezone",
    "max_files_open",
    "per_file_view_window_char_limit",
    "message_buffer_autoclear",
    "hidden",
)
"""Fields of an agent that Letta's import accepts."""
_ADDS_NOTHING: Final = {
    "include_base_tools": False,
    "include_multi_agent_tools": False,
    "include_base_tool_rules": False,
    "include_default_source": False,
    "enable_sleeptime": False,
}
_EMPTY_SECTIONS: Final = ("groups", "files", "sources", "mcp_servers")


@dataclass(slots=True)
class _Parts:
    """The part of a snapshot before its messages, which fits into memory."""

    head: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    tools: list[dict[str, Any]] = field(default_factory=list)
    blocks: list[dict[str, Any]] = field(default_factory=list)
    variables: list[str] = field(default_factory=list)


def write_agent_file(
    snapshot: Path,
    target: Path,
    *,
    tags: Sequence[str] | None = None,
    without_blocks: Collection[str] = (),
    without_messages: Collection[str] = (),
) -> None:
    """Write the agent file of a snapshot, streaming its messages.

    Args:
        snapshot: a snapshot file.
        target: the file to write.
        tags: replace the agent's own tags.
        without_blocks: ids of blocks to leave out, because they are attached afterwards.
        without_messages: ids of messages to leave out, because Letta creates them.

    Raises:
        SnapshotDamaged: the snapshot is damaged or incomplete.
    """
    parts = _Parts()
    numbers: dict[str, str] = {}
    count = 0
    with replacing(target) as file:
        for line in lines(snapshot):
            if line["part"] == "message" and line["id"] not in without_messages:
                if count == 0:
                    file.write(_opening(parts, tags, without_blocks))
                name = f"message-{count}"
                if line["id"] in parts.head["context"]:
                    numbers[line["id"]] = name
                row = _json({"type": "message", "id": name, "content": [], **line["row"]})
                file.write(row if count == 0 else b",\n" + row)
                count += 1
            else:
                _keep(parts, line)
        if count == 0:
            file.write(_opening(parts, tags, without_blocks))
        context = [numbers[message_id] for message_id in parts.head["context"] if message_id in numbers]
        file.write(b'\n], "in_context_message_ids": ' + _json(context) + b"}]}\n")


def _keep(parts: _Parts, line: dict[str, Any]) -> None:
    match line["part"]:
        case "snapshot":
            parts.head = line
        case "settings":
            parts.settings = line["settings"]
        case "tool":
            parts.tools.append(line["tool"])
        case "block":
            parts.blocks.append(line)
        case "variable":
            parts.variables.append(line["name"])


def _opening(parts: _Parts, tags: Sequence[str] | None, without_blocks: Collection[str]) -> bytes:
    """Everything up to the first message."""
    blocks = [
        {**line["content"], "id": f"block-{number}"}
        for number, line in enumerate(parts.blocks)
        if line["id"] not in without_blocks
    ]
    tools = [{**tool, "id": f"tool-{number}"} for number, tool in enumerate(parts.tools)]
    empty = dict.fromkeys(parts.variables, "")
    agent = {
        **{name: parts.settings[name] for name in WRITTEN_SETTINGS if parts.settings.get(name) is not None},
        **_ADDS_NOTHING,
        "id": "agent-0",
        "name": parts.head["name"],
        "tags": list(parts.head["tags"] if tags is None else tags),
        "tool_ids": [tool["id"] for tool in tools],
        "block_ids": [block["id"] for block in blocks],
        "secrets": empty,
        "tool_exec_environment_variables": empty,
    }
    around = {"blocks": blocks, "tools": tools, **{name: [] for name in _EMPTY_SECTIONS}}
    # The agent is the last member, and its messages the last of the agent's, so that they can be appended one by one.
    return _json(around)[:-1] + b', "agents": [' + _json(agent)[:-1] + b', "messages": [\n'


def _json(content: Any) -> bytes:
    return json.dumps(content, ensure_ascii=False).encode("utf-8", "backslashreplace")
