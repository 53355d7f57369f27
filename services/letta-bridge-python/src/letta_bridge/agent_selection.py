"""Which of several agents is a user's: the one that holds something, never simply the older one.

A user has more than one where the request that made the first was lost and showed too late, or where a backup was
brought back beside what was there. The one that holds nothing is surplus. Where several hold something, the one that a
session names is kept, else the one with most messages; the others are named, because only people can merge memories.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from letta_bridge.agent_spec import untouched
from letta_bridge.errors import AgentGone
from letta_bridge.letta.port import AgentContents, AgentRef, LettaPort
from letta_bridge.settings import AgentSettings


@dataclass(frozen=True, slots=True)
class Candidate:
    """An agent with the user's tags, and what it holds."""

    agent: AgentRef
    contents: AgentContents
    used: bool
    """It holds something, or a turn of it is going on."""

    @property
    def agent_id(self) -> str:
        """Letta's id."""
        return self.agent.agent_id


@dataclass(frozen=True, slots=True)
class Selection:
    """The user's agent, and what else has the user's tags."""

    chosen: Candidate | None = None
    """None where no agent is whole."""
    surplus: Sequence[Candidate] = field(default_factory=list)
    """Whole agents that hold nothing."""
    rivals: Sequence[Candidate] = field(default_factory=list)
    """Whole agents that hold something."""
    half_made: Sequence[Candidate] = field(default_factory=list)
    """Letta has not made them to the end, yet or ever."""


async def candidates(
    letta: LettaPort, settings: AgentSettings, persona: str, agents: Sequence[AgentRef]
) -> list[Candidate]:
    """What each agent holds; one that is gone meanwhile is left out.

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
        named: the agent of the user's session, where there is one.
    """
    whole = [one for one in found if one.contents.whole]
    half_made = [one for one in found if not one.contents.whole]
    if not whole:
        return Selection(half_made=half_made)

    def rank(one: Candidate) -> tuple[bool, bool, int]:
        return one.used, one.agent_id == named, one.contents.messages

    best = max(map(rank, whole))
    # Of equals every bridge has to choose the same one.
    chosen = min((one for one in whole if rank(one) == best), key=lambda one: (one.agent.created_at, one.agent_id))
    others = [one for one in whole if one is not chosen]
    return Selection(
        chosen,
        surplus=[one for one in others if not one.used],
        rivals=[one for one in others if one.used],
        half_made=half_made,
    )
