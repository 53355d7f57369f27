"""Reads messages exactly as Letta stores them, over HTTP.

Letta's list of messages is lossy: times to the second, envelopes stripped, summaries shown as user messages. Its agent
file holds the exact rows, but only of messages in context. So the reader creates a helper agent, sets a page of message
ids as the helper's context, and exports the helper. The agent that owns the messages is not changed, and the helper,
which has no tools and no tag of the bridge, never receives a turn.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from letta_bridge.errors import AgentGone, LettaRejected, LettaUnavailable
from letta_bridge.letta.letta_client import LettaClient

READER_TAG: Final = "bridge-reader"
_READER_NAME: Final = "bridge reader"
_ABANDONED_AFTER: Final = timedelta(hours=6)
"""Age at which a helper counts as left behind by a killed process."""
_ID_FIELDS: Final = frozenset({"id", "agent_id", "type", "otid", "batch_item_id"})
"""Fields that an export generates anew or leaves empty."""


class ExactReader:
    """Reads pages of messages through one helper agent, which ``close`` deletes.

    Args:
        client: the server.
    """

    def __init__(self, client: LettaClient) -> None:
        self._client = client
        self._reader: str | None = None

    async def rows(self, message_ids: Sequence[str], llm_config: object) -> list[dict[str, Any] | None]:
        """The rows of these messages, None for each that Letta cannot export.

        Args:
            message_ids: at most some hundreds.
            llm_config: of any agent; Letta creates no agent without one.
        """
        if not message_ids:
            return []
        try:
            return list(await self._exported(message_ids, llm_config))
        except LettaUnavailable:
            # A lone surrogate in one message fails the export of the page, with the same status as an outage.
            await self._client.health()
            if len(message_ids) == 1:
                return [None]
        half = len(message_ids) // 2
        return await self.rows(message_ids[:half], llm_config) + await self.rows(message_ids[half:], llm_config)

    async def close(self) -> None:
        """Delete the helper agent."""
        if self._reader is not None:
            reader, self._reader = self._reader, None
            await self._client.delete_agent(reader)

    async def _exported(self, message_ids: Sequence[str], llm_config: object) -> Sequence[dict[str, Any]]:
        if self._reader is None:
            await self._remove_abandoned()
            self._reader = await self._made(llm_config)
        path = f"/v1/agents/{self._reader}"
        await self._client.request("PATCH", path, body={"message_ids": list(message_ids)}, reads=True)
        response = await self._client.request("GET", f"{path}/export", reads=True)
        try:
            messages = json.loads(response.content)["agents"][0]["messages"]
        except (ValueError, KeyError, IndexError, TypeError):
            raise LettaRejected("The server at Letta's address cannot export agents.", cause="not_letta") from None
        if len(messages) != len(message_ids):
            raise AgentGone("Messages disappeared while they were read: the agent was deleted or reset.")
        return [_row(message) for message in messages]

    async def _made(self, llm_config: object) -> str:
        agent = {
            "id": "agent-0",
            "name": _READER_NAME,
            "agent_type": "letta_v1_agent",
            "system": "",
            "llm_config": llm_config,
            "tags": [READER_TAG],
            "tool_ids": [],
            "block_ids": [],
            "messages": [],
            "in_context_message_ids": [],
            "include_base_tools": False,
        }
        lists = ("groups", "blocks", "files", "sources", "tools", "mcp_servers")
        file = json.dumps({"agents": [agent], **{name: [] for name in lists}}).encode()
        return await self._client.import_agent_file(file)

    async def _remove_abandoned(self) -> None:
        for agent in await self._client.find_agents([READER_TAG]):
            try:
                made = datetime.fromisoformat(agent.created_at)
            except ValueError:
                continue
            if datetime.now(UTC) - made > _ABANDONED_AFTER:
                await self._client.delete_agent(agent.agent_id)


def _row(message: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in message.items() if name not in _ID_FIELDS and value not in (None, [])}
