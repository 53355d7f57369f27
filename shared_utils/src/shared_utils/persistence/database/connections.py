"""A connection that does every piece of work with the session settings that statements rely on.

Where the server is reached directly, they are set once. Where a pooler stands between, the next statement may run in
another session, which other programs use too: there every piece of work is a transaction of its own that begins by
setting them, nothing is set for longer than that, and no statement is prepared on the server.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import tuple_row

from shared_utils.persistence.database.config import DatabaseConfig
from shared_utils.persistence.dialects import Dialect
from shared_utils.persistence.dialects.session_settings import for_session, for_transaction, literal

Row = dict[str, Any]

_IDLE_IN_TRANSACTION_SECONDS: Final = 60.0
"""Limit of an idle transaction, for example of a frozen process, after which its locks are released."""


class NotBegun(psycopg.OperationalError):
    """The session ended before the transaction began."""


class Connection(AsyncConnection[Any]):
    """A connection in autocommit. :meth:`set_up` comes before everything else."""

    pooled: bool = True
    """Whether a pooler may stand between this connection and the server."""
    _settings: Mapping[str, str] = {}

    async def set_up(self, dialect: Dialect, config: DatabaseConfig) -> None:
        """Find out what is at the other end, and fix the session's settings where it is the server itself.

        Raises:
            psycopg.Error: the server refused.
        """
        self._settings = session_settings(dialect, config)
        async with self.cursor(row_factory=tuple_row) as cursor:
            row = await (await cursor.execute(dialect.pooler_question.encode())).fetchone()
        self.pooled = dialect.is_pooled(row[0] if row else None, self)
        if self.pooled:
            self.prepare_threshold = None
        else:
            await self.execute(for_session(self._settings).encode(), prepare=False)

    @contextlib.asynccontextmanager
    async def work(
        self, *, seconds: float | None = None, unlimited: bool = False, snapshot: bool = False
    ) -> AsyncIterator[None]:
        """A transaction with the settings that statements rely on: committed, or rolled back where it raises.

        Args:
            seconds: a statement may take; by default the configured query timeout.
            unlimited: a statement may take any time, and so may the pause between two.
            snapshot: every statement sees one state of the database.

        Raises:
            NotBegun: nothing has been done, and may be tried again on another connection.
        """
        await self.begin(seconds=seconds, unlimited=unlimited, snapshot=snapshot)
        try:
            yield
        except BaseException:
            with contextlib.suppress(psycopg.Error):  # the pool throws a connection away that is not as it was
                await self._send("ROLLBACK")
            raise
        await self._send("COMMIT")

    async def begin(self, *, seconds: float | None = None, unlimited: bool = False, snapshot: bool = False) -> None:
        """Begin what :meth:`work` does as a whole."""
        limits = {}
        if unlimited:
            limits = {"statement_timeout": "0", "idle_in_transaction_session_timeout": "0"}
        elif seconds is not None:
            limits = {"statement_timeout": str(max(1, round(seconds * 1000)))}
        settings = {**(self._settings if self.pooled else {}), **limits}
        try:
            await self._send(for_transaction(settings, snapshot=snapshot))
        except psycopg.OperationalError as error:
            raise NotBegun(str(error)) from error

    async def _send(self, statement: str) -> None:
        # Not prepared: several statements in one message cannot be.
        await self.execute(statement.encode(), prepare=False)


def session_settings(dialect: Dialect, config: DatabaseConfig) -> Mapping[str, str]:
    """Setting → value as SQL, for every piece of work on this database."""
    fixed = {name: literal(value) for name, value in dialect.session_settings.items()}
    idle = max(_IDLE_IN_TRANSACTION_SECONDS, 2 * config.query_timeout)
    return {
        **fixed,
        "search_path": f"{config.schema_sql}, public",
        "statement_timeout": str(max(1, round(config.query_timeout * 1000))),
        "idle_in_transaction_session_timeout": str(round(idle * 1000)),
    }


__all__ = ["Connection", "NotBegun", "Row", "session_settings"]
