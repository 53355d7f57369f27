"""``/api/sessions/restore``: the sessions this bridge has read into its memory."""

from __future__ import annotations

from fastapi import APIRouter

from letta_bridge.agents.user_settings import UserSettings
from letta_bridge.http.answers import ERROR_RESPONSES
from letta_bridge.http.port import Limit, Offset, Sessions
from letta_bridge.http.records import RestoredSessions, RestoreResult, records
from shared_utils.persistence.sessions.port import Restoration


def router(sessions: Sessions, settings: UserSettings) -> APIRouter:
    """The routes."""
    routes = APIRouter(prefix="/api/sessions", tags=["sessions"], responses=ERROR_RESPONSES)

    @routes.post("/postgres/restore", name="restore_from_store")
    @routes.post("/restore")
    async def restore() -> RestoreResult:
        """Read the active sessions into this bridge's memory anew. A row that cannot be read is named."""
        done = await sessions.restore()
        return RestoreResult(restored=len(done.sessions), failed=done.failed)

    @routes.get("/restored")
    async def restored(limit: Limit = 50, offset: Offset = 0) -> RestoredSessions:
        """What was read the last time, at the start of the bridge if not later."""
        done = sessions.restored or Restoration((), {})
        part = await records(done.sessions[offset : offset + limit], settings)
        return RestoredSessions(sessions=part, total=len(done.sessions), limit=limit, offset=offset, failed=done.failed)

    return routes
