"""Takes a snapshot of an agent, streaming it to a file."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from letta_bridge import __version__
from letta_bridge.agent_snapshots.records import FORMAT, PARTS, Line, encoded
from letta_bridge.errors import LettaRejected
from letta_bridge.letta.agent_store import AgentDescription, AgentStore
from letta_bridge.letta.port import AgentRef
from shared_utils.clock import utc_now
from shared_utils.private_files import replacing

_CAPTURE_ATTEMPTS: Final = 3
"""Attempts for an agent whose history is reset while it is read."""

Progress = Callable[[str, int], None]
"""Called with a label (``messages``) and the running total."""


@dataclass(slots=True)
class SharedParts:
    """Blocks and archives that several agents of one backup use: id → agent whose snapshot holds the part."""

    blocks: dict[str, str] = field(default_factory=dict)
    archives: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Captured:
    """The contents of a snapshot."""

    agent: AgentRef
    taken_at: datetime
    counts: Mapping[str, int]
    """Part → number of lines."""
    left_out: tuple[str, ...]
    """What the snapshot does not hold, for people."""


async def capture(
    store: AgentStore,
    agent_id: str,
    path: Path,
    *,
    secrets: bool = False,
    shared: SharedParts | None = None,
    progress: Progress = lambda _what, _count: None,
) -> Captured:
    """Write a snapshot of one agent. The file appears under its name once it is complete.

    The agent may receive turns meanwhile: messages of turns that begin after the call are not in the snapshot.

    Args:
        store: the server that has the agent.
        agent_id: its id.
        path: the file to write.
        secrets: include the values of its tools' variables.
        shared: the shared parts of earlier snapshots of the same backup, updated by this call. None saves all parts.
        progress: called with a label and the running total.

    Raises:
        AgentGone: the agent does not exist (any more).
        LettaError: Letta cannot read it now.
    """
    for left in reversed(range(_CAPTURE_ATTEMPTS)):
        try:
            return await _captured(store, agent_id, path, secrets=secrets, shared=shared, progress=progress)
        except LettaRejected as error:
            # The message that served as the page cursor was deleted.
            if error.cause != "not_found" or not left:
                raise
    raise AssertionError("the last try returns or raises")


async def _captured(
    store: AgentStore, agent_id: str, path: Path, *, secrets: bool, shared: SharedParts | None, progress: Progress
) -> Captured:
    shared = shared or SharedParts()
    taken_at = utc_now()
    described = await store.describe(agent_id)
    counts: Counter[str] = Counter()
    inexact = 0
    first_of: dict[str, list[str]] = {"block": [], "archive": []}
    with replacing(path) as file:
        file.write(encoded(_head(described, taken_at)))
        async for line in _parts(store, described, secrets, shared):
            part = line["part"]
            counts[part] += 1
            inexact += line.get("exact") is False
            if line.get("shared") and "kept_in" not in line:
                first_of[part].append(line["id"])
            file.write(encoded(line))
            if part in {"message", "passage"}:
                progress(f"{part}s", counts[part])
        # Letta lists no passages, and no error, for an agent that was deleted meanwhile.
        await store.get(agent_id)
        left_out = _left_out(described, inexact, secrets)
        held = {part: counts[part] for part in PARTS}
        file.write(encoded({"part": "end", "counts": held, "left_out": list(left_out)}))
    shared.blocks.update(dict.fromkeys(first_of["block"], agent_id))
    shared.archives.update(dict.fromkeys(first_of["archive"], agent_id))
    return Captured(described.agent, taken_at, held, left_out)


def _head(described: AgentDescription, taken_at: datetime) -> Line:
    agent = described.agent
    return {
        "part": "snapshot",
        "format": FORMAT,
        "release": __version__,
        "taken_at": taken_at.isoformat(),
        "agent_id": agent.agent_id,
        "name": agent.name,
        "tags": list(agent.tags),
        "created_at": agent.created_at,
        "context": list(described.context),
    }


async def _parts(
    store: AgentStore, described: AgentDescription, secrets: bool, shared: SharedParts
) -> AsyncIterator[dict[str, Any]]:
    agent_id = described.agent.agent_id
    yield {"part": "settings", "settings": dict(described.settings)}
    for tool in described.tools:
        yield {"part": "tool", "tool": dict(tool)}
    for name, value in described.variables.items():
        yield {"part": "variable", "name": name, **({"value": value} if secrets else {})}
    for block in described.blocks:
        line: dict[str, Any] = {"part": "block", "id": block.block_id, "shared": block.shared}
        yield line | {"content": dict(block.content)} | _kept_in(shared.blocks.get(block.block_id), agent_id)
    for one in await store.conversations(agent_id):
        yield {
            "part": "conversation",
            "id": one.conversation_id,
            "context": list(one.context),
            "summary": one.summary,
            "settings": dict(one.settings),
        }
    elsewhere = set()
    for archive in await store.archives(agent_id):
        kept_in = _kept_in(shared.archives.get(archive.archive_id), agent_id)
        elsewhere |= {archive.archive_id} if kept_in else set()
        line = {"part": "archive", "id": archive.archive_id, "shared": archive.shared}
        yield line | {"settings": dict(archive.settings)} | kept_in
    async for message in store.messages(described):
        line = {"part": "message", "id": message.message_id, "row": dict(message.row), "run_id": message.run_id}
        yield line if message.exact else line | {"exact": False}
    async for passage in store.passages(agent_id):
        if passage.archive_id not in elsewhere:
            yield {
                "part": "passage",
                "id": passage.passage_id,
                "archive_id": passage.archive_id,
                "text": passage.text,
                "created_at": passage.created_at,
                "tags": list(passage.tags),
                "metadata": dict(passage.metadata),
            }


def _kept_in(holder: str | None, agent_id: str) -> dict[str, str]:
    return {} if holder is None or holder == agent_id else {"kept_in": holder}


def _left_out(described: AgentDescription, inexact: int, secrets: bool) -> tuple[str, ...]:
    found = list(described.left_out)
    if described.variables and not secrets:
        found.append(f"values of the variables {', '.join(sorted(described.variables))}")
    if inexact:
        found.append(f"the exact form of {inexact} messages, which Letta cannot export")
    return tuple(found)
