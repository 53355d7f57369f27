"""Synchronises everything at once, for the command line. Bridges may run meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from letta_bridge.letta.port import LettaAgents
from letta_bridge.vectors.agent_sync import AgentSweep
from letta_bridge.vectors.build import Syncers
from letta_bridge.vectors.port import SyncJob
from letta_bridge.vectors.sweep_schedule import SweepSchedule
from letta_bridge.vectors.turn_sync import TurnSweep

Progress = Callable[[str, int], None]
"""Called with the kind and number of processed items: turns by hundreds, agents one by one."""


@dataclass(slots=True)
class FullSync:
    """One pass over all turns and agents.

    Args:
        keepers: of the installation.
        letta: where the agents are.
        tag: of the agents.
        progress: is told.
    """

    syncers: Syncers
    letta: LettaAgents
    tag: str
    progress: Progress

    async def turns(self) -> None:
        """Every turn of the journal, and every vector of one."""
        made = self.syncers
        await self._whole_round(TurnSweep(made.turns, made.of_turns, made.embedding, _once("vectors")), "turns")

    async def agents(self) -> None:
        """Every agent of the bridge, and every agent that has vectors."""
        for number, agent in enumerate(await self.letta.find_agents((self.tag,)), 1):
            await self.syncers.of_agents.keep_all(agent.agent_id)
            self.progress("agents", number)
        sweep = AgentSweep(self.syncers.of_agents, self.syncers.embedding, _once("agents"))
        await self._whole_round(sweep, "agents with vectors")

    async def _whole_round(self, job: SyncJob, what: str) -> None:
        position, steps = "", 0
        while True:
            step = await job.step(position)
            position, steps = step.position, steps + 1
            self.progress(what, steps)
            if step.pause:
                return


def _once(first: str) -> SweepSchedule:
    return SweepSchedule(0.0, first)
