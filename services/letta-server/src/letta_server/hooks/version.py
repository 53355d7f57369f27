"""Sets the server version that SQLAlchemy assumes.

It reads ``version()`` and gives up on openGauss's. The number openGauss names itself everywhere else is the right one:
by a later one SQLAlchemy would ask its catalog for columns that are not there.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection
from sqlalchemy.dialects.postgresql.base import PGDialect

from shared_utils.persistence.dialects import OpenGauss

_VERSION: Final = (9, 2, 4)


def install(_dialect: OpenGauss) -> None:
    """Replace SQLAlchemy's question by its answer."""
    PGDialect._get_server_version_info = _answer  # type: ignore[method-assign]  # noqa: SLF001 - that is the point


def _answer(_self: PGDialect, _connection: Connection) -> tuple[int, int, int]:
    return _VERSION
