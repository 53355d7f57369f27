"""How the commands ask the database or the session file, and how its errors end them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final, TypeVar

from letta_bridge.cli.common import Exit, fail
from letta_bridge.settings import BridgeSettings
from shared_utils.persistence.database import Database
from shared_utils.persistence.database_sessions import DatabaseSessionStore
from shared_utils.persistence.errors import Conflict, PersistenceError, RowMissing, StaleSession, ValueRefused
from shared_utils.persistence.file_sessions import FileSessionStore
from shared_utils.persistence.sessions import SessionStore

_ANSWERS: Final = (Conflict, RowMissing, StaleSession, ValueRefused)
"""The store answers these; it is not to blame."""

_Result = TypeVar("_Result")


def ask(work: Callable[[], Awaitable[_Result]]) -> _Result:
    """What ``work`` returns. Trouble with where state lies ends the command with one sentence."""

    async def asked() -> _Result:
        return await work()

    try:
        return asyncio.run(asked())
    except _ANSWERS as error:
        fail(str(error), Exit.FAILED)
    except PersistenceError as error:
        fail(str(error), Exit.NO_STATE)


def ask_sessions(settings: BridgeSettings, work: Callable[[SessionStore], Awaitable[_Result]]) -> _Result:
    """What ``work`` returns, given the configured session store: the database where there is one, else the file."""

    async def asked() -> _Result:
        async with closing(in_database(settings) if settings.database.db_url else in_file(settings)) as store:
            return await work(store)

    return ask(asked)


def in_database(settings: BridgeSettings) -> SessionStore:
    """Sessions in the database; without one the command ends."""
    require_database(settings)
    return DatabaseSessionStore(Database(settings.database), max_bytes=settings.sessions.max_data_bytes)


def in_file(settings: BridgeSettings) -> SessionStore:
    """Sessions in the file."""
    return FileSessionStore(settings.data_dir / settings.sessions.file, max_bytes=settings.sessions.max_data_bytes)


def require_database(settings: BridgeSettings) -> None:
    """Return where a database is configured; else the command ends."""
    if settings.database.db_url is None:
        fail("no database is configured; set DATABASE_URL", Exit.USAGE)


@contextlib.asynccontextmanager
async def closing(store: SessionStore) -> AsyncIterator[SessionStore]:
    """The store, closed afterwards."""
    try:
        yield store
    finally:
        await store.close()
