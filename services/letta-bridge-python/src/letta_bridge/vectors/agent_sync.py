"""Synchronises passages of archival memory: after a turn that changed memory, and in periodic sweeps."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from letta_bridge.errors import AgentGone
from letta_bridge.letta.port import AgentPassage, AgentRef, LettaAgents
from letta_bridge.vectors.embedding import Embedding
from letta_bridge.vectors.journal_turns import JournalPosition, JournalTurns
from letta_bridge.vectors.passage_factory import agent_passage
from letta_bridge.vectors.port import IDLE_PAUSE_SECONDS, Step
from letta_bridge.vectors.sweep_schedule import SweepSchedule
from shared_utils.persistence.vectors import Passage, Scope

_STORED_PASSAGES_PER_PAGE: Final = 100
_LETTA_PASSAGES_PER_PAGE: Final = 20
"""Passages asked of Letta at once: it sends 4096 numbers along with each."""
_PAUSE_BETWEEN_AGENTS_SECONDS: Final = 0.2
"""Seconds between two agents of a sweep: Letta has turns to answer."""

Letta = Callable[[], LettaAgents]
"""Gives a Letta server that may be asked now; raises LettaUnavailable where there is none."""


class AgentSyncer:
    """Synchronises the vectors of one agent's archival memory."""

    def __init__(
        self, letta: Letta, embedding: Embedding, removed: Callable[[int], None] = lambda _count: None
    ) -> None:
        self._letta = letta
        self._embedding = embedding
        self._store = embedding.store
        self._tell_removed = removed

    async def keep_new(self, agent_id: str) -> int:
        """Embed recently added passages; returns their number."""
        return await self._keep(agent_id, until_known=True)

    async def keep_all(self, agent_id: str) -> int:
        """Embed missing passages, and remove the vectors of deleted ones; returns how many were embedded."""
        return await self._keep(agent_id, until_known=False)

    async def _keep(self, agent_id: str, *, until_known: bool) -> int:
        try:
            agent = await self._letta().get_agent(agent_id)
            kept, listed = await self._embed(agent, until_known=until_known)
            if kept:
                await self._letta().get_agent(agent_id)  # erased meanwhile, by someone who saw no vectors yet
        except AgentGone:
            await self._remove(Scope.agent(agent_id), None)
            return 0
        if not until_known:
            await self._remove_gone(agent_id, listed)
        return kept

    async def _embed(self, agent: AgentRef, *, until_known: bool) -> tuple[int, set[str]]:
        kept, listed = 0, set[str]()
        after: str | None = None
        while True:
            page = await self._letta().passages(
                agent.agent_id, after=after, newest_first=until_known, limit=_LETTA_PASSAGES_PER_PAGE
            )
            listed |= {passage.passage_id for passage in page}
            new = await self._embedding.keep(await self._own(agent, page))
            kept += new
            if len(page) < _LETTA_PASSAGES_PER_PAGE or (until_known and not new):
                return kept, listed
            after = page[-1].passage_id

    async def _own(self, agent: AgentRef, page: Sequence[AgentPassage]) -> list[Passage]:
        """Those with a text, without those of an archive that several agents share and another one has brought."""
        passages = [agent_passage(agent, passage) for passage in page if passage.text.strip()]
        ids = [passage.passage_id for passage in passages]
        held = await self._store.get(ids, Scope.everything(), embeddings=False) if ids else ()
        others = {passage.passage_id for passage in held if passage.agent_id != agent.agent_id}
        return [passage for passage in passages if passage.passage_id not in others]

    async def _remove_gone(self, agent_id: str, listed: set[str]) -> None:
        after: str | None = None
        gone: list[str] = []
        while True:
            page = await self._store.page(Scope.agent(agent_id), limit=_STORED_PASSAGES_PER_PAGE, after=after)
            gone += [passage.passage_id for passage in page.passages if passage.passage_id not in listed]
            after = page.next
            if after is None:
                break
        await self._remove(Scope.agent(agent_id), gone)

    async def _remove(self, scope: Scope, passage_ids: Sequence[str] | None) -> None:
        if passage_ids is None or passage_ids:
            self._tell_removed(await self._store.delete(scope, passage_ids=passage_ids))


class AgentsSyncJob:
    """Agents whose memory a turn has changed. See :class:`letta_bridge.vectors.port.SyncJob`."""

    name = "agents"

    def __init__(self, turns: JournalTurns, syncer: AgentSyncer) -> None:
        self._turns = turns
        self._syncer = syncer

    async def step(self, position: str) -> Step:
        """See :class:`letta_bridge.vectors.port.SyncJob`."""
        turns = await self._turns.after(JournalPosition.read(position), _STORED_PASSAGES_PER_PAGE)
        if not turns:
            return Step(position, IDLE_PAUSE_SECONDS)
        changed = {str(turn.about["agent_id"]): None for turn in turns if _changed_memory(turn.about)}
        for agent_id in changed:
            await self._syncer.keep_new(agent_id)
        return Step(
            str(JournalPosition.of(turns[-1])), 0.0 if len(turns) == _STORED_PASSAGES_PER_PAGE else IDLE_PAUSE_SECONDS
        )


class AgentSweep:
    """All agents that have vectors. See :class:`letta_bridge.vectors.port.SyncJob`."""

    name = "agent_sweep"

    def __init__(self, syncer: AgentSyncer, embedding: Embedding, rounds: SweepSchedule) -> None:
        self._syncer = syncer
        self._store = embedding.store
        self._rounds = rounds
        self._seen: set[str] = set()
        """Agents of this round. Whoever takes over in the middle of one looks at some of them again."""

    async def step(self, position: str) -> Step:
        """See :class:`letta_bridge.vectors.port.SyncJob`."""
        at = self._rounds.read(position)
        if (resting := self._rounds.resting(at)) is not None:
            self._seen.clear()
            return resting
        where = {"$and": [{"kind": "passage"}, {"imported": {"$exists": False}}]}
        page = await self._store.page(
            Scope.everything(), where=where, limit=_STORED_PASSAGES_PER_PAGE, after=at.after or None
        )
        for agent_id in {passage.agent_id: None for passage in page.passages if passage.agent_id}:
            if agent_id not in self._seen:
                await self._syncer.keep_all(agent_id)
                self._seen.add(agent_id)
                await asyncio.sleep(_PAUSE_BETWEEN_AGENTS_SECONDS)
        return self._rounds.over() if page.next is None else self._rounds.gone_on(at, page.next)


def _changed_memory(about: object) -> bool:
    return isinstance(about, dict) and about.get("memory_updated") is True and bool(about.get("agent_id"))
