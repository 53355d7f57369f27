"""Keeps prepared statements for the life of a connection, on both servers.

Letta switches the driver's cache off, because poolers of old mix up the statements of their clients: each statement is
parsed and planned anew, in one more round trip, and a turn has about a hundred. Where no pooler stands between, the
cache is safe. If somebody changes the type of a column while Letta runs, the statements that use it fail once, in each
turn at work; SQLAlchemy drops all statements it has kept at the first failure. Indexes and new columns do no harm.
"""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import Engine, event

_STATEMENTS: Final = 100
"""For each connection, least recently used first to go."""


def install(*, pooled: bool) -> None:
    """Listen to every engine that connects from now on.

    Args:
        pooled: a pooler stands between, or may: nothing is kept.
    """
    if not pooled:
        event.listen(Engine, "do_connect", _keep)


def _keep(_dialect: Any, _record: Any, _arguments: Any, options: dict[str, Any]) -> None:
    if "prepared_statement_cache_size" in options:  # asyncpg's, as Letta makes its engine
        options["prepared_statement_cache_size"] = _STATEMENTS
