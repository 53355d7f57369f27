"""The Redis names of this service; the bridge knows them from the same place."""

from shared_utils.contracts.memory_keys import (
    AI_RESPONSES,
    ALL_USER_SESSIONS,
    CLEANUP_TURN,
    ERASURES,
    GLOBAL_CONTEXT,
    MEMORY_UPDATES,
    SURVEY,
    SURVEY_TURN,
    QueueKeys,
    seen,
    summary_pause,
    task_response,
    user_session,
)

__all__ = [
    "AI_RESPONSES",
    "ALL_USER_SESSIONS",
    "CLEANUP_TURN",
    "ERASURES",
    "GLOBAL_CONTEXT",
    "MEMORY_UPDATES",
    "SURVEY",
    "SURVEY_TURN",
    "QueueKeys",
    "seen",
    "summary_pause",
    "task_response",
    "user_session",
]
