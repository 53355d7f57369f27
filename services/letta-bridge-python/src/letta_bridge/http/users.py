"""``/api/users``: what each user has chosen."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Path

from letta_bridge.agents.user_settings import UserSettings
from letta_bridge.http.addresses import require_utf8
from letta_bridge.http.answers import ERROR_RESPONSES
from letta_bridge.http.records import UserChoice, UserSettingsRecord
from shared_utils.observability import logs

_log = logs.get(__name__)

# A user id may hold any character, a slash too.
UserId = Annotated[str, Path(min_length=1, max_length=1024)]


def router(settings: UserSettings) -> APIRouter:
    """The routes."""
    routes = APIRouter(
        prefix="/api/users", tags=["users"], responses=ERROR_RESPONSES, dependencies=[Depends(require_utf8)]
    )

    @routes.get("/{user_id:path}/settings")
    async def get_settings(user_id: UserId) -> UserSettingsRecord:
        """A user's settings; defaults for a user without choices. 503 while no store can answer."""
        return UserSettingsRecord(user_id=user_id, permanent_memory=await settings.permanent_memory(user_id))

    @routes.put("/{user_id:path}/settings")
    async def put_settings(user_id: UserId, choice: UserChoice) -> UserSettingsRecord:
        """Switch permanent memory on or off for all present and future personas, on every bridge.

        Turns already handed out to a bridge are the only exception.
        """
        await settings.set_permanent_memory(user_id, choice.permanent_memory)
        _log.info("user_settings_changed", user_id=user_id, permanent_memory=choice.permanent_memory)
        return UserSettingsRecord(user_id=user_id, permanent_memory=choice.permanent_memory)

    return routes
