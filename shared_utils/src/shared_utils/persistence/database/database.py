"""The database: its connections and transactions.

It is opened by the first call and again after an outage. While it is away, calls fail at once, except for one per
second that probes it; so callers never queue for a missing server.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, TypeVar
from weakref import WeakKeyDictionary

import psycopg
from psycopg import errors
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool, PoolClosed, PoolTimeout
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from shared_utils.persistence.database.bootstrap import connect_and_prepare, parameters
from shared_utils.persistence.database.config import DatabaseConfig
from shared_utils.persistence.database.connection_watch import ConnectionWatch, reporting, silent
from shared_utils.persistence.database.connections import Connection, Row
from shared_utils.persistence.database.error_mapping import RETRYABLE_ERRORS, translate
from shared_utils.persistence.database.migration import require_schema
from shared_utils.persistence.dialects import Dialect
from shared_utils.persistence.errors import (
    DatabaseUnavailable,
    LoginRefused,
    PersistenceError,
    QueryTimeout,
    ValueRefused,
)

Params = Mapping[str, Any] | Sequence[Any]
Observer = Callable[[str], None]

_RECONNECT_PAUSE_SECONDS: Final = 1.0
"""Seconds between two probes of a lost database."""
_LONGEST_PAUSE: Final = 300.0
"""The same while it refuses the password, doubled each time: openGauss locks an account after ten wrong ones."""
_LOGIN_PAUSE: Final = 30.0
"""Seconds an open pool tries no further connection after its password was refused."""
_MAX_CONNECTION_SECONDS: Final = 1800.0
"""Seconds a connection is used at most, so that a failover or a new password takes effect."""
_CANCEL_GRACE_SECONDS: Final = 1.0
"""Seconds the server has to end a statement that took too long, before its connection is cut."""
_TRUSTED_IDLE_SECONDS: Final = 1.0
"""Seconds since its last use after which a connection is checked with a round trip; before, it is only watched."""
_TRANSACTION_ATTEMPTS: Final = 5

_Result = TypeVar("_Result")


class Database:
    """One database.

    Args:
        config: how to reach it.
        observe: is told every statement sent, as text with placeholders.
    """

    def __init__(self, config: DatabaseConfig, *, observe: Observer | None = None) -> None:
        self.config = config
        self._observe = observe
        self._pool: AsyncConnectionPool[Connection] | None = None
        self._dialect: Dialect | None = None
        self._opening = asyncio.Lock()
        self._trouble: PersistenceError | None = None
        self._look_again = 0.0
        self._login_pause = _RECONNECT_PAUSE_SECONDS
        self._lent = 0
        self._used: WeakKeyDictionary[Connection, float] = WeakKeyDictionary()
        self._connect_error: psycopg.Error | None = None
        self._no_login_before = 0.0

    @property
    def last_error(self) -> PersistenceError | None:
        """Why the last call failed; None while it works, or before the first call."""
        return self._trouble

    async def open(self) -> Dialect:
        """The dialect, once the database is reached and has its schema.

        Raises:
            PersistenceError: it cannot be used now.
        """
        await self._opened()
        if self._dialect is None:
            raise AssertionError("an open database has its dialect")
        return self._dialect

    async def fetch(self, statement: str, params: Params | None = None) -> list[Row]:
        """The rows of one statement, which is a transaction of its own."""
        return await self.run(lambda connection: self.rows(connection, statement, params), transaction=False)

    async def execute(self, statement: str, params: Params | None = None) -> int:
        """How many rows one statement touched, which is a transaction of its own."""

        async def work(connection: Connection) -> int:
            return (await self.send(connection, statement, params)).rowcount

        return await self.run(work, transaction=False)

    async def run(
        self,
        work: Callable[[Connection], Awaitable[_Result]],
        *,
        transaction: bool = True,
        snapshot: bool = False,
        timeout: float | None = None,
    ) -> _Result:
        """What ``work`` returns, done in one transaction: wholly or not at all.

        It is done again where the database ended it for another transaction's sake, so it must change nothing but
        the database, and it must not wait for anything else while it holds the connection.

        Args:
            work: gets the connection; sends statements with :meth:`rows` and :meth:`send`.
            transaction: False for statements that are nothing together, so that each may be a transaction of its own.
            snapshot: every statement sees one state of the database.
            timeout: seconds it may take in all; by default the configured query timeout.

        Raises:
            PersistenceError: any of errors.py.
        """
        with contextlib.suppress(*RETRYABLE_ERRORS):  # tenacity enters with the first failure only
            return await self._once(work, transaction, snapshot, timeout)
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(RETRYABLE_ERRORS),
            stop=stop_after_attempt(_TRANSACTION_ATTEMPTS - 1),
            wait=wait_random_exponential(multiplier=0.02, max=0.5),
            reraise=True,
        )
        try:
            return await retrying(self._once, work, transaction, snapshot, timeout)
        except RETRYABLE_ERRORS as error:
            raise self._meaning(error) from error

    async def run_outside(self, work: Callable[[Connection], Awaitable[_Result]], *, timeout: float) -> _Result:
        """What ``work`` returns, of statements that cannot be sent in a transaction; see :meth:`run`.

        Behind a pooler they are sent without this project's settings (:attr:`Connection.pooled` says so), which would
        be other sessions' as well: each must mean the same with any.
        """
        try:
            async with self._connection(timeout) as connection:
                return await work(connection)
        except psycopg.Error as error:
            raise self._meaning(error) from error

    async def rows(self, connection: Connection, statement: str, params: Params | None = None) -> list[Row]:
        """The rows of one statement of a piece of work."""
        return await (await self.send(connection, statement, params)).fetchall()

    async def send(
        self, connection: Connection, statement: str, params: Params | None = None
    ) -> psycopg.AsyncCursor[Row]:
        """Send one statement of a piece of work."""
        text = self.text(statement)
        if self._observe is not None:
            self._observe(text)
        return await connection.execute(text.encode(), params)

    def text(self, statement: str) -> str:
        """The statement for the open database: the schema's name filled in, and its dialect's words."""
        statement = statement.replace("{schema}", self.config.schema_sql)
        if "{or_ignore}" not in statement:
            return statement
        if self._dialect is None:
            raise AssertionError("the dialect is known while there is a connection")
        return statement.replace("{or_ignore}", self._dialect.or_ignore)

    async def close(self) -> None:
        """Give the connections back."""
        pool, self._pool = self._pool, None
        if pool is not None:
            await pool.close(timeout=self.config.connection_timeout)

    async def _once(
        self, work: Callable[[Connection], Awaitable[_Result]], transaction: bool, snapshot: bool, timeout: float | None
    ) -> _Result:
        try:
            async with self._connection(timeout) as connection:
                if not transaction and not connection.pooled:
                    return await work(connection)
                async with connection.work(seconds=timeout, snapshot=snapshot):
                    return await work(connection)
        except RETRYABLE_ERRORS:
            raise
        except psycopg.Error as error:
            raise self._meaning(error) from error
        except UnicodeEncodeError as error:
            raise ValueRefused(
                f"the database {self.config.place} cannot hold a value (half a surrogate pair)"
            ) from error

    @contextlib.asynccontextmanager
    async def _connection(self, timeout: float | None) -> AsyncIterator[Connection]:
        pool = await self._opened()
        try:
            connection = await self._borrowed(pool)
        except PoolTimeout as error:
            if self._connect_error is None or self._lent:  # what is lent works: there are only too few of them
                raise
            raise await self._lost(pool, self._meaning(self._connect_error)) from error
        except PoolClosed as error:
            self._raise_while_away()
            raise DatabaseUnavailable(f"the database {self.config.place} was closed") from error
        limit = (timeout or self.config.query_timeout) + _CANCEL_GRACE_SECONDS
        watch = ConnectionWatch(connection, limit)
        self._lent += 1
        try:
            yield connection
            self._used[connection] = time.monotonic()
        except errors.ReadOnlySqlTransaction as error:
            # What made it so holds for the sessions that are open, even when it is taken back.
            raise await self._lost(pool, self._meaning(error)) from error
        except psycopg.OperationalError as error:
            if watch.cut:
                silent_peer = QueryTimeout(
                    f"the database {self.config.place} did not answer within {limit:g} s; its connection was cut"
                )
                raise await self._lost(pool, silent_peer) from error
            raise
        finally:
            watch.end()
            self._lent -= 1
            # Shielded: a caller that is cancelled just now would take the connection's place in the pool with it.
            await asyncio.shield(pool.putconn(connection))

    async def _opened(self) -> AsyncConnectionPool[Connection]:
        pool = self._pool
        if pool is None:
            self._raise_while_away(looking=self._opening.locked())
            async with self._opening:
                pool = self._pool or await self._reopened()
        return pool

    async def _reopened(self) -> AsyncConnectionPool[Connection]:
        self._raise_while_away()  # while this call waited for its turn, another may have found nothing
        try:
            self._pool = await self._open()
        except PersistenceError as error:
            self._away(error)
            raise
        self._trouble = None
        self._login_pause = _RECONNECT_PAUSE_SECONDS
        return self._pool

    def _raise_while_away(self, *, looking: bool = False) -> None:
        if self._trouble is not None and (looking or time.monotonic() < self._look_again):
            raise type(self._trouble)(str(self._trouble))

    def _away(self, error: PersistenceError) -> None:
        pause = _RECONNECT_PAUSE_SECONDS
        if isinstance(error, LoginRefused):
            pause = self._login_pause
            self._login_pause = min(2 * pause, _LONGEST_PAUSE)
        self._trouble = error
        self._look_again = time.monotonic() + pause

    async def _lost(self, pool: AsyncConnectionPool[Connection], error: PersistenceError) -> PersistenceError:
        """Leave the pool; what its connections still do ends with an error of its own."""
        if self._pool is pool:  # else another question has found out before
            self._pool = None
            self._away(error)
            await asyncio.shield(pool.close(timeout=0))
        return error

    async def _open(self) -> AsyncConnectionPool[Connection]:
        config = self.config
        try:
            connection, self._dialect = await connect_and_prepare(config)
            try:
                await require_schema(connection, config)
            finally:
                await connection.close()
            self._connect_error = None
            pool = self._new_pool(self._dialect)
            try:
                await pool.open(wait=True, timeout=config.connection_timeout + _CANCEL_GRACE_SECONDS)
            except BaseException:
                await pool.close(timeout=0)
                raise
        except psycopg.Error as error:
            raise self._meaning(self._connect_error or error) from error
        return pool

    def _new_pool(self, dialect: Dialect) -> AsyncConnectionPool[Connection]:
        config = self.config

        async def configure(connection: Connection) -> None:
            watch = ConnectionWatch(connection, config.connection_timeout)
            try:
                await connection.set_up(dialect, config)
            except BaseException as error:
                if isinstance(error, psycopg.Error):
                    self._connect_error = error
                await connection.close()  # the pool only forgets it
                raise
            finally:
                watch.end()

        return AsyncConnectionPool(
            config.conninfo,
            connection_class=reporting(self._allowed, self._connected),
            kwargs={"autocommit": True, "row_factory": dict_row, **parameters(config)},
            min_size=config.min_connections,
            max_size=config.max_connections,
            timeout=config.connection_timeout,
            max_lifetime=_MAX_CONNECTION_SECONDS,
            reconnect_timeout=config.connection_timeout,
            configure=configure,
            open=False,
        )

    async def _borrowed(self, pool: AsyncConnectionPool[Connection]) -> Connection:
        """A connection that answers. The pool's own check would pause after each that does not, longer each time."""
        deadline = time.monotonic() + self.config.connection_timeout
        while True:
            connection = await pool.getconn(max(0.0, deadline - time.monotonic()))
            try:
                if await self._answers(connection, deadline - time.monotonic()):
                    return connection
            except BaseException:
                await asyncio.shield(pool.putconn(connection))
                raise
            await connection.close()
            await asyncio.shield(pool.putconn(connection))

    async def _answers(self, connection: Connection, seconds: float) -> bool:
        if time.monotonic() - self._used.get(connection, -_TRUSTED_IDLE_SECONDS) < _TRUSTED_IDLE_SECONDS and silent(
            connection
        ):
            return True
        watch = ConnectionWatch(connection, max(0.0, seconds))
        try:
            await AsyncConnectionPool.check_connection(connection)
        except psycopg.Error:
            return False
        finally:
            watch.end()
        return True

    def _allowed(self) -> None:
        """Raises what the last attempt to connect came to while a further one would only count towards a lock."""
        if self._connect_error is not None and time.monotonic() < self._no_login_before:
            raise psycopg.OperationalError(str(self._connect_error))

    def _connected(self, error: psycopg.Error | None) -> None:
        self._connect_error = error
        if error is not None and isinstance(self._meaning(error), LoginRefused):
            self._no_login_before = time.monotonic() + _LOGIN_PAUSE

    def _meaning(self, error: psycopg.Error) -> PersistenceError:
        return translate(error, place=self.config.place, user=self.config.parts.get("user", "?"))


__all__ = ["Connection", "Database", "Observer", "Params", "Row"]
