"""Provides commands with the stores of sessions and choices, and ends a command whose store fails."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final, TypeVar

from letta_bridge.agents.opt_out_tags import OptOutTags
from letta_bridge.agents.session_stores import choice_replicas
from letta_bridge.agents.user_settings import SessionChoices, UserSettings
from letta_bridge.cli.common import Exit, fail, redis_client, tell
from letta_bridge.cli.interruption import run_command
from letta_bridge.consent import Consent
from letta_bridge.errors import ChoiceNotShared, ChoiceUnknown
from letta_bridge.letta.factory import letta_client
from letta_bridge.settings import BridgeSettings
from shared_utils.persistence.choices.database_store import DatabaseChoiceStore
from shared_utils.persistence.choices.file_store import FileChoiceStore
from shared_utils.persistence.choices.port import ChoiceStore
from shared_utils.persistence.database.database import Database
from shared_utils.persistence.errors import (
    Conflict,
    PersistenceError,
    RowMissing,
    SchemaMissing,
    StaleSession,
    ValueRefused,
)
from shared_utils.persistence.sessions.database_store import DatabaseSessionStore
from shared_utils.persistence.sessions.file_store import FileSessionStore
from shared_utils.persistence.sessions.port import SessionStore

_CONFLICT_ERRORS: Final = (Conflict, RowMissing, StaleSession, ValueRefused)
"""Conflicts, which the store reports while it works."""
_REDIS_TIMEOUT_SECONDS: Final = 5.0

_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class UserStores:
    """Sessions and choices in one place: the database or the session file."""

    sessions: SessionStore
    choices: ChoiceStore


def ask(work: Callable[[], Awaitable[_Result]]) -> _Result:
    """Run ``work`` and return its result. A failure of a store ends the command with one sentence."""

    async def asked() -> _Result:
        return await work()

    try:
        return run_command(asked())
    except _CONFLICT_ERRORS as error:
        fail(str(error), Exit.FAILED)
    except PersistenceError as error:
        fail(str(error), Exit.NO_STATE)


def ask_sessions(settings: BridgeSettings, work: Callable[[SessionStore], Awaitable[_Result]]) -> _Result:
    """The result of ``work`` with the configured session store: the database if configured, otherwise the file."""
    _tell_of_missing_file(settings)

    async def asked() -> _Result:
        async with in_database(settings) if settings.database.db_url else in_file(settings) as stores:
            return await work(stores.sessions)

    return ask(asked)


def ask_user_settings(
    settings: BridgeSettings,
    work: Callable[[SessionStore, UserSettings], Awaitable[_Result]],
    *,
    with_agents: bool = False,
) -> _Result:
    """The result of ``work`` with the configured session store and the settings of users.

    Redis is used only for the choice of a single user; without Redis, an opt-in fails and an opt-out is reported.

    Args:
        settings: of the bridge.
        work: uses the stores; they are closed afterwards.
        with_agents: also tag the user's agents with a choice, which needs a Letta client.
    """
    _tell_of_missing_file(settings)

    async def asked() -> _Result:
        database = Database(settings.database) if settings.database.db_url else None
        if database is not None:
            await _refuse_missing(database)
        async with redis_client(settings, timeout=_REDIS_TIMEOUT_SECONDS) as redis:
            sessions = _in_file(settings) if database is None else _in(database, settings)
            replicas = choice_replicas(settings, redis, database, sessions)
            letta = letta_client(settings.letta) if with_agents else None
            agents = None if letta is None else OptOutTags(lambda: letta, settings.tenant.name)
            try:
                earlier = SessionChoices(sessions, settings.agents.personas)
                return await work(sessions, UserSettings(Consent(replicas), earlier, agents))
            finally:
                if letta is not None:
                    await letta.close()
                await replicas.close()
                await sessions.close()

    try:
        return ask(asked)
    except (ChoiceUnknown, ChoiceNotShared) as error:
        fail(str(error), Exit.NO_REDIS)


@asynccontextmanager
async def in_database(settings: BridgeSettings) -> AsyncIterator[UserStores]:
    """The stores in the database; ends the command without one."""
    require_database(settings)
    database = Database(settings.database)
    try:
        yield UserStores(_in(database, settings), DatabaseChoiceStore(database))
    finally:
        await database.close()


@asynccontextmanager
async def in_file(settings: BridgeSettings) -> AsyncIterator[UserStores]:
    """The stores in the session file."""
    stores = UserStores(_in_file(settings), FileChoiceStore(settings.session_file))
    try:
        yield stores
    finally:
        await stores.choices.close()
        await stores.sessions.close()


def require_database(settings: BridgeSettings) -> None:
    """End the command unless a database is configured."""
    if settings.database.db_url is None:
        fail("no database is configured; set DATABASE_URL", Exit.USAGE)


async def _refuse_missing(database: Database) -> None:
    """End the command if the database does not exist: its name is probably mistyped. It may be unavailable."""
    try:
        await database.open()
    except SchemaMissing:
        await database.close()
        raise
    except PersistenceError:
        return


def _tell_of_missing_file(settings: BridgeSettings) -> None:
    file = settings.session_file
    if settings.database.db_url is None and not file.exists():
        tell(f"there is no session file {file}; if DATA_DIR is right, a bridge creates it with its first session")


def _in(database: Database, settings: BridgeSettings) -> SessionStore:
    return DatabaseSessionStore(database, max_bytes=settings.sessions.max_data_bytes)


def _in_file(settings: BridgeSettings) -> SessionStore:
    return FileSessionStore(settings.session_file, max_bytes=settings.sessions.max_data_bytes)
