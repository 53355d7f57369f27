"""Searches every Redis key, table, file and agent for remains of an erased user."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import redis
from psycopg import sql

from bridge_chaos.environment import Environment

_TABLES = (
    "SELECT table_schema, table_name FROM information_schema.tables "
    "WHERE table_type = 'BASE TABLE' AND table_schema NOT IN ('pg_catalog', 'information_schema')"
)


def remains_of(environment: Environment, marks: Collection[str]) -> list[tuple[str, str]]:
    """Each place that still holds one of these marks, with the mark.

    Args:
        environment: where to look.
        marks: what tells a message from all others, in ASCII, so that it is the same in every encoding.
    """
    return [(place, mark) for place, content in _everything(environment) for mark in marks if _holds(content, mark)]


def _holds(content: str, mark: str) -> bool:
    """Whether the text contains the whole mark: message 12 does not count as message 1."""
    end = content.find(mark) + len(mark)
    while end >= len(mark):
        if not content[end : end + 1].isdigit():
            return True
        end = content.find(mark, end) + len(mark)
    return False


def _everything(environment: Environment) -> Iterator[tuple[str, str]]:
    """Place → its content as text."""
    with environment.client() as client:
        yield from _of_redis(client)
    if environment.topology.database:
        yield from _of_postgres(environment.postgres.url(environment.database))
    if environment.letta.doubles:
        yield from _of_sqlite(environment.letta.file, "Letta")
    for number in range(len(environment.bridges)):
        yield from _of_directory(environment.data(number))


def _of_redis(client: redis.Redis) -> Iterator[tuple[str, str]]:
    for key in client.scan_iter(count=1000):
        name = key.decode(errors="replace")
        yield f"the name of the Redis key {name}", name
        yield from ((f"the Redis key {name}", value) for value in _values(client, key))


def _values(client: Any, key: bytes) -> Iterable[str]:
    kind = client.type(key)
    if kind == b"string":
        found: Any = [client.get(key)]
    elif kind == b"list":
        found = client.lrange(key, 0, -1)
    elif kind == b"hash":
        found = client.hgetall(key).items()
    elif kind == b"set":
        found = client.smembers(key)
    elif kind == b"zset":
        found = client.zrange(key, 0, -1)
    else:
        found = [fields for _, fields in client.xrange(key)]
    for value in found:
        yield value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _of_postgres(url: str) -> Iterator[tuple[str, str]]:
    with psycopg.connect(url, autocommit=True) as connection:
        for schema, table in connection.execute(_TABLES).fetchall():
            rows = sql.SQL("SELECT t::text FROM {} t").format(sql.Identifier(schema, table))
            for (row,) in connection.execute(rows):
                yield f"the table {schema}.{table}", str(row)


def _of_directory(folder: Path) -> Iterator[tuple[str, str]]:
    for file in folder.rglob("*"):
        if file.suffix == ".db":
            yield from _of_sqlite(file, file.name)
        elif file.is_file() and file.suffix not in {".log", ".db-wal", ".db-shm"}:
            yield f"the file {file.name}", file.read_text(encoding="utf-8", errors="replace")


def _of_sqlite(file: Path, name: str) -> Iterator[tuple[str, str]]:
    connection = sqlite3.connect(file, timeout=30)
    try:
        tables = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            for row in connection.execute(f'SELECT * FROM "{table}"'):  # noqa: S608 - names from the file itself
                yield f"{name}'s table {table}", str(row)
    finally:
        connection.close()
