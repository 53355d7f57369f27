"""The user's agents in Letta, with the memory that is only theirs."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from letta_bridge.agent_snapshots import NEVER_CARRIED, Captured, capture
from letta_bridge.agent_snapshots.agent_file import write_agent_file
from letta_bridge.agent_snapshots.records import snapshot_name
from letta_bridge.agents.agent_spec import restoring_tags, user_tags
from letta_bridge.errors import AgentGone
from letta_bridge.letta.agent_store import AgentStore
from letta_bridge.letta.port import AgentRef, LettaAgents
from letta_bridge.user_data.files import write_json
from letta_bridge.user_data.port import Counts

_EXPORT_FOLDER: Final = "agents"
CONTENTS: Final = f"{_EXPORT_FOLDER}/contents.json"
"""The file that lists each agent file's owner, contents and omissions."""


class AgentUserData:
    """See :class:`UserDataStore`. Every agent of the user, including duplicates and leftovers of killed restores.

    Args:
        letta: the server.
        store: the same server, for exporting complete agents.
        tenant: owner of the agents.
    """

    name: Final = "agents in Letta"

    def __init__(self, letta: LettaAgents, store: AgentStore, tenant: str = "") -> None:
        self._letta = letta
        self._store = store
        self._tenant = tenant

    async def count(self, user_id: str) -> Counts:
        """See :class:`UserDataStore`."""
        return {"agents": len(await self._agents(user_id))}

    async def export(self, user_id: str, folder: Path) -> Counts:
        """See :class:`UserDataStore`. For each agent a snapshot with all of it, and an agent file for any Letta.

        An agent file has every message too; passages have no place in one. Values of variables are the operator's
        secrets and are not written.
        """
        taken: list[Captured] = []
        for agent in await self._agents(user_id):
            snapshot = folder / _EXPORT_FOLDER / snapshot_name(agent.agent_id)
            try:
                taken.append(await capture(self._store, agent.agent_id, snapshot))
            except AgentGone:
                continue  # deleted just now
            write_agent_file(snapshot, snapshot.with_suffix(".af"))
        if taken:
            write_json(folder / CONTENTS, {"agents": list(map(_about, taken)), "never_carried": NEVER_CARRIED})
        return {
            "agents": len(taken),
            "agent_messages": sum(one.counts["message"] for one in taken),
            "agent_passages": sum(one.counts["passage"] for one in taken),
        }

    async def erase(self, user_id: str) -> Counts:
        """See :class:`UserDataStore`."""
        agents = await self._agents(user_id)
        gone = [await self._letta.delete_agent(agent.agent_id) for agent in agents]
        return {"agents": sum(gone)}

    async def close(self) -> None:
        """Remove what an export needed in Letta."""
        await self._store.close()

    async def _agents(self, user_id: str) -> list[AgentRef]:
        tags = user_tags(self._tenant, user_id)
        # In this order, because a restore that runs may complete an agent in between.
        found = [agent for sought in (restoring_tags(tags), tags) for agent in await self._letta.find_agents(sought)]
        return list({agent.agent_id: agent for agent in found}.values())


def _about(one: Captured) -> dict[str, object]:
    return {
        "agent_id": one.agent.agent_id,
        "file": snapshot_name(one.agent.agent_id),
        "tags": one.agent.tags,
        "taken_at": one.taken_at,
        "counts": one.counts,
        "not_carried": one.left_out,
    }
