"""Everything below /api."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import timedelta

from fastapi import APIRouter

from letta_bridge.http import restored, sessions, users
from letta_bridge.http.port import Sessions
from letta_bridge.user_settings import UserSettings


def routers(manager: Sessions, *, personas: Collection[str], grace: timedelta) -> Sequence[APIRouter]:
    """The routes.

    Args:
        manager: the session manager.
        personas: those an agent may have.
        grace: how long an ended session stays.
    """
    settings = UserSettings(manager.store, personas, manager.forget)
    return sessions.router(manager, grace=grace), restored.router(manager), users.router(settings)
