"""Repeats idempotent commands while Redis is away."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    ClusterDownError,
    ConnectionError,  # noqa: A004  # redis-py's name
    MasterDownError,
    MaxConnectionsError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
    ResponseError,
    TimeoutError,  # noqa: A004  # redis-py's name
    TryAgainError,
)

from letta_bridge_client.errors import RedisUnavailable

_Result = TypeVar("_Result")

ERRORS: Final[tuple[type[Exception], ...]] = (RedisError, RedisClusterException, OSError)
"""What a command can raise; a Cluster raises no RedisError."""
_AWAY: Final[tuple[type[Exception], ...]] = (
    ConnectionError,
    TimeoutError,
    BusyLoadingError,
    ReadOnlyError,
    MasterDownError,
    ClusterDownError,
    TryAgainError,
    MaxConnectionsError,
    RedisClusterException,
    OSError,
)
"""What passes when Redis has restarted or failed over."""
_FULL: Final = ("OOM", "MISCONF", "NOREPLICAS")
"""Begin the errors of a server that accepts no writes for now."""
_FIRST_PAUSE_SECONDS: Final = 0.05
_LONGEST_PAUSE_SECONDS: Final = 2.0


class Outage:
    """The latest failure of Redis, for the sentence of a call that ran out of time."""

    def __init__(self) -> None:
        self.error: Exception | None = None

    async def outlast(self, command: Callable[[], Awaitable[_Result]]) -> _Result:
        """The result of an idempotent command, repeated until Redis answers; the caller limits the time.

        Raises:
            RedisUnavailable: Redis refuses the command, and will until an operator changes something.
        """
        pause = _FIRST_PAUSE_SECONDS
        while True:
            try:
                result = await command()
            except ERRORS as error:
                self.error = error
                if not passes(error):
                    raise RedisUnavailable(refused(error), retryable=False) from error
            else:
                self.error = None
                return result
            await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311  # spreads load, guards nothing
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)


def passes(error: Exception) -> bool:
    """Whether the failure may end without an operator."""
    if isinstance(error, AuthenticationError):  # a ConnectionError for redis-py
        return False
    if isinstance(error, ResponseError) and str(error).startswith(_FULL):
        return True
    return isinstance(error, _AWAY)


def refused(error: Exception) -> str:
    """The sentence about a failure that does not pass."""
    return (
        f"Redis refuses this client ({error}); check the user and password in the address of Redis, and that user's "
        "rights on letta_requests, its replies and their streams, and on letta_control"
    )
