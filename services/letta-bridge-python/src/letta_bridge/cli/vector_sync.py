"""The work of ``letta-bridge vectors sync``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from letta_bridge.agents.agent_spec import bridge_tag
from letta_bridge.letta.factory import letta_client
from letta_bridge.settings import BridgeSettings
from letta_bridge.vectors.build import forgotten, syncers
from letta_bridge.vectors.full_sync import FullSync
from shared_utils.persistence.database.database import Database
from shared_utils.persistence.vectors import PassageStore
from shared_utils.repeated_answers import SingleAnswerClient


@dataclass(slots=True)
class Synchronised:
    """The result of a synchronisation."""

    stored: int = 0
    removed: int = 0


async def synchronised(
    settings: BridgeSettings,
    store: PassageStore,
    progress: Callable[[str, int], None],
    done: Synchronised,
    *,
    turns: bool,
    agents: bool,
) -> None:
    """Bring turns, agents or both in step; ``done`` counts as it goes.

    Raises:
        ServiceError: database, embedding model or Letta cannot be used.
    """

    def stored(_kind: str, count: int) -> None:
        done.stored += count

    def removed(count: int) -> None:
        done.removed += count

    letta = letta_client(settings.letta)
    journal = Database(settings.database)
    try:
        async with SingleAnswerClient(timeout=settings.embeddings.timeout_seconds) as web:
            made = syncers(
                settings,
                store,
                journal,
                web,
                lambda: letta,
                without=lambda: forgotten(settings),
                canned=lambda: settings.fallback.canned_sentences,
                stored=stored,
                removed=removed,
            )
            whole = FullSync(made, letta, bridge_tag(settings.tenant.name), progress)
            if turns:
                await whole.turns()
            if agents:
                await whole.agents()
    finally:
        await journal.close()
        await letta.close()
