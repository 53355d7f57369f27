"""The user's agents in Letta, with the memory that is only theirs."""

from __future__ import annotations

import asyncio
from pathlib import Path

from letta_bridge.agent_spec import user_tags
from letta_bridge.letta.port import AgentRef, LettaPort
from letta_bridge.user_data.trace import Counts


class AgentTrace:
    """See :class:`Trace`. Every agent that carries the user's tag, of every persona, twins included."""

    def __init__(self, letta: LettaPort, tenant: str = "") -> None:
        self._letta = letta
        self._tenant = tenant

    async def count(self, user_id: str) -> Counts:
        """See :class:`Trace`."""
        return {"agents": len(await self._agents(user_id))}

    async def export(self, user_id: str, folder: Path) -> Counts:
        """See :class:`Trace`. One agent file each: messages, memory blocks and archival memory are in it."""
        agents = await self._agents(user_id)
        for agent in agents:
            content = await self._letta.export_agent(agent.agent_id)
            await asyncio.to_thread(_write, folder / "agents" / f"{agent.agent_id}.af", content)
        return {"agents": len(agents)}

    async def erase(self, user_id: str) -> Counts:
        """See :class:`Trace`."""
        agents = await self._agents(user_id)
        gone = [await self._letta.delete_agent(agent.agent_id) for agent in agents]
        return {"agents": sum(gone)}

    async def _agents(self, user_id: str) -> list[AgentRef]:
        return await self._letta.find_agents(user_tags(self._tenant, user_id))


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
