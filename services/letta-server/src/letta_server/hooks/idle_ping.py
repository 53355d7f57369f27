"""Pings a pooled connection before use only if it was idle, instead of before each of a turn's twenty transactions.

A connection that has answered within a second, and that the server has not closed since, is taken to be alive. If it is
lost at the very moment, a statement on it fails, as one in the middle of a transaction does; SQLAlchemy then replaces
all pooled connections.
"""

from __future__ import annotations

import time
from typing import Any, Final

from sqlalchemy import Engine, event
from sqlalchemy.exc import InvalidatePoolError

_IDLE_SECONDS: Final = 1.0
_USED: Final = "letta_server.used"
"""When the connection was last used, in the pool's record of it."""


def install() -> None:
    """Listen to the pool of every engine made from now on. Letta's own ping is switched off in its environment."""
    event.listen(Engine, "connect", _note)
    event.listen(Engine, "checkin", _note)
    event.listen(Engine, "checkout", _ping)


def _note(_connection: Any, record: Any) -> None:
    record.info[_USED] = time.monotonic()


def _ping(connection: Any, record: Any, _proxy: Any) -> None:
    if connection.driver_connection.is_closed():  # the driver has noticed, without a round trip
        raise InvalidatePoolError
    if time.monotonic() - record.info[_USED] < _IDLE_SECONDS:
        return
    try:
        connection.ping()  # asyncpg's
    except Exception as error:
        raise InvalidatePoolError from error
