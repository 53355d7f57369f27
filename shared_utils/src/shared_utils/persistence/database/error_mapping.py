"""Maps psycopg's errors to this package's. openGauss names no constraint, so only the SQLSTATE counts."""

from __future__ import annotations

import re
from typing import Final

import psycopg
from psycopg import errors
from psycopg_pool import PoolTimeout, TooManyRequests

from shared_utils.connection_failures import connection_failure
from shared_utils.operator_commands import command
from shared_utils.persistence.database.connections import NotBegun
from shared_utils.persistence.dialects import login_refusal
from shared_utils.persistence.errors import (
    Conflict,
    DatabaseRefused,
    DatabaseUnavailable,
    PersistenceError,
    PoolExhausted,
    QueryTimeout,
    SchemaMissing,
    UnfitDatabase,
    ValueRefused,
)

RETRYABLE_ERRORS = (errors.SerializationFailure, errors.DeadlockDetected, NotBegun)
"""The database aborted the transaction in favour of another one, or before it began; a retry may succeed."""
_POOLER_REFUSAL: Final = re.compile(r"unsupported startup parameter(?: in options)?: (\w+)")
_ADVICE: Final = {
    "its name cannot": "correct the host in DATABASE_URL, or this machine's DNS; "
    "in docker, a service that is down has no name",
    "certificate": "name the authority that signed it in DATABASE_URL (sslrootcert)",
    "no such socket": "correct the path in DATABASE_URL, or start it",
}
_DEFAULT_ADVICE: Final = "start it, or correct host and port in DATABASE_URL"
_CONNECTION_ERRORS = (psycopg.OperationalError, psycopg.InterfaceError)


def translate(error: psycopg.Error, *, place: str, user: str) -> PersistenceError:
    """The error of this package for one of psycopg's.

    Args:
        error: what psycopg raised.
        place: the database, for people.
        user: the account.
    """
    text = _line(error)
    found = _refusal(error, text, place, user)
    if found is None and (parameter := _POOLER_REFUSAL.search(str(error))):
        found = UnfitDatabase(
            f"the connection pooler in front of the database {place} does not accept the parameter {parameter[1]}; "
            "remove "
            f"it from DATABASE_URL, or let the pooler ignore it (ignore_startup_parameters = {parameter[1]})"
        )
    if found is None and isinstance(error, _CONNECTION_ERRORS):
        why = connection_failure(error) or text
        advice = next((advice for words, advice in _ADVICE.items() if words in why), _DEFAULT_ADVICE)
        found = login_refusal(str(error), user) or DatabaseUnavailable(
            f"the database {place} is away ({why}); {advice}; it is tried again"
        )
    return found or PersistenceError(f"the database {place} refused a statement ({text})")


def _refusal(error: psycopg.Error, text: str, place: str, user: str) -> PersistenceError | None:
    found: PersistenceError | None = None
    match error:
        case PoolTimeout() | TooManyRequests():
            found = PoolExhausted(
                f"no connection to the database {place} became free within DB_CONNECTION_TIMEOUT; raise that or "
                "DB_MAX_CONNECTIONS, or send fewer queries at once"
            )
        case errors.QueryCanceled():
            found = QueryTimeout(
                f"the database {place} took longer than DB_QUERY_TIMEOUT allows ({text}); it is overloaded or locked"
            )
        case errors.SerializationFailure() | errors.DeadlockDetected() | errors.LockNotAvailable():
            found = DatabaseUnavailable(
                f"the database {place} rolled back a transaction repeatedly because of conflicts with others "
                f"({text}); try again later"
            )
        case errors.DiskFull():
            found = DatabaseUnavailable(
                f"the disk of the database {place} is full ({text}), so it refuses writes; free disk space; it is "
                "tried again"
            )
        case errors.ReadOnlySqlTransaction():
            found = DatabaseUnavailable(
                f"the database {place} is read-only ({text}): a standby, or default_transaction_read_only is set for "
                "it; name the primary in DATABASE_URL, or take that setting back; it is tried again"
            )
        case errors.UniqueViolation():
            found = Conflict(f"such a row already exists ({text})")
        case errors.UndefinedTable() | errors.InvalidSchemaName() | errors.UndefinedColumn():
            found = SchemaMissing(
                f"the database {place} lacks tables that this release needs ({text}); run: {command('migrate')}"
            )
        case errors.InsufficientPrivilege():
            found = DatabaseRefused(
                f"user {user} may not do that in the database {place} ({text}); run as its owner: "
                f"{command(f'migrate --grant {user}')}"
            )
        case psycopg.DataError():
            found = ValueRefused(f"the database {place} cannot hold a value ({text})")
    return found


def _line(error: psycopg.Error) -> str:
    primary = error.diag.message_primary
    return primary or (str(error).strip().rpartition("\n")[2].strip() or type(error).__name__)
