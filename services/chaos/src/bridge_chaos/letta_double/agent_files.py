"""Agent files of the double: an agent with its messages, out and back in under a new id."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from aiohttp.web_request import FileField

from bridge_chaos.letta_double.store import LettaStore

_ROLES: Final = {"user_message": "user", "assistant_message": "assistant", "system_message": "system"}


def exported(store: LettaStore, agent: Mapping[str, Any]) -> dict[str, Any]:
    """The agent as a file's content."""
    messages = store.history(agent["id"], before=None, limit=2**31)[::-1]
    known = [{"role": _ROLES.get(m["message_type"], m["message_type"]), **m} for m in messages]
    return {"agents": [{"name": agent["name"], "tags": agent["tags"], "messages": known}], "tools": []}


def imported(store: LettaStore, form: Mapping[str, Any]) -> list[str]:
    """The ids of new agents made of an uploaded file."""
    file = form["file"]
    content = json.loads(file.file.read() if isinstance(file, FileField) else file)
    made = []
    for agent in content["agents"]:
        agent_id = store.add_agent(agent["name"], agent["tags"])["id"]
        store.store_step(agent_id, "", agent["messages"])
        made.append(agent_id)
    return made
