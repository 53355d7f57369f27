"""Everything below /api."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from fastapi import APIRouter

from letta_bridge.agents.user_settings import UserSettings
from letta_bridge.http import restored, sessions, users
from letta_bridge.http.port import Sessions


def routers(manager: Sessions, settings: UserSettings, *, grace: timedelta) -> Sequence[APIRouter]:
    """The routes.

    Args:
        manager: the session manager.
        settings: choices of users.
        grace: how long an ended session stays.
    """
    return sessions.router(manager, settings, grace=grace), restored.router(manager, settings), users.router(settings)
