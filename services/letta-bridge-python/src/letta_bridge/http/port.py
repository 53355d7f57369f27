"""The session manager as the API uses it, and the parameters that its routes share."""

from __future__ import annotations

from typing import Annotated, Protocol

from fastapi import Query

from shared_utils.persistence.sessions.port import Restoration, SessionStore

Limit = Annotated[int, Query(ge=1, le=1000, description="sessions at most")]
Offset = Annotated[int, Query(ge=0, le=1_000_000_000, description="sessions to skip")]


class Sessions(Protocol):
    """The session manager."""

    @property
    def store(self) -> SessionStore:
        """Where sessions lie."""
        ...

    @property
    def restored(self) -> Restoration | None:
        """What the last :meth:`restore` read; None before the first."""
        ...

    async def restore(self) -> Restoration:
        """Read the active sessions into memory."""
        ...

    def forget(self, user_id: str, persona: str) -> None:
        """Ask the store about this session next time."""
        ...
