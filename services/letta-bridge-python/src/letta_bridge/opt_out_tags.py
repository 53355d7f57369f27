"""Writes a user's opt-out into the tags of the user's agents: the last resort if database and Redis are both lost.

The tag is read whenever an agent is found by its tags, so it holds even for a new database and a new Redis.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from letta_bridge.agent_spec import opt_out_tag, opt_out_tags_in, user_tags
from letta_bridge.errors import BreakerOpen, LettaError
from letta_bridge.letta.port import LettaPort
from shared_utils import logs
from shared_utils.persistence.choices import Choice

_log = logs.get(__name__)
_SECONDS: Final = 5.0
"""How long a choice waits for Letta; it is valid without the tags."""


class OptOutTags:
    """The opt-out tags of all users' agents.

    Args:
        letta: returns a server that may be called now; raises BreakerOpen if there is none.
        tenant: name of the tenant whose agents are tagged.
    """

    def __init__(self, letta: Callable[[], LettaPort], tenant: str) -> None:
        self._letta = letta
        self._tenant = tenant

    async def write(self, user_id: str, choice: Choice) -> bool:
        """Update the tags of a user's agents; False if Letta could not be reached."""
        wanted = set() if choice.permanent_memory else {opt_out_tag(choice)}
        try:
            async with asyncio.timeout(_SECONDS):
                letta = self._letta()
                for agent in await letta.find_agents(user_tags(self._tenant, user_id)):
                    held = set(opt_out_tags_in(agent.tags))
                    if held != wanted:
                        await letta.retag(agent.agent_id, add=wanted - held, remove=held - wanted)
        except (LettaError, BreakerOpen, TimeoutError) as error:
            _log.warning("opt_out_tags_failed", error=str(error) or "no answer in time")
            return False
        return True
