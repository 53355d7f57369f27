"""A user's choice about permanent memory, for ``user show`` and ``user export``."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from letta_bridge.agents.user_settings import UserSettings
from letta_bridge.cli.state import ask_user_settings
from letta_bridge.errors import ChoiceUnknown
from letta_bridge.settings import BridgeSettings
from shared_utils.persistence.choices.port import IMPORTED_MS
from shared_utils.persistence.sessions.port import SessionStore


def choice_record(settings: BridgeSettings, user_id: str) -> Mapping[str, Any]:
    """Return user_id, permanent_memory (None while no store can answer) and chosen_at (None if unknown)."""

    async def read(_store: SessionStore, choices: UserSettings) -> tuple[bool | None, int | None]:
        try:
            permanent_memory: bool | None = await choices.permanent_memory(user_id)
        except ChoiceUnknown:
            permanent_memory = None
        return permanent_memory, await choices.chosen_ms(user_id)

    permanent_memory, chosen_ms = ask_user_settings(settings, read)
    known = chosen_ms is not None and chosen_ms > IMPORTED_MS
    return {
        "user_id": user_id,
        "permanent_memory": permanent_memory,
        "chosen_at": datetime.fromtimestamp(chosen_ms / 1000, UTC) if known and chosen_ms is not None else None,
    }


def choice_text(record: Mapping[str, Any]) -> str:
    """Format the choice for a terminal."""
    words = {True: "on", False: "off", None: "unknown: neither Redis nor the database can answer"}
    when = record["chosen_at"]
    return words[record["permanent_memory"]] + (f", chosen {when:%Y-%m-%d %H:%M:%S} UTC" if when else "")
