"""Where sessions lie, by the settings."""

from __future__ import annotations

from letta_bridge.request_queue.erasure_ledger import KEPT_DAYS
from letta_bridge.settings import BridgeSettings
from shared_utils.persistence.database import Database
from shared_utils.persistence.database_sessions import DatabaseSessionStore
from shared_utils.persistence.erasures import DatabaseErasureLog
from shared_utils.persistence.failover_sessions import FailoverSessionStore
from shared_utils.persistence.file_sessions import FileSessionStore
from shared_utils.persistence.sessions import SessionStore


def session_store(settings: BridgeSettings, database: Database | None) -> SessionStore:
    """The database where there is one, with the file for when it is away; else the file.

    Args:
        settings: the file's place, and the limits.
        database: is closed with the store.
    """
    file = settings.data_dir / settings.sessions.file
    limit = settings.sessions.max_data_bytes
    if database is None:
        return FileSessionStore(file, max_bytes=limit)
    log = DatabaseErasureLog(database)
    return FailoverSessionStore(
        DatabaseSessionStore(database, max_bytes=limit), file, max_bytes=limit, erased=lambda: log.lately(KEPT_DAYS)
    )
