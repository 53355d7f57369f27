"""Copies the values of sequences; without them, new messages would reuse numbers."""

from __future__ import annotations

from psycopg import sql

from letta_server.database import Connection
from letta_server.transfer import catalog


def copy(source: Connection, target: Connection) -> None:
    """Give every sequence of the target the source's value."""
    for name in _shared(source, target):
        values = [sql.Identifier(name).as_string(target), *_state(source, name)]
        target.execute("SELECT setval(%s::regclass, %s::bigint, %s)", values)


def behind(source: Connection, target: Connection) -> list[str]:
    """The sequences that would hand out numbers which the source has used."""
    return [name for name in _shared(source, target) if _next(target, name) < _next(source, name)]


def _shared(source: Connection, target: Connection) -> list[str]:
    there = set(catalog.sequences(source))
    return [name for name in catalog.sequences(target) if name in there]


def _next(connection: Connection, name: str) -> int:
    value, used = _state(connection, name)
    return value + used


def _state(connection: Connection, name: str) -> tuple[int, bool]:
    """The value handed out last, or the first one to be handed out, and which of the two it is."""
    row = connection.execute(sql.SQL("SELECT last_value, is_called FROM {}").format(sql.Identifier(name))).fetchone()
    return (1, False) if row is None else (int(row[0]), bool(row[1]))
