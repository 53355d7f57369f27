"""The rows of ``letta-bridge sessions duplicates``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from letta_bridge.agents.agent_duplicates import Duplicates, find_duplicates, remove_empty
from letta_bridge.agents.agent_selection import Candidate
from letta_bridge.letta.port import LettaAgents
from letta_bridge.settings import BridgeSettings
from shared_utils.persistence.sessions.port import SessionStore

_MAX_SESSIONS_PER_USER: Final = 1000
"""Sessions of one user that are searched for the agents they name, ended ones included."""


async def duplicate_agents(
    letta: LettaAgents,
    settings: BridgeSettings,
    store: SessionStore,
    *,
    remove: bool,
    deleted: Callable[[str], None] = lambda _agent_id: None,
) -> list[dict[str, Any]]:
    """The agents of every user who has several: user_id, persona, agent_id, messages, passages, state.

    The state is ``used``, ``conflicting`` (content of its own), ``empty``, ``incomplete`` or ``deleted``; ``deleted``
    is called with the id of each agent as it is deleted.
    """

    async def named(user_id: str, persona: str) -> list[str]:
        page = await store.page(limit=_MAX_SESSIONS_PER_USER, include_inactive=True, user_id=user_id)
        sessions = sorted(page.sessions, key=lambda one: not one.is_active)
        return [one.agent_id for one in sessions if one.persona == persona and one.agent_id is not None]

    rows = []
    for found in await find_duplicates(letta, settings.agents, settings.tenant.name, named):
        gone = await remove_empty(letta, settings.agents, found, deleted) if remove else []
        rows += [_row(found, one, "deleted" if one.agent_id in gone else state) for one, state in _states(found)]
    return rows


def _states(found: Duplicates) -> list[tuple[Candidate, str]]:
    selection = found.selection
    return [
        *((one, "used") for one in [selection.chosen] if one is not None),
        *((one, "conflicting") for one in selection.conflicting),
        *((one, "empty") for one in selection.empty),
        *((one, "incomplete") for one in selection.incomplete),
    ]


def _row(found: Duplicates, one: Candidate, state: str) -> dict[str, Any]:
    return {
        "user_id": found.user_id,
        "persona": found.persona,
        "agent_id": one.agent_id,
        "messages": one.contents.messages,
        "passages": one.contents.passages,
        "state": state,
    }
