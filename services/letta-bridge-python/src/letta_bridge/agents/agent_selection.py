"""Chooses among several agents of one user by their content, never by age alone.

A user has several agents if a lost creation request completed too late, or if a backup was restored next to it.
An agent with content wins over an empty one. If several have content, the one that a session names wins, else the one
with the most messages; the others are reported, because merging memories takes a human decision.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from letta_bridge.agents.agent_spec import untouched
from letta_bridge.errors import AgentGone
from letta_bridge.letta.port import AgentContents, AgentRef, LettaAgents
from letta_bridge.settings import AgentSettings


@dataclass(frozen=True, slots=True)
class Candidate:
    """An agent with the user's tags, and its content."""

    agent: AgentRef
    contents: AgentContents
    used: bool
    """It has content, or a turn of it is running."""

    @property
    def agent_id(self) -> str:
        """Letta's id."""
        return self.agent.agent_id


@dataclass(frozen=True, slots=True)
class Selection:
    """The user's agent, and the other agents with the user's tags."""

    chosen: Candidate | None = None
    """None if no agent is complete."""
    empty: Sequence[Candidate] = field(default_factory=list)
    """Complete agents without content."""
    conflicting: Sequence[Candidate] = field(default_factory=list)
    """Complete agents with content of their own."""
    incomplete: Sequence[Candidate] = field(default_factory=list)
    """Agents that Letta has not finished creating, and may never finish."""


async def candidates(
    letta: LettaAgents, settings: AgentSettings, persona: str, agents: Sequence[AgentRef]
) -> list[Candidate]:
    """The content of each agent; one that was deleted meanwhile is left out.

    Raises:
        LettaError: Letta could not be asked.
    """
    found = []
    for agent in agents:
        try:
            contents = await letta.contents(agent.agent_id)
        except AgentGone:
            continue
        used = bool(contents.messages or contents.passages or contents.running)
        found.append(Candidate(agent, contents, used or not untouched(settings, persona, contents.blocks)))
    return found


def select(found: Sequence[Candidate], named: str | None) -> Selection:
    """Choose the user's agent.

    Args:
        found: all with the user's tags, in any order.
        named: the agent that the user's session names, if any.
    """
    complete = [one for one in found if one.contents.complete]
    incomplete = [one for one in found if not one.contents.complete]
    if not complete:
        return Selection(incomplete=incomplete)

    def rank(one: Candidate) -> tuple[bool, bool, int]:
        return one.used, one.agent_id == named, one.contents.messages

    best = max(map(rank, complete))
    # On a tie every bridge has to choose the same one.
    chosen = min((one for one in complete if rank(one) == best), key=lambda one: (one.agent.created_at, one.agent_id))
    others = [one for one in complete if one is not chosen]
    return Selection(
        chosen,
        empty=[one for one in others if not one.used],
        conflicting=[one for one in others if one.used],
        incomplete=incomplete,
    )
