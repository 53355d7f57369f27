"""Connects the vector commands with store and embedding model; an error ends the command with one sentence."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

from letta_bridge.cli.common import Exit, fail
from letta_bridge.cli.interruption import run_command
from letta_bridge.settings import BridgeSettings
from shared_utils.errors import ServiceError, SettingsError
from shared_utils.llm.embeddings import HttpEmbedder
from shared_utils.persistence.errors import PersistenceError
from shared_utils.persistence.vectors import DatabasePassageStore, VectorError
from shared_utils.persistence.vectors.memories import can_be_kept, open_memories
from shared_utils.repeated_answers import SingleAnswerClient

_Result = TypeVar("_Result")


@contextlib.asynccontextmanager
async def embedding_model(settings: BridgeSettings) -> AsyncIterator[HttpEmbedder]:
    """The configured embedding model."""
    async with SingleAnswerClient(timeout=settings.embeddings.timeout_seconds) as web:
        yield HttpEmbedder(web, settings.embeddings)


def ask_store(settings: BridgeSettings, work: Callable[[DatabasePassageStore], Awaitable[_Result]]) -> _Result:
    """The result of ``work`` with the store. An error ends the command with one sentence."""
    if not can_be_kept(settings.vectors, settings.database):
        fail("no database is configured; set DATABASE_URL", Exit.USAGE)

    async def ask() -> _Result:
        store = open_memories(settings.vectors, settings.database)
        try:
            return await work(store)
        finally:
            await store.close()

    try:
        return run_command(ask())
    except SettingsError as error:
        fail(str(error), Exit.USAGE)
    except ServiceError as error:
        lost = isinstance(error, PersistenceError) and not isinstance(error, VectorError)
        fail(str(error), Exit.NO_STATE if lost else Exit.FAILED)
