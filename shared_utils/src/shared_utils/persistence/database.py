"""The database: its connections, and how a piece of work is done in it.

It is opened by the first question and again after an outage. While it is away a question fails at once, but for one a
second, which looks whether it is back; so nobody waits in line for a server that is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, TypeVar
from weakref import WeakKeyDictionary

import psycopg
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool, PoolClosed, PoolTimeout
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from shared_utils.persistence.arrival import arrive, parameters, set_up
from shared_utils.persistence.connection_watch import Connection, ConnectionWatch, Row, reporting, silent
from shared_utils.persistence.database_config import DatabaseConfig
from shared_utils.persistence.dialects import Dialect
from shared_utils.persistence.errors import (
    DatabaseUnavailable,
    LoginRefused,
    PersistenceError,
    QueryTimeout,
    ValueRefused,
)
from shared_utils.persistence.failures import AGAIN, meaning
from shared_utils.persistence.migration import require_schema

Params = Mapping[str, Any] | Sequence[Any]
Observer = Callable[[str], None]

_PAUSE: Final = 1.0
"""Seconds between two looks whether a lost database is back."""
_LONGEST_PAUSE: Final = 300.0
"""The same while it refuses the password, doubled each time: openGauss locks an account after ten wrong ones."""
_LOGIN_PAUSE: Final = 30.0
"""Seconds an open pool tries no further connection after its password was refused."""
_LIFETIME: Final = 1800.0
"""Seconds a connection is used at most, so that a failover or a new password takes effect."""
_GRACE: Final = 1.0
"""Seconds the server has to end a statement that took too long, before its connection is cut."""
_FRESH: Final = 1.0
"""Seconds since its last use after which a connection is asked whether it is there; before, it is listened to."""
_TRIES: Final = 5
_WAITING: Final = 8
"""Questions per connection that may wait for one."""

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
        self._login_pause = _PAUSE
        self._lent = 0
        self._used: WeakKeyDictionary[Connection, float] = WeakKeyDictionary()
        self._connect_error: psycopg.Error | None = None
        self._no_login_before = 0.0

    @property
    def trouble(self) -> PersistenceError | None:
        """Why it was of no use the last time it was asked; None while it works, or before the first question."""
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
        timeout: float | None = None,
    ) -> _Result:
        """What ``work`` returns, done in one transaction: wholly or not at all.

        It is done again where the database ended it for another transaction's sake, so it must change nothing but
        the database, and it must not wait for anything else while it holds the connection.

        Args:
            work: gets the connection; sends statements with :meth:`rows` and :meth:`send`.
            transaction: False for a single statement.
            timeout: seconds it may take in all; by default the configured query timeout.

        Raises:
            PersistenceError: any of errors.py.
        """
        with contextlib.suppress(*AGAIN):  # tenacity enters with the first failure only
            return await self._once(work, transaction, timeout)
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(AGAIN),
            stop=stop_after_attempt(_TRIES - 1),
            wait=wait_random_exponential(multiplier=0.02, max=0.5),
            reraise=True,
        )
        try:
            return await retrying(self._once, work, transaction, timeout)
        except AGAIN as error:
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
        """The statement in the dialect of the open database."""
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
        self, work: Callable[[Connection], Awaitable[_Result]], transaction: bool, timeout: float | None
    ) -> _Result:
        try:
            async with self._connection(timeout) as connection:
                if not transaction:
                    return await work(connection)
                async with connection.transaction():
                    if timeout is not None:
                        await connection.execute(f"SET LOCAL statement_timeout = {round(timeout * 1000)}".encode())
                    return await work(connection)
        except AGAIN:
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
            connection = await pool.getconn()
        except PoolTimeout as error:
            if self._connect_error is None or self._lent:  # what is lent works: there are only too few of them
                raise
            raise await self._lost(pool, self._connect_error) from error
        except PoolClosed as error:
            self._raise_while_away()
            raise DatabaseUnavailable(f"the database {self.config.place} was closed") from error
        limit = (timeout or self.config.query_timeout) + _GRACE
        watch = ConnectionWatch(connection, limit)
        self._lent += 1
        try:
            yield connection
            self._used[connection] = time.monotonic()
        except psycopg.OperationalError as error:
            if watch.cut:
                raise QueryTimeout(
                    f"the database {self.config.place} did not answer within {limit:g} s; its connection was cut"
                ) from error
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
        self._login_pause = _PAUSE
        return self._pool

    def _raise_while_away(self, *, looking: bool = False) -> None:
        if self._trouble is not None and (looking or time.monotonic() < self._look_again):
            raise type(self._trouble)(str(self._trouble))

    def _away(self, error: PersistenceError) -> None:
        pause = _PAUSE
        if isinstance(error, LoginRefused):
            pause = self._login_pause
            self._login_pause = min(2 * pause, _LONGEST_PAUSE)
        self._trouble = error
        self._look_again = time.monotonic() + pause

    async def _lost(self, pool: AsyncConnectionPool[Connection], error: psycopg.Error) -> PersistenceError:
        """Leave the pool; what its connections still do ends with an error of its own."""
        meant = self._meaning(error)
        if self._pool is pool:  # else another question has found out before
            self._pool = None
            self._away(meant)
            await asyncio.shield(pool.close(timeout=0))
        return meant

    async def _open(self) -> AsyncConnectionPool[Connection]:
        config = self.config
        try:
            connection, self._dialect = await arrive(config)
            try:
                await require_schema(connection, config)
            finally:
                await connection.close()
            self._connect_error = None
            pool = self._new_pool(self._dialect)
            try:
                await pool.open(wait=True, timeout=config.connection_timeout + _GRACE)
            except BaseException:
                await pool.close(timeout=0)
                raise
        except psycopg.Error as error:
            raise self._meaning(self._connect_error or error) from error
        return pool

    def _new_pool(self, dialect: Dialect) -> AsyncConnectionPool[Connection]:
        config = self.config

        async def configure(connection: Connection) -> None:
            try:
                await set_up(connection, dialect, config)
            except BaseException:
                await connection.close()  # the pool only forgets it
                raise

        return AsyncConnectionPool(
            config.conninfo,
            connection_class=reporting(self._allowed, self._connected),
            kwargs={"autocommit": True, "row_factory": dict_row, **parameters(config)},
            min_size=config.min_connections,
            max_size=config.max_connections,
            timeout=config.connection_timeout,
            max_waiting=_WAITING * config.max_connections,
            max_lifetime=_LIFETIME,
            reconnect_timeout=config.connection_timeout,
            configure=configure,
            check=self._check,
            open=False,
        )

    async def _check(self, connection: Connection) -> None:
        if time.monotonic() - self._used.get(connection, -_FRESH) < _FRESH and silent(connection):
            return
        watch = ConnectionWatch(connection, self.config.connection_timeout)
        try:
            await AsyncConnectionPool.check_connection(connection)
        finally:
            watch.end()

    def _allowed(self) -> None:
        """Raises what the last attempt to connect came to while a further one would only count towards a lock."""
        if self._connect_error is not None and time.monotonic() < self._no_login_before:
            raise psycopg.OperationalError(str(self._connect_error))

    def _connected(self, error: psycopg.Error | None) -> None:
        self._connect_error = error
        if error is not None and isinstance(self._meaning(error), LoginRefused):
            self._no_login_before = time.monotonic() + _LOGIN_PAUSE

    def _meaning(self, error: psycopg.Error) -> PersistenceError:
        return meaning(error, place=self.config.place, user=self.config.parts.get("user", "?"))


__all__ = ["Connection", "Database", "Observer", "Params", "Row"]
