"""Brings what agents ask of their model up to the settings: window, length of an answer, temperature."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from letta_bridge.errors import AgentGone, LettaError, LettaRejected
from letta_bridge.letta.port import LettaAgents, ModelParameters
from letta_bridge.settings import AgentSettings
from shared_utils.observability import logs

_log: Final = logs.get("letta_bridge.model_parameters")


def model_parameters(settings: AgentSettings) -> ModelParameters:
    """Those that are configured."""
    return ModelParameters(settings.context_window, settings.max_tokens, settings.temperature)


class AgentParameters:
    """Brings each agent up to the settings once in the life of this bridge, before its first turn.

    Args:
        parameters: as configured; without any, no agent is asked for.
        remembered: agents that are remembered, those used last.
    """

    def __init__(self, parameters: ModelParameters, *, remembered: int) -> None:
        self._parameters = parameters
        self._most = remembered
        self._known: OrderedDict[str, None] = OrderedDict()

    def are_known(self, agent_id: str) -> bool:
        """Whether nothing has to be done for this agent."""
        return self._parameters.empty or agent_id in self._known

    async def bring_up_to_date(self, agent_id: str, letta: LettaAgents) -> None:
        """Give the agent the configured parameters. No turn fails if that does not work: they were good enough before.

        Raises:
            AgentGone: it does not exist.
        """
        if self.are_known(agent_id):
            return
        try:
            if await letta.set_parameters(agent_id, self._parameters):
                _log.info("agent_parameters_changed", agent_id=agent_id)
        except AgentGone:
            raise
        except LettaRejected as error:
            _log.warning("agent_parameters_refused", agent_id=agent_id, error=str(error))
        except LettaError:
            return  # tried again with the next turn
        self._known[agent_id] = None
        while len(self._known) > self._most:
            self._known.popitem(last=False)
