"""``/api/sessions``: the assignment of agents to users, for operators and their programs."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Path, Query

from letta_bridge.agents.user_settings import UserSettings
from letta_bridge.http.addresses import require_utf8
from letta_bridge.http.answers import ERROR_RESPONSES
from letta_bridge.http.port import Limit, Offset, Sessions
from letta_bridge.http.records import (
    CleanupResult,
    Connection,
    Deletion,
    SessionList,
    SessionRecord,
    Statistics,
    records,
)
from shared_utils.observability import logs
from shared_utils.persistence.errors import RowMissing
from shared_utils.persistence.sessions.port import Session, SessionStore

_log = logs.get(__name__)
_POSTGRES: Final = "/postgres"
SessionId = Annotated[str, Path(min_length=1, max_length=200)]


def router(sessions: Sessions, settings: UserSettings, *, grace: timedelta) -> APIRouter:
    """The routes. ``grace`` is how long an ended session stays where a cleanup is not told otherwise."""
    routes = APIRouter(
        prefix="/api/sessions", tags=["sessions"], responses=ERROR_RESPONSES, dependencies=[Depends(require_utf8)]
    )

    @routes.get(f"{_POSTGRES}/sessions")
    async def list_sessions(
        limit: Limit = 50,
        offset: Offset = 0,
        include_inactive: bool = False,
        user_id: Annotated[str | None, Query(max_length=1024)] = None,
    ) -> SessionList:
        """A page of all sessions, or of one user's; newest use first."""
        page = await sessions.store.page(limit=limit, offset=offset, include_inactive=include_inactive, user_id=user_id)
        shown = await records(page.sessions, settings)
        return SessionList(sessions=shown, total=page.total, limit=limit, offset=offset)

    @routes.get(f"{_POSTGRES}/sessions/{{session_id}}")
    async def get_session(session_id: SessionId) -> SessionRecord:
        """One session, active or not."""
        [shown] = await records([await _loaded(sessions.store, session_id)], settings)
        return shown

    @routes.delete(f"{_POSTGRES}/sessions/{{session_id}}")
    async def delete_session(session_id: SessionId, hard: bool = False) -> Deletion:
        """End a session, or remove its row. Agent and choices stay: its user's next task finds the agent again."""
        session = await _loaded(sessions.store, session_id)
        deleted = await sessions.store.delete(session_id, hard=hard)
        sessions.forget(session.user_id, session.persona)
        if not deleted:
            raise RowMissing(f"the session {session_id} is not active; add ?hard=true to remove its row")
        _log.info("session_deleted", session_id=session_id, user_id=session.user_id, hard=hard)
        return Deletion(session_id=session_id, hard=hard)

    @routes.post(f"{_POSTGRES}/sessions/{{session_id}}/undelete")
    async def undelete_session(session_id: SessionId) -> SessionRecord:
        """Make an ended session active again."""
        session = await sessions.store.undelete(session_id)
        sessions.forget(session.user_id, session.persona)
        _log.info("session_undeleted", session_id=session_id, user_id=session.user_id)
        [shown] = await records([session], settings)
        return shown

    @routes.get(f"{_POSTGRES}/statistics")
    async def statistics() -> Statistics:
        """Numbers over all sessions."""
        return Statistics.model_validate(await sessions.store.statistics())

    @routes.post(f"{_POSTGRES}/cleanup")
    async def cleanup(
        grace_hours: Annotated[
            float | None, Query(ge=0, le=1_000_000, description="hours to keep ended sessions")
        ] = None,
    ) -> CleanupResult:
        """End what has expired, and remove what ended longer ago than the grace."""
        chosen = grace if grace_hours is None else timedelta(hours=grace_hours)
        done = await sessions.store.cleanup(grace=chosen)
        return CleanupResult.model_validate(done)

    @routes.get(f"{_POSTGRES}/connection/test")
    async def connection() -> Connection:
        """What answers where sessions lie; 503 where nothing does, though the session file may serve meanwhile."""
        answers = await sessions.store.check()
        trouble = sessions.store.last_error
        return Connection(connected=trouble is None, store=answers, trouble=trouble)

    return routes


async def _loaded(store: SessionStore, session_id: str) -> Session:
    session = await store.load(session_id)
    if session is None:
        raise RowMissing(f"there is no session {session_id}; it may have been removed permanently")
    return session
