"""Errors of persistence.

::

    ServiceError                    shared_utils: code, retryable
    └── PersistenceError
        ├── DatabaseUnavailable     away, starting, read-only, or the connection was lost: try again later
        │   ├── PoolExhausted       every connection is in use: too many questions at once
        │   └── QueryTimeout        it took longer than it may
        ├── DatabaseRefused         it answers, but not like this: somebody has to change something first
        │   ├── LoginRefused        user, password or the kind of password
        │   ├── UnfitDatabase       wrong product, version or compatibility mode
        │   └── SchemaMissing       the tables are not there, or not the ones this release needs
        ├── MigrationChanged        an applied migration is not the one this release brings
        ├── Conflict                a row like this exists already
        ├── RowMissing              no such row
        ├── RowChanged              the row is not as expected any more
        ├── CheckpointNeeded        checkpoints.py: later ones are built on it
        ├── ValuesMissing           checkpoints.py: a checkpoint names values that are not stored
        ├── ValueRefused            a value is too large, or no database can hold it
        └── SessionStoreError       sessions/: whatever keeps the session store from answering
            ├── SessionStoreAway    nothing answers there; a row that cannot be read is not this
            └── StaleSession
"""

from __future__ import annotations

from shared_utils.errors import ServiceError


class PersistenceError(ServiceError):
    """The database could not do what was asked."""

    code = "persistence"


class DatabaseUnavailable(PersistenceError):
    """The database is away."""

    code = "database_unavailable"
    retryable = True


class PoolExhausted(DatabaseUnavailable):
    """Every connection to the database is in use."""

    code = "pool_exhausted"


class QueryTimeout(DatabaseUnavailable):
    """The database took longer than it may."""

    code = "query_timeout"


class DatabaseRefused(PersistenceError):
    """The database answers, but cannot be used like this."""

    code = "database_refused"


class LoginRefused(DatabaseRefused):
    """The database does not let this user in."""

    code = "login_refused"


class UnfitDatabase(DatabaseRefused):
    """The database is of a kind this project cannot use."""

    code = "unfit_database"


class SchemaMissing(DatabaseRefused):
    """The tables are not there."""

    code = "schema_missing"


class MigrationChanged(PersistenceError):
    """An applied migration is not the one this release brings."""

    code = "migration_changed"


class Conflict(PersistenceError):
    """A row like this exists already."""

    code = "conflict"


class RowMissing(PersistenceError):
    """No such row."""

    code = "row_missing"


class RowChanged(PersistenceError):
    """The row is not as expected any more: somebody else wrote it since it was read."""

    code = "row_changed"


class ValueRefused(PersistenceError):
    """A value is too large, or no database can hold it."""

    code = "value_refused"


class SessionStoreError(PersistenceError):
    """The session store cannot be read or written."""

    code = "session_store"
    retryable = True


class SessionStoreAway(SessionStoreError):
    """The session store's database does not answer, or lets nobody in."""

    code = "session_store_away"


class StaleSession(SessionStoreError):
    """The session was changed by somebody else since it was read."""

    code = "stale_session"
    retryable = False
