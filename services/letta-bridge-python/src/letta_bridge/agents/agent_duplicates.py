"""Finds users with more than one agent, and deletes their empty ones."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass

from letta_bridge.agents.agent_selection import Candidate, Selection, candidates, select
from letta_bridge.agents.agent_spec import bridge_tag, owner_of
from letta_bridge.letta.port import AgentRef, LettaAgents
from letta_bridge.settings import AgentSettings

AgentsOfSessions = Callable[[str, str], Awaitable[Collection[str]]]
"""(user, persona) → the agents that sessions name: of active ones first, then by last use."""


@dataclass(frozen=True, slots=True)
class Duplicates:
    """One user and persona with several agents."""

    user_id: str
    persona: str
    selection: Selection
    named: Collection[str]
    """Agents that a session names; none of them is ever deleted."""

    @property
    def removable(self) -> list[Candidate]:
        """Agents without content that no session names, provided that the user has another one."""
        if self.selection.chosen is None:
            return []
        empty = (*self.selection.empty, *self.selection.incomplete)
        return [one for one in empty if not one.used and one.agent_id not in self.named]


async def find_duplicates(
    letta: LettaAgents, settings: AgentSettings, tenant: str, named_by_sessions: AgentsOfSessions
) -> list[Duplicates]:
    """Search all agents of a tenant.

    Raises:
        LettaError: Letta could not be asked.
    """
    owners: dict[tuple[str, str], list[AgentRef]] = defaultdict(list)
    for agent in await letta.find_agents([bridge_tag(tenant)]):
        user_id, persona = owner_of(agent.tags)
        if user_id is not None and persona is not None:
            owners[user_id, persona].append(agent)
    found = []
    for (user_id, persona), agents in owners.items():
        if len(agents) > 1:
            named = list(await named_by_sessions(user_id, persona))
            selection = select(await candidates(letta, settings, persona, agents), named[0] if named else None)
            found.append(Duplicates(user_id, persona, selection, named))
    return found


async def remove_empty(
    letta: LettaAgents,
    settings: AgentSettings,
    found: Duplicates,
    deleted: Callable[[str], None] = lambda _agent_id: None,
) -> list[str]:
    """Delete the removable agents after a second look at their content; returns their ids.

    Args:
        letta: where they are.
        settings: of agents.
        found: one user's agents of a persona.
        deleted: is called with each id as the agent is deleted.

    Raises:
        LettaError: Letta could not be asked.
    """
    agents = [one.agent for one in found.removable]
    again = await candidates(letta, settings, found.persona, agents)
    gone: list[str] = []
    for one in again:
        if not one.used and await letta.delete_agent(one.agent_id):
            gone.append(one.agent_id)
            deleted(one.agent_id)
    return gone
