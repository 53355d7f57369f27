"""The port through which export, backup and restore read and write complete agents; turns have ``port.py``.

The adapter of a real server (``agent_store_client.py``) and the in-memory fake (``fake_agent_store.py``) pass one
contract suite. An adapter for a successor of the retired V1 server implements this port, too.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from letta_bridge.letta.port import AgentRef

Json = Mapping[str, Any]
"""A JSON object."""


@dataclass(frozen=True, slots=True)
class StoredBlock:
    """A memory block. ``content`` has label, value, limit, description and more, as an agent file has them."""

    block_id: str
    content: Json
    shared: bool = False
    """Whether several agents use it."""


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """One message of an agent's history."""

    message_id: str
    row: Json
    """As an agent file has it: role, content, tool_calls, tool_call_id, tool_returns, name, model, created_at, and the
    sender's otid, which agent files leave out."""
    run_id: str | None = None
    exact: bool = True
    """False where the server gave only its listed form: time to the second, tool results without their envelope."""


@dataclass(frozen=True, slots=True)
class StoredConversation:
    """A side conversation of an agent. It has a context of its own."""

    conversation_id: str
    context: tuple[str, ...]
    """Ids of messages, in order; the first is the compiled system prompt."""
    summary: str | None = None
    settings: Json = field(default_factory=dict)
    """Model and model settings, where they override the agent's."""


@dataclass(frozen=True, slots=True)
class StoredArchive:
    """A container of passages. ``settings`` has its name, description and embedding configuration."""

    archive_id: str
    settings: Json
    shared: bool = False


@dataclass(frozen=True, slots=True)
class StoredPassage:
    """One passage of archival memory, without its embedding, which the server's API does not accept."""

    passage_id: str
    archive_id: str
    text: str
    created_at: str
    tags: tuple[str, ...] = ()
    metadata: Json = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AgentDescription:
    """An agent at one moment, without its messages and passages."""

    agent: AgentRef
    settings: Json
    """All other fields of the agent: system prompt, models, tool rules ..."""
    blocks: tuple[StoredBlock, ...]
    tools: tuple[Json, ...]
    variables: Mapping[str, str]
    """Environment variables of its tools. Values may be secret."""
    context: tuple[str, ...]
    """Ids of the messages in context, in order; the first is the compiled system prompt."""
    newest: str | None
    """Id of the newest message at that moment."""
    left_out: tuple[str, ...] = ()
    """Parts of the agent that the store does not carry, for people."""


class AgentStore(Protocol):
    """One server. Every method may raise a :class:`letta_bridge.errors.LettaError`, and nothing else.

    Methods that read an agent raise AgentGone where it does not exist (any more).
    """

    async def find(self, tags: Sequence[str]) -> list[AgentRef]:
        """Every agent that carries all ``tags``, oldest first."""
        ...

    async def get(self, agent_id: str) -> AgentRef:
        """One agent."""
        ...

    async def describe(self, agent_id: str) -> AgentDescription:
        """The agent without its messages and passages."""
        ...

    def messages(self, described: AgentDescription) -> AsyncIterator[StoredMessage]:
        """The complete history up to the moment of the description, in stored order, in and out of context."""
        ...

    async def conversations(self, agent_id: str) -> Sequence[StoredConversation]:
        """Its side conversations, oldest first."""
        ...

    async def archives(self, agent_id: str) -> Sequence[StoredArchive]:
        """The archives it reads and writes, oldest first."""
        ...

    def passages(self, agent_id: str) -> AsyncIterator[StoredPassage]:
        """The passages of all its archives, oldest first."""
        ...

    async def write(self, agent_file: Path, variables: Mapping[str, str]) -> str:
        """Create an agent from an agent file: settings, tools, blocks and every message. Returns its new id.

        A tool whose name exists on the server is not changed there. Not idempotent: look for the tags first.

        Args:
            agent_file: a file of JSON.
            variables: values for the variables that the file names.

        Raises:
            LettaRejected: the file is no agent file.
        """
        ...

    async def set_context(self, agent_id: str, message_ids: Sequence[str]) -> None:
        """Put exactly these messages into the agent's context."""
        ...

    async def recompile(self, agent_id: str) -> None:
        """Compile the agent's system prompt from its current blocks."""
        ...

    async def retag(self, agent_id: str, tags: Sequence[str]) -> None:
        """Give the agent exactly these tags."""
        ...

    async def attach_block(self, agent_id: str, block_id: str) -> bool:
        """Attach an existing block to the agent. False where the block does not exist."""
        ...

    async def make_archive(self, settings: Json) -> str:
        """Create an empty archive and return its id."""
        ...

    async def attach_archive(self, agent_id: str, archive_id: str) -> bool:
        """Attach an existing archive to the agent. False where the archive does not exist."""
        ...

    async def add_passages(self, archive_id: str, passages: Sequence[StoredPassage]) -> None:
        """Add passages to an archive, with their dates, tags and metadata. The server computes their embeddings."""
        ...

    async def fork(self, agent_id: str, conversation: StoredConversation) -> str:
        """Create a side conversation with the agent's current context, and return its id.

        The system prompt is compiled anew; summary and settings are those of ``conversation``.
        """
        ...

    async def delete(self, agent_id: str) -> bool:
        """Delete an agent and the memory that no other agent uses. False where it does not exist."""
        ...

    async def close(self) -> None:
        """Delete helper objects that reading created on the server. The connection stays open."""
        ...
