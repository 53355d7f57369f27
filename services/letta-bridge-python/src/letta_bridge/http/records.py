"""The JSON records of the API."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from letta_bridge.agents.user_settings import UserSettings
from shared_utils.persistence.sessions.port import Session


class _Record(BaseModel):
    model_config = ConfigDict(from_attributes=True)


class SessionRecord(_Record):
    """One session."""

    session_id: str
    user_id: str
    persona: str
    agent_id: str | None = Field(description="Letta's agent; null until it is created")
    session_data: Mapping[str, Any]
    metadata: Mapping[str, Any]
    permanent_memory: bool = Field(description="whether agents may remember the user; one choice for all personas")
    message_count: int
    created_at: datetime
    last_updated: datetime = Field(description="last use")
    expires_at: datetime | None
    version: int = Field(description="counts writes")
    is_active: bool


async def records(sessions: Sequence[Session], settings: UserSettings) -> list[SessionRecord]:
    """Sessions as the API returns them, with the choices of their users."""
    chosen = await settings.by_session(sessions)
    return [
        SessionRecord.model_validate(session).model_copy(update={"permanent_memory": chosen[session.session_id]})
        for session in sessions
    ]


class SessionList(_Record):
    """One page of sessions, newest use first."""

    sessions: Sequence[SessionRecord]
    total: int = Field(description="of the whole list")
    limit: int
    offset: int


class RestoredSessions(SessionList):
    """What this bridge read from the store into its memory the last time it was asked to."""

    failed: Mapping[str, str] = Field(description="session id → why its row could not be read")


class RestoreResult(_Record):
    """What was read."""

    restored: int
    failed: Mapping[str, str] = Field(description="session id → why its row could not be read")


class CleanupResult(_Record):
    """What a cleanup did."""

    ended: int = Field(description="expired sessions that are inactive now")
    removed: int = Field(description="sessions inactive for longer than the grace period, removed permanently")


class Statistics(_Record):
    """Numbers over all sessions."""

    total: int
    active: int
    reserved: int = Field(description="active ones without an agent")
    expired: int
    average_messages: float = Field(description="over active sessions that have messages")
    created: Mapping[str, int] = Field(description="day (UTC) → sessions created on it; the last 30 days")
    last_seen: Mapping[str, int] = Field(description="1h, 1d, 7d, 30d, older → active sessions last used within it")


class Connection(_Record):
    """Whether the session store answers."""

    connected: bool
    store: str = Field(description="the store: product, version, place")
    trouble: str | None = Field(description="why its function is limited")


class Deletion(_Record):
    """What became of a session."""

    session_id: str
    hard: bool = Field(description="true: the row is removed; false: the session is ended, and can be undeleted")


class UserSettingsRecord(_Record):
    """A user's choices."""

    user_id: str
    permanent_memory: bool


class UserChoice(BaseModel):
    """What a user chooses."""

    model_config = ConfigDict(extra="forbid")

    permanent_memory: bool = Field(strict=True, description="false: no agent remembers the user; memory-python answers")
