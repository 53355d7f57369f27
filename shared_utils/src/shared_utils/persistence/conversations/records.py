"""Conversations and their messages: the records, and the tables they are rows of."""

from __future__ import annotations

import uuid
from typing import Any, Final, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from shared_utils.clock import utc_now
from shared_utils.persistence.repositories.table import Table

Role = Literal["user", "assistant", "system", "tool"]


def _new_id() -> str:
    return str(uuid.uuid4())


class Conversation(BaseModel):
    """What belongs together."""

    model_config = ConfigDict(frozen=True)

    id: str = Field(default_factory=_new_id)
    user_id: str | None = None
    """Whose it is; None where it is nobody's in particular."""
    source: str = ""
    """Who writes it: A service's name for its journal, an application's own name for its conversations."""
    title: str = ""
    metadata: dict[str, Any] = {}
    created_at: AwareDatetime = Field(default_factory=utc_now)
    updated_at: AwareDatetime = Field(default_factory=utc_now)
    """When its last message came, or its title changed."""


class Message(BaseModel):
    """One thing said; goes when its conversation goes."""

    model_config = ConfigDict(frozen=True)

    id: str = Field(default_factory=_new_id)
    conversation_id: str
    ordinal: int = 0
    """Orders the messages of a conversation, also those of the same time."""
    role: Role
    content: str
    metadata: dict[str, Any] = {}
    created_at: AwareDatetime = Field(default_factory=utc_now)


CONVERSATIONS: Final = Table(Conversation, "agent_conversations", order=("created_at",))
MESSAGES: Final = Table(Message, "agent_messages", order=("ordinal",))
