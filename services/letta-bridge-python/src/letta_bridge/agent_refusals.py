"""A user's refusal of permanent memory as a tag of the user's agents: its last copy, beside database and Redis.

It is read where an agent is found by its tags, so it counts even where a new database and a new Redis know nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from letta_bridge.agent_spec import refusal_tag, refusal_tags, user_tags
from letta_bridge.errors import BreakerOpen, LettaError
from letta_bridge.letta.port import LettaPort
from shared_utils import logs
from shared_utils.persistence.choices import Choice

_log = logs.get(__name__)
_SECONDS: Final = 5.0
"""That a choice may wait for Letta; without the tags it counts all the same."""


class AgentRefusals:
    """The tags of all users' agents.

    Args:
        letta: gives a server that may be asked now; raises BreakerOpen where there is none.
        tenant: whose agents they are.
    """

    def __init__(self, letta: Callable[[], LettaPort], tenant: str) -> None:
        self._letta = letta
        self._tenant = tenant

    async def write(self, user_id: str, choice: Choice) -> bool:
        """Bring the tags of a user's agents in step with what was chosen; False where Letta could not be asked."""
        wanted = set() if choice.permanent_memory else {refusal_tag(choice)}
        try:
            async with asyncio.timeout(_SECONDS):
                letta = self._letta()
                for agent in await letta.find_agents(user_tags(self._tenant, user_id)):
                    held = set(refusal_tags(agent.tags))
                    if held != wanted:
                        await letta.retag(agent.agent_id, add=wanted - held, remove=held - wanted)
        except (LettaError, BreakerOpen, TimeoutError) as error:
            _log.warning("choice_not_on_agents", error=str(error) or "no answer in time")
            return False
        return True
