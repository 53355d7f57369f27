"""The memory agents behind the bridge.

The adapter of a real server is not imported here: ``from letta_bridge.letta.letta_client import LettaClient`` imports
Letta's SDK, which takes half a second that the command line's ``--help`` need not spend.
"""

from __future__ import annotations

from letta_bridge.letta.breaker import Breaker, BreakerPolicy, BreakerState
from letta_bridge.letta.port import (
    AgentContents,
    AgentPassage,
    AgentRef,
    AgentSpec,
    Block,
    FoundTurn,
    FoundTurns,
    LettaAgents,
    LettaPort,
    LettaTurns,
    ModelParameters,
    Note,
    SoughtTurn,
    ToolState,
    TurnAnswer,
    TurnListener,
    TurnMessage,
    TurnState,
    Usage,
    derived_otid,
    turn_otid,
)
from letta_bridge.letta.servers import LettaServer, LettaServers

__all__ = [
    "AgentContents",
    "AgentPassage",
    "AgentRef",
    "AgentSpec",
    "Block",
    "Breaker",
    "BreakerPolicy",
    "BreakerState",
    "FoundTurn",
    "FoundTurns",
    "LettaAgents",
    "LettaPort",
    "LettaServer",
    "LettaServers",
    "LettaTurns",
    "ModelParameters",
    "Note",
    "SoughtTurn",
    "ToolState",
    "TurnAnswer",
    "TurnListener",
    "TurnMessage",
    "TurnState",
    "Usage",
    "derived_otid",
    "turn_otid",
]
