"""Sessions: which agent is a user's, and what the user chose. The port, its record, and what can go wrong."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

from shared_utils.errors import ServiceError


class SessionStoreError(ServiceError):
    """The session store cannot be read or written."""

    code = "session_store"
    retryable = True


class StaleSession(SessionStoreError):
    """The session was changed by somebody else since it was read."""

    code = "stale_session"


def utc_now() -> datetime:
    """Now, with its time zone."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Session:
    """One row. At most one active session exists per (user, persona)."""

    user_id: str
    persona: str
    session_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    agent_id: str | None = None
    """None while the session is only reserved: its agent may or may not exist in Letta yet."""
    session_data: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """The user's own choices, ``permanent_memory`` among them."""
    created_at: datetime = field(default_factory=utc_now)
    last_updated: datetime = field(default_factory=utc_now)
    expires_at: datetime | None = None
    version: int = 1
    """Counts writes; a write that names an older one is refused."""
    is_active: bool = True

    @property
    def permanent_memory(self) -> bool:
        """Whether the user lets an agent remember."""
        return self.metadata.get("permanent_memory", True) is not False


class SessionStore(Protocol):
    """Sessions that outlive the process. Every method may raise SessionStoreError."""

    async def find(self, user_id: str, persona: str) -> Session | None:
        """The active session."""
        ...

    async def reserve(self, user_id: str, persona: str) -> Session:
        """The active session, made without an agent where there was none. Safe over several processes."""
        ...

    async def save(self, session: Session) -> Session:
        """Write agent, data, metadata and expiry; returns the session with its new version.

        Raises:
            StaleSession: somebody else wrote it since it was read.
        """
        ...

    async def touch(self, session_ids: Collection[str]) -> None:
        """Say that these sessions are in use."""
        ...

    async def count(self) -> Mapping[str, int]:
        """``active`` sessions, and how many of them are ``reserved`` without an agent."""
        ...

    async def close(self) -> None:
        """Give back files and connections."""
        ...
