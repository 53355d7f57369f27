"""An SQLite file: opened on first use, and again after an error, by several processes of one host.

Only a write creates it. A read of a missing file is answered as by an empty one.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, TypeVar

from shared_utils.persistence.errors import SessionStoreError
from shared_utils.private_files import create

BUSY_SECONDS: Final = 5.0
"""How long a writer waits for another one."""
_BUSY_PAUSE: Final = 0.01

_Result = TypeVar("_Result")


class SqliteFile:
    """The SQLite file ``path``.

    A disk that was full or missing is no reason to restart: the next call tries again.

    Args:
        path: the first write creates it, and its directory where that is missing.
        prepare: makes tables, or brings those of an older release up to date; called in a transaction.
    """

    def __init__(self, path: Path, prepare: Callable[[sqlite3.Connection], None]) -> None:
        self.path = path
        self._prepare = prepare
        self._connection: sqlite3.Connection | None = None
        self._lock = threading.Lock()

    async def read(self, work: Callable[[sqlite3.Connection], _Result]) -> _Result:
        """What ``work`` returns, in a thread. ``work`` changes nothing.

        Raises:
            SessionStoreError: the file cannot be used.
        """
        return await asyncio.to_thread(self._guarded, work, may_create=False)

    async def write(self, work: Callable[[sqlite3.Connection], _Result]) -> _Result:
        """What ``work`` returns, in a thread and in a transaction: wholly or not at all.

        Raises:
            SessionStoreError: the file cannot be used.
        """

        def transaction(connection: sqlite3.Connection) -> _Result:
            with connection:
                connection.execute("BEGIN IMMEDIATE")
                return work(connection)

        return await asyncio.to_thread(self._guarded, transaction, may_create=True)

    def close(self) -> None:
        """Give the file back."""
        with self._lock:
            self._drop()

    def _guarded(self, work: Callable[[sqlite3.Connection], _Result], *, may_create: bool) -> _Result:
        with self._lock, self._explained():
            if self._connection is None:
                if not may_create and self._is_missing():
                    return self._as_empty(work)
                self._connection = self._open()
            return work(self._connection)

    def _is_missing(self) -> bool:
        try:
            self.path.stat()
        except FileNotFoundError:
            return True  # any other error is told
        return False

    def _as_empty(self, work: Callable[[sqlite3.Connection], _Result]) -> _Result:
        with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
            connection.row_factory = sqlite3.Row
            self._prepare(connection)
            return work(connection)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.IntegrityError:
            raise  # a row, not the file
        except (sqlite3.Error, OSError) as error:
            self._drop()
            raise SessionStoreError(
                f"the session file {self.path} cannot be used ({error}); check that its directory can be written and "
                "the disk is not full"
            ) from error

    def _open(self) -> sqlite3.Connection:
        create(self.path)  # what SQLite makes beside it has its rights
        connection = sqlite3.connect(self.path, timeout=BUSY_SECONDS, check_same_thread=False, isolation_level=None)
        try:
            connection.row_factory = sqlite3.Row
            write_ahead(connection)
            connection.execute("PRAGMA synchronous = NORMAL")
            # What is deleted or replaced would stay readable in the file's free pages.
            connection.execute("PRAGMA secure_delete = ON")
            with connection:
                connection.execute("BEGIN IMMEDIATE")
                self._prepare(connection)
        except sqlite3.Error:
            connection.close()
            raise
        return connection

    def _drop(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None


def write_ahead(connection: sqlite3.Connection) -> None:
    """Switch the file to its write-ahead log.

    SQLite does not wait for that lock by itself: two bridges that make the file at once would get in each other's way.
    """
    until = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() >= until:
                raise
            time.sleep(_BUSY_PAUSE)
        else:
            return
