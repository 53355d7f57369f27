"""Where sessions and choices lie, by the settings."""

from __future__ import annotations

from letta_bridge.consent import ChoiceCopies, RedisChoices
from letta_bridge.request_queue.keys import Keys
from letta_bridge.settings import BridgeSettings
from shared_utils.persistence.database import Database
from shared_utils.persistence.database_choices import DatabaseChoiceStore
from shared_utils.persistence.database_sessions import DatabaseSessionStore
from shared_utils.persistence.failover_sessions import FailoverSessionStore
from shared_utils.persistence.file_choices import FileChoiceStore
from shared_utils.persistence.file_sessions import FileSessionStore
from shared_utils.persistence.sessions import SessionStore
from shared_utils.redis_connection import RedisClient


def session_store(settings: BridgeSettings, database: Database | None) -> SessionStore:
    """The database where there is one, with the file for when it is away; else the file.

    Args:
        settings: the file's place, and the limits.
        database: is closed with the store.
    """
    file = settings.session_file
    limit = settings.sessions.max_data_bytes
    if database is None:
        return FileSessionStore(file, max_bytes=limit)
    return FailoverSessionStore(DatabaseSessionStore(database, max_bytes=limit), file, max_bytes=limit)


def choice_copies(
    settings: BridgeSettings, redis: RedisClient, database: Database | None, sessions: SessionStore
) -> ChoiceCopies:
    """Users' choices, in the same places as their sessions, and in Redis.

    Args:
        settings: the file's place, and the queue's name.
        redis: is not closed with them.
        database: is not closed with them.
        sessions: whose metadata holds the refusals of earlier releases.
    """
    file = FileChoiceStore(settings.session_file)
    shared = RedisChoices(redis, Keys(settings.queue.requests))
    if database is None:
        return ChoiceCopies(shared, file, None, sessions)
    return ChoiceCopies(shared, DatabaseChoiceStore(database), file, sessions)
