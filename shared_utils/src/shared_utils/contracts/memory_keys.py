"""Defines the Redis names of memory-python; its README describes each.

memory-python uses them through ``memory_service.keys``; the bridge's ``user export`` and ``user erase`` look there too.

A Lua script touches keys of one Cluster slot only. The queue's own keys carry the hash tag ``{queue}``; a list of
messages and the set of what it has already seen share the list's slot. One case cannot: a user id holding ``}`` but
no complete ``{tag}``. Standalone Redis does not mind; in a Cluster such a task ends among the dead letters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

GLOBAL_CONTEXT: Final = "memory:global_context"
MEMORY_UPDATES: Final = "memory_updates"
AI_RESPONSES: Final = "ai_responses"

CLEANUP_TURN: Final = "memory:cleanup"
"""Set for one cleanup interval by the instance that cleans up."""
SURVEY_TURN: Final = "memory:survey_turn"
"""Set for one survey interval by the instance that counts."""
SURVEY: Final = "memory:survey"
"""The last count of users and messages, JSON."""

ERASURES: Final = "memory:erasures"
"""Sorted set SHA-256 of a user's id → when the user was erased, ms of the Redis server's clock."""

_USER_SESSIONS: Final = "memory:user_sessions:"
ALL_USER_SESSIONS: Final = f"{_USER_SESSIONS}*"


def user_session(user_id: str) -> str:
    """List of the user's messages, newest first."""
    return f"{_USER_SESSIONS}{user_id}"


def seen(messages: str) -> str:
    """Message ids lately stored in the list ``messages``, in its slot: a zset id → Redis time in seconds."""
    opening = messages.find("{")
    if opening >= 0 and messages.find("}", opening) > opening + 1:
        return f"memory:seen:{messages}"
    return f"memory:seen:{{{messages}}}"


def seen_before(messages: str) -> str:
    """The same, as releases before named it for some lists."""
    return f"memory:seen:{messages}"


def summary_pause(messages: str) -> str:
    """Present while the list ``messages`` is being summarised or must not be yet."""
    return f"memory:summary_pause:{messages}"


def task_response(task_id: str) -> str:
    """Channel of whoever waits for one task."""
    return f"task_response:{task_id}"


@dataclass(frozen=True)
class QueueKeys:
    """The names around one input queue."""

    queue: str

    @property
    def incoming(self) -> str:
        """List: what a blocking BLMOVE took and no instance has claimed yet."""
        return f"memory:{{{self.queue}}}:incoming"

    def processing(self, instance: str) -> str:
        """Hash receipt → payload: what an instance has claimed and not settled."""
        return f"memory:{{{self.queue}}}:processing:{instance}"

    @property
    def instances(self) -> str:
        """Zset instance → end of its lease, Redis time in milliseconds."""
        return f"memory:{{{self.queue}}}:instances"

    @property
    def dead(self) -> str:
        """List of dead letters, newest first."""
        return f"memory:{{{self.queue}}}:dead"

    @property
    def counters(self) -> str:
        """Hash: what all instances have done so far."""
        return f"memory:{{{self.queue}}}:counters"
