"""Synchronises turns of the journal: new ones at once, all of them in periodic sweeps."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Final

from letta_bridge.vectors.embedding import Embedding
from letta_bridge.vectors.journal_turns import JournalPosition, JournalTurn, JournalTurns
from letta_bridge.vectors.passage_factory import ends_with_any, turn_passage, turn_row
from letta_bridge.vectors.port import IDLE_PAUSE_SECONDS, Step
from letta_bridge.vectors.sweep_schedule import SweepPosition, SweepSchedule
from shared_utils.persistence.vectors import Passage, Scope

_PASSAGES_PER_PAGE: Final = 200

Forgotten = Callable[[], Collection[str]]
"""Returns the fallback reasons of turns that no agent may remember, as configured now."""
Canned = Callable[[], Collection[str]]
"""Returns memory-python's canned sentences, as configured now."""


class TurnSyncer:
    """Adds vectors of turns, and removes the vectors of deleted turns."""

    def __init__(
        self,
        turns: JournalTurns,
        embedding: Embedding,
        forgotten: Forgotten,
        removed: Callable[[int], None] = lambda _count: None,
        *,
        canned: Canned = tuple,
    ) -> None:
        self._turns = turns
        self._embedding = embedding
        self._forgotten = forgotten
        self._canned = canned
        self._tell_removed = removed

    async def keep(self, turns: Sequence[JournalTurn]) -> int:
        """Embed those that have no vector; how many that were."""
        forgotten, canned = self._forgotten(), self._canned()
        passages = [passage for turn in turns if (passage := turn_passage(turn, forgotten, canned)) is not None]
        if not passages:
            return 0
        kept = await self._embedding.keep(passages)
        # Whoever erased a user meanwhile has looked for vectors before these were there.
        await self.remove_orphans(passages)
        return kept

    async def remove_orphans(self, passages: Sequence[Passage]) -> int:
        """Forget those of these vectors whose turn is not in the journal any more; how many that were."""
        rows = {turn_row(passage): passage.passage_id for passage in passages}
        gone = rows.keys() - await self._turns.present(rows) if rows else ()
        removed = 0
        if gone:
            removed = await self._embedding.store.delete(Scope.everything(), passage_ids=[rows[row] for row in gone])
            self._tell_removed(removed)
        return removed

    async def remove_canned(self, passages: Sequence[Passage]) -> int:
        """Forget those that hold a canned sentence, as earlier releases made them; they are made anew without it."""
        canned = self._canned()
        ids = [passage.passage_id for passage in passages if ends_with_any(passage, canned)]
        return await self._embedding.store.delete(Scope.everything(), passage_ids=ids) if ids else 0


class TurnsSyncJob:
    """New turns. See :class:`letta_bridge.vectors.port.SyncJob`."""

    name = "turns"

    def __init__(self, turns: JournalTurns, syncer: TurnSyncer, batch: int) -> None:
        self._turns = turns
        self._syncer = syncer
        self._batch = batch

    async def step(self, position: str) -> Step:
        """See :class:`letta_bridge.vectors.port.SyncJob`."""
        turns = await self._turns.after(JournalPosition.read(position), self._batch)
        if not turns:
            return Step(position, IDLE_PAUSE_SECONDS)
        await self._syncer.keep(turns)
        return Step(str(JournalPosition.of(turns[-1])), 0.0 if len(turns) == self._batch else IDLE_PAUSE_SECONDS)


class TurnSweep:
    """All turns and all their vectors: of a conversation that was deleted none stays, and what came late is found.

    See :class:`letta_bridge.vectors.port.SyncJob`.
    """

    name = "turn_sweep"

    def __init__(self, turns: JournalTurns, syncer: TurnSyncer, embedding: Embedding, rounds: SweepSchedule) -> None:
        self._turns = turns
        self._syncer = syncer
        self._store = embedding.store
        self._rounds = rounds

    async def step(self, position: str) -> Step:
        """See :class:`letta_bridge.vectors.port.SyncJob`."""
        at = self._rounds.read(position)
        if (resting := self._rounds.resting(at)) is not None:
            return resting
        return await (self._vectors(at) if at.phase == "vectors" else self._journal(at))

    async def _vectors(self, at: SweepPosition) -> Step:
        page = await self._store.page(
            Scope.everything(), where={"kind": "turn"}, limit=_PASSAGES_PER_PAGE, after=at.after or None
        )
        await self._syncer.remove_orphans(page.passages)
        await self._syncer.remove_canned(page.passages)
        return self._rounds.phase(at, "journal") if page.next is None else self._rounds.gone_on(at, page.next)

    async def _journal(self, at: SweepPosition) -> Step:
        turns = await self._turns.after(JournalPosition.read(at.after), _PASSAGES_PER_PAGE)
        await self._syncer.keep(turns)
        if len(turns) < _PASSAGES_PER_PAGE:
            return self._rounds.over()
        return self._rounds.gone_on(at, str(JournalPosition.of(turns[-1])))
