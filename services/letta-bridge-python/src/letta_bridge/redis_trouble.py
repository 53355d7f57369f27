"""Why Redis was of no use, in one sentence for the operator."""

from __future__ import annotations

from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    InvalidResponse,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
)

_REFUSED = (
    "Redis refuses the password ({error}); set REDIS_PASSWORD, or the password in REDIS_URL, to what the server has, "
    "and REDIS_USERNAME where it has ACL users"
)
_FORBIDDEN = "Redis forbids the command ({error}); give the ACL user that right, or name another user in REDIS_USERNAME"
_LOADING = "Redis is still loading its data; wait until it has, or see its log"
_REPLICA = "Redis is a read-only replica; name its primary, or a Sentinel, in REDIS_URL"
_FULL = "Redis is full ({error}); raise its maxmemory, or work off what waits in its lists"
_NOT_REDIS = (
    "what answers is not Redis ({error}); check host and port in REDIS_URL, and that TLS is used (rediss://) where the "
    "server wants it"
)

_MEANINGS: tuple[tuple[type[Exception], str], ...] = (
    (AuthenticationError, _REFUSED),
    (NoPermissionError, _FORBIDDEN),
    (BusyLoadingError, _LOADING),
    (ReadOnlyError, _REPLICA),
    (OutOfMemoryError, _FULL),
    (InvalidResponse, _NOT_REDIS),
)


def explained(error: Exception) -> str:
    """One sentence: what is wrong and what to do.

    Args:
        error: one of ``shared_utils.redis_connection.CONNECTION_ERRORS``.
    """
    for kind, meaning in _MEANINGS:
        if isinstance(error, kind):
            return meaning.format(error=str(error).rstrip("."))
    return f"Redis cannot be reached ({str(error) or type(error).__name__}); check REDIS_URL, and that Redis runs"
