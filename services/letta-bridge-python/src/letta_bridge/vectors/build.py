"""Builds the parts that synchronise vectors from the settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import httpx

from letta_bridge.errors import LettaUnavailable
from letta_bridge.letta.port import LettaAgents
from letta_bridge.letta.servers import LettaServers
from letta_bridge.settings import BridgeSettings
from letta_bridge.telemetry.metrics.bridge_metrics import BridgeMetrics
from letta_bridge.vectors.agent_sync import AgentsSyncJob, AgentSweep, AgentSyncer, Letta
from letta_bridge.vectors.embedding import Embedding
from letta_bridge.vectors.index_sync import IndexSyncJob
from letta_bridge.vectors.journal_turns import DatabaseJournalTurns, JournalTurns
from letta_bridge.vectors.port import SyncJob
from letta_bridge.vectors.state import DatabaseSyncState
from letta_bridge.vectors.sweep_schedule import SweepSchedule
from letta_bridge.vectors.turn_sync import Canned, Forgotten, TurnsSyncJob, TurnSweep, TurnSyncer
from letta_bridge.vectors.worker import VectorWorker
from shared_utils.llm.embeddings import HttpEmbedder
from shared_utils.persistence.database.database import Database
from shared_utils.persistence.vectors import PassageStore
from shared_utils.persistence.vectors.memories import embedder_of, open_memories
from shared_utils.repeated_answers import SingleAnswerClient

_SHORT_TERM: Final = frozenset({"user_switch", "choice_unknown", "memory_type_unknown", "audio"})
_MAX_CONNECTIONS: Final = 2


@dataclass(slots=True)
class Vectors:
    """A worker with its resources."""

    worker: VectorWorker
    store: PassageStore
    journal: Database
    web: httpx.AsyncClient

    async def close(self) -> None:
        """Release all of them."""
        await self.store.close()
        await self.journal.close()
        await self.web.aclose()


@dataclass(slots=True)
class Syncers:
    """The synchronisers of turns and agents."""

    turns: JournalTurns
    embedding: Embedding
    of_turns: TurnSyncer
    of_agents: AgentSyncer


def forgotten(settings: BridgeSettings) -> frozenset[str]:
    """The fallback reasons of turns that no agent may remember: the router's, unless Letta is off."""
    return _SHORT_TERM | settings.letta.memory_type_routing.keys()


def syncers(
    settings: BridgeSettings,
    store: PassageStore,
    journal: Database,
    web: httpx.AsyncClient,
    letta: Letta,
    *,
    without: Forgotten,
    canned: Canned,
    stored: Callable[[str, int], None],
    removed: Callable[[int], None],
) -> Syncers:
    """Those of an installation.

    Args:
        settings: the bridge's.
        store: where vectors go to.
        journal: where turns come from.
        web: the embedding model is asked through it.
        letta: gives a server.
        without: gives the reasons of :func:`forgotten`.
        canned: gives the canned sentences.
        stored: is told how many vectors were stored, by kind.
        removed: is told how many were removed.
    """
    sync = settings.vectors.sync
    embedding = Embedding(
        store,
        embedder_of(store, HttpEmbedder(web, settings.embeddings)),
        rate=sync.texts_per_second,
        batch=sync.batch,
        longest=settings.embeddings.max_characters,
        stored=stored,
    )
    turns = DatabaseJournalTurns(journal)
    of_turns = TurnSyncer(turns, embedding, without, removed, canned=canned)
    return Syncers(turns, embedding, of_turns, AgentSyncer(letta, embedding, removed))


def new_vectors(
    settings: Callable[[], BridgeSettings], servers: LettaServers, metrics: BridgeMetrics, owner: str
) -> Vectors:
    """The worker of a bridge.

    Args:
        settings: gives those that hold now.
        servers: the bridge's; servers with an open circuit breaker are not used.
        metrics: where to.
        owner: the bridge's name.
    """
    now = settings()
    # Separate connections, so that no turn waits for one.
    few = {"max_connections": _MAX_CONNECTIONS, "min_connections": 0}
    journal = Database(now.database.model_copy(update=few))
    store = open_memories(now.vectors, now.database)
    web = SingleAnswerClient(timeout=now.embeddings.timeout_seconds)
    made = syncers(
        now,
        store,
        journal,
        web,
        _healthy(servers),
        without=lambda: forgotten(settings()),
        canned=lambda: settings().fallback.canned_sentences,
        stored=lambda kind, count: metrics.vectors_stored.labels(kind).inc(count),
        removed=metrics.vectors_removed.inc,
    )
    rounds = now.vectors.sync.sweep_interval_seconds
    jobs: list[SyncJob] = [
        TurnsSyncJob(made.turns, made.of_turns, now.vectors.sync.batch),
        TurnSweep(made.turns, made.of_turns, made.embedding, SweepSchedule(rounds, "vectors")),
        AgentSweep(made.of_agents, made.embedding, SweepSchedule(rounds, "agents")),
        IndexSyncJob(store),
    ]
    if "archival_memory_insert" in now.agents.tools:
        jobs.append(AgentsSyncJob(made.turns, made.of_agents))
    return Vectors(VectorWorker(jobs, DatabaseSyncState(journal), owner), store, journal, web)


def _healthy(servers: LettaServers) -> Letta:
    def letta() -> LettaAgents:
        for server in servers:
            if server.breaker.ready:
                return server.port
        raise LettaUnavailable("The circuit breakers of all Letta servers are open.")

    return letta
