"""Has a connection fail within seconds if its server is gone without a word; see ``lost_peers``.

Letta's pool keeps connections for half an hour, which firewalls do not; a ping on a forgotten one would hang, too.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Engine, event

from letta_server import lost_peers


def install() -> None:
    """Listen to every engine that connects from now on."""
    event.listen(Engine, "connect", _notice)


def _notice(connection: Any, _record: Any) -> None:
    if hasattr(connection, "run_async"):  # asyncpg's, whose transport has no public name
        lost_peers.notice(connection.driver_connection._transport.get_extra_info("socket"))  # noqa: SLF001
