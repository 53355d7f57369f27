"""Builds the stores of sessions and choices from the settings."""

from __future__ import annotations

from letta_bridge.consent import ChoiceReplicas, RedisChoices
from letta_bridge.request_queue.erasure_ledger import KEPT_DAYS
from letta_bridge.request_queue.keys import Keys
from letta_bridge.settings import BridgeSettings
from shared_utils.persistence.choices.database_store import DatabaseChoiceStore
from shared_utils.persistence.choices.file_store import FileChoiceStore
from shared_utils.persistence.database.database import Database
from shared_utils.persistence.erasures.log import DatabaseErasureLog
from shared_utils.persistence.sessions.database_store import DatabaseSessionStore
from shared_utils.persistence.sessions.failover_store import FailoverSessionStore
from shared_utils.persistence.sessions.file_store import FileSessionStore
from shared_utils.persistence.sessions.port import SessionStore
from shared_utils.redis.connection import RedisClient


def session_store(settings: BridgeSettings, database: Database | None) -> SessionStore:
    """The database, if configured, with the session file for its outages; otherwise the session file.

    Args:
        settings: the path of the file, and the limits.
        database: is closed with the store.
    """
    file = settings.session_file
    limit = settings.sessions.max_data_bytes
    if database is None:
        return FileSessionStore(file, max_bytes=limit)
    log = DatabaseErasureLog(database)
    return FailoverSessionStore(
        DatabaseSessionStore(database, max_bytes=limit), file, max_bytes=limit, erased=lambda: log.lately(KEPT_DAYS)
    )


def choice_replicas(
    settings: BridgeSettings, redis: RedisClient, database: Database | None, sessions: SessionStore
) -> ChoiceReplicas:
    """The replicas of users' choices: in Redis, in the session file, and in the database if there is one.

    Args:
        settings: the path of the session file, and the queue's name.
        redis: stays open when the replicas are closed.
        database: stays open when the replicas are closed; None makes the session file the durable store.
        sessions: their metadata holds the opt-outs of earlier releases.
    """
    file = FileChoiceStore(settings.session_file)
    shared = RedisChoices(redis, Keys(settings.queue.requests))
    if database is None:
        return ChoiceReplicas(shared, file, None, sessions)
    return ChoiceReplicas(shared, DatabaseChoiceStore(database), file, sessions)
