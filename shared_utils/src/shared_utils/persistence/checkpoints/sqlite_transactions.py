"""Checkpoint statements in SQLite: one connection on a thread of its own, so that a slow disk holds up nobody else."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any, Final, TypeVar

from shared_utils.persistence.checkpoints.rows import Row
from shared_utils.persistence.checkpoints.statements import Statements
from shared_utils.persistence.errors import DatabaseUnavailable
from shared_utils.persistence.sqlite_file import BUSY_SECONDS, write_ahead
from shared_utils.persistence.statements import statements
from shared_utils.private_files import create

_SQL: Final = statements("file_checkpoints")
_JSON: Final = frozenset({"metadata", "value_names", "value_versions", "inherited"})

_Result = TypeVar("_Result")
_Params = Mapping[str, Any]


class SqliteTransactions:
    """Transactions in one SQLite file, one at a time. It is opened on first use, and again after an error.

    Args:
        path: of the file; None: in memory.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None
        self._thread: ThreadPoolExecutor | None = None
        self._turn = asyncio.Lock()

    async def open(self) -> None:
        """Make the file and its tables."""
        await self.run(_nothing, snapshot=True)

    async def run(self, work: Callable[[Statements], Awaitable[_Result]], *, snapshot: bool = False) -> _Result:
        """See :class:`Transactions`.

        Raises:
            DatabaseUnavailable: the file cannot be used.
        """
        async with self._turn:
            try:
                return await self._once(work, "BEGIN" if snapshot else "BEGIN IMMEDIATE")
            except (sqlite3.Error, OSError) as error:
                if self._path is not None:  # what is only in memory would be lost with its connection
                    await self._drop()
                raise DatabaseUnavailable(
                    f"the checkpoint file {self._path or 'in memory'} cannot be used ({error}); check that its "
                    "directory can be written and the disk is not full"
                ) from error

    async def close(self) -> None:
        """Close the file."""
        async with self._turn:
            await self._drop()
            if self._thread is not None:
                self._thread.shutdown()
                self._thread = None

    async def _once(self, work: Callable[[Statements], Awaitable[_Result]], begin: str) -> _Result:
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "checkpoints")
        if self._connection is None:
            self._connection = await self._call(self._opened)
        connection = self._connection
        await self._call(lambda: connection.execute(begin))
        try:
            result = await work(_SqliteStatements(connection, self._call))
        except BaseException:
            await self._call(connection.rollback)
            raise
        await self._call(connection.commit)
        return result

    async def _call(self, function: Callable[[], _Result]) -> _Result:
        """Run it on the thread, and wait even when cancelled: the next one must find this one done."""
        running = asyncio.get_running_loop().run_in_executor(self._thread, function)
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            with contextlib.suppress(sqlite3.Error):
                await running
            raise

    async def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(sqlite3.Error):
                await self._call(connection.close)

    def _opened(self) -> sqlite3.Connection:
        if self._path is not None:
            create(self._path)
        connection = sqlite3.connect(self._path or ":memory:", timeout=BUSY_SECONDS, isolation_level=None)
        try:
            write_ahead(connection)
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.executescript(_SQL["tables"])
            connection.create_function("contains", 2, _contains, deterministic=True)
        except sqlite3.Error:
            connection.close()
            raise
        connection.row_factory = sqlite3.Row
        return connection


class _SqliteStatements:
    def __init__(self, connection: sqlite3.Connection, call: Callable[[Callable[[], Any]], Awaitable[Any]]) -> None:
        self._connection = connection
        self._call = call

    async def rows(self, name: str, params: _Params, each: Sequence[_Params] | None = None) -> Sequence[Row]:
        bound = _bound({**params, "each": [list(row.values()) for row in each]} if each else params)
        found = await self._call(lambda: self._connection.execute(_SQL[name], bound).fetchall())
        return [_row(row) for row in found]

    async def execute(self, name: str, params: _Params, each: Sequence[_Params] | None = None) -> int:
        if each is None:
            bound = _bound(params)
            cursor = await self._call(lambda: self._connection.execute(_SQL[name], bound))
        else:
            many = [_bound({**params, **row}) for row in each]
            cursor = await self._call(lambda: self._connection.executemany(_SQL[name], many))
        return int(cursor.rowcount)

    async def lock(self, thread_id: str, *, alone: bool) -> None:
        """Nothing to do: SQLite lets one transaction write at a time."""


async def _nothing(_: Statements) -> None:
    pass


def _bound(params: _Params) -> dict[str, Any]:
    return {name: json.dumps(value) if isinstance(value, list) else value for name, value in params.items()}


def _row(row: sqlite3.Row) -> dict[str, Any]:
    found = {name: json.loads(row[name]) if name in _JSON else row[name] for name in row.keys()}  # noqa: SIM118  # iterating a sqlite3.Row gives its values
    if "created_at" in found:
        found["created_at"] = datetime.fromisoformat(found["created_at"])
    return found


def _contains(metadata: str, wanted: str) -> bool:
    """What PostgreSQL's ``@>`` says of two JSON objects."""
    return _holds(json.loads(metadata), json.loads(wanted))


def _holds(value: Any, wanted: Any) -> bool:
    match wanted:
        case dict():
            return isinstance(value, dict) and all(
                key in value and _holds(value[key], item) for key, item in wanted.items()
            )
        case list():
            return isinstance(value, list) and all(any(_holds(held, item) for held in value) for item in wanted)
        case _:
            # True is 1 to Python, and neither to JSON.
            return isinstance(value, bool) == isinstance(wanted, bool) and bool(value == wanted)
