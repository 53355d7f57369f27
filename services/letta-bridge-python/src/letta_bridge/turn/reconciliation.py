"""Lookup of turns with an unknown status: the user's present one, sent before, and earlier missed ones.

The lookup repeats until the status of every turn is known, and waits for turns that are still running. If one outlasts
the patience, the present turn is not sent: of two concurrent turns, the one that ends last overwrites the agent's
context, and the other is missing from it from then on. Only runs of the turns in question are cancelled, and only if
they were left behind: by a killed server, or by one that ended the turn and could not record that in its database. A
turn that is not stored and has a cancelled run stays UNKNOWN, whoever cancelled it and however long ago.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from letta_bridge.errors import EarlierTurnRunning, TurnInterrupted
from letta_bridge.letta import FoundTurn, LettaTurns, SoughtTurn, TurnState, turn_otid
from letta_bridge.request_queue.idempotency import CLOCK_TOLERANCE_SECONDS
from letta_bridge.request_queue.missed_turns import DeliveryStatus, KeptTurn, MissedTurn, fingerprints
from shared_utils.observability import logs

_log = logs.get("letta_bridge.reconciliation")

_ABSENCES_TO_BE_SURE: Final = 3
"""Lookups without a result before a turn whose connection was lost counts as absent: Letta shows a turn only once
its run is written, which takes a moment on a loaded server."""
_LOOKUP_PAUSE_SECONDS: Final = 2.0
"""Between those lookups."""
_SURE_ABSENCE_SECONDS: Final = (_ABSENCES_TO_BE_SURE - 1) * _LOOKUP_PAUSE_SECONDS
"""How long lookups must not find a turn before it counts as absent."""
_MAX_REMEMBERED_ABSENCES: Final = 10_000
_POLL_MIN_SECONDS, _POLL_MAX_SECONDS = 0.25, 2.0
"""Between lookups of a turn that is still running."""
_MIN_SEARCH_SECONDS: Final = 2.0
"""Minimum time limit of a search for earlier turns, however short the patience with them."""
_LEGACY_SEARCH_SECONDS: Final = 86_400.0
"""How long before it was settled a turn of the previous release, which noted no time, can have been sent."""

_STATES_BY_CERTAINTY: Final = (TurnState.STORED, TurnState.RUNNING, TurnState.CANCELLED, TurnState.ABSENT)
"""Of two states of one turn, sent under two otids, the first one in this list counts."""


class Absences:
    """Remembers, across all turns of this bridge, since when lookups have not found each earlier turn in doubt.

    Proving absence may take longer than one turn lasts; without this, a turn in doubt would use up the deadline of
    every later turn of its user. Bounded; a dropped turn is searched for again.
    """

    def __init__(self) -> None:
        self._since: dict[tuple[str, str], float] = {}
        """By agent and fingerprint of the missed turn's record, oldest first; by the clock of the event loop."""

    def note(self, agent_id: str, name: str, now: float, *, absent: bool) -> None:
        """Note the result of a lookup."""
        if not absent:
            self._since.pop((agent_id, name), None)
            return
        self._since.setdefault((agent_id, name), now)
        if len(self._since) > _MAX_REMEMBERED_ABSENCES:
            del self._since[next(iter(self._since))]

    def is_sure(self, agent_id: str, name: str, now: float) -> bool:
        """Whether it has been absent for long enough to be certain that it never arrived."""
        return now - self._since.get((agent_id, name), now) >= _SURE_ABSENCE_SECONDS


@dataclass(frozen=True, slots=True)
class PresentTurn:
    """The turn to be delivered, if it may already be stored."""

    key: str
    producer_id: str
    taken_at: float
    content: str | None
    """None where the upload is gone; then a turn sent by the previous release cannot be recognised."""
    ended: bool
    """Letta itself said that the last try is over: a run of it that is still active is left behind."""
    is_deserted: Callable[[], bool]
    """Whether the server that runs it has gone: then there is nothing to wait for."""


@dataclass(slots=True)
class Reconciled:
    """The result of a reconciliation."""

    present: FoundTurn | None = None
    """The present turn, where it is stored: then nothing is to be sent. Where it is None, it surely is not."""
    pending: list[KeptTurn] = field(default_factory=list)
    """The earlier turns to catch up with, or that may still be stored, each with its status."""
    resolved: set[str] = field(default_factory=set)
    """Fingerprints of those that the agent has caught up with, or that hold nothing to catch up."""


class Reconciliation:
    """Finds the status of every turn of an agent that is in doubt.

    Args:
        letta: the server.
        agent_id: the agent's.
        former_ids: ids the agent had before it was restored; its messages keep the otids that they were sent with.
        earlier: missed turns of this agent's user and persona, oldest first.
        present: the turn to be delivered, if it may have been sent; the wait for its own run has no limit.
        patience: seconds for earlier ones that are still running, all of them together, and for other programs' runs.
        absences: turns that earlier lookups of this bridge have not found.
        is_dead: start of a run → whether a killed server left it behind.
        looked: called after each lookup that Letta answered.
    """

    def __init__(
        self,
        letta: LettaTurns,
        agent_id: str,
        earlier: Sequence[KeptTurn],
        present: PresentTurn | None,
        *,
        former_ids: Sequence[str] = (),
        patience: float,
        absences: Absences,
        is_dead: Callable[[float | None], bool],
        looked: Callable[[], None],
    ) -> None:
        self._letta = letta
        self._agent_id = agent_id
        self._ids = (agent_id, *former_ids)
        self._present = present
        self._absences = absences
        self._is_dead = is_dead
        self._looked = looked
        self._clock = asyncio.get_running_loop().time
        self._until = self._clock() + patience
        self._given_up: set[str] = set()
        self._own_run_ended = False
        # A turn sent to a deleted agent never reached its successor.
        gone = {kept.fingerprint for kept in earlier if kept.turn.agent_id not in {None, *self._ids}}
        self._earlier = [kept for kept in earlier if kept.fingerprint not in gone]
        self._of_gone_agents = [
            _with_status(kept, DeliveryStatus.ABSENT) for kept in earlier if kept.fingerprint in gone
        ]
        self._order = {kept.fingerprint: index for index, kept in enumerate(earlier)}

    async def run(self) -> Reconciled:
        """Look up until the status of every turn is known, or the patience with earlier ones is used up.

        Raises:
            LettaError: Letta could not be asked.
            TurnInterrupted: the present turn was broken off and may still be stored.
            EarlierTurnRunning: an earlier turn is still running after the patience has ended.
        """
        if not self._earlier and self._present is None:
            return self._reconciled({})
        absent_looks, pause = 0, _POLL_MIN_SECONDS
        while True:
            present, earlier, others = await self._look()
            if present is not None and present.state is TurnState.STORED:
                return self._reconciled(earlier, present)
            if await self._end_own_run(present):
                continue  # what it had stored shows only now
            if self._is_running(present) or self._is_waited_for(earlier, others):
                absent_looks = 0
                await asyncio.sleep(pause)
                pause = min(pause * 2, _POLL_MAX_SECONDS)
                continue
            if await self._give_up(earlier):
                continue  # what it had stored shows only now
            absent_looks += 1
            if absent_looks < _ABSENCES_TO_BE_SURE and self._is_in_doubt(present, earlier):
                await asyncio.sleep(_LOOKUP_PAUSE_SECONDS)
                continue
            return self._reconciled(earlier)

    async def _look(self) -> tuple[FoundTurn | None, Mapping[str, FoundTurn], Sequence[str]]:
        """The present turn, the earlier turns with a known status, by fingerprint, and other active runs."""
        sought: list[SoughtTurn] = []
        places: dict[str, list[int]] = {}
        for name, ways in self._ways():
            places[name] = list(range(len(sought), len(sought) + len(ways)))
            sought += ways
        # Only the present turn is searched for without a time limit; an earlier one can be quoted instead.
        time_limit = None if self._present else max(self._until - self._clock(), _MIN_SEARCH_SECONDS)
        looked = await self._letta.find_turns(self._agent_id, sought, time_limit=time_limit)
        self._looked()
        best = {name: _best([looked.turns[place] for place in at]) for name, at in places.items()}
        present = best.pop("", None)
        for name, found in best.items():
            self._absences.note(
                self._agent_id, name, self._clock(), absent=looked.complete and found.state is TurnState.ABSENT
            )
        known = {
            name: found
            for name, found in best.items()
            if looked.complete or found.caught_up or found.state is not TurnState.ABSENT
        }
        return present, known, looked.other_runs

    def _ways(self) -> list[tuple[str, list[SoughtTurn]]]:
        """Each turn by fingerprint, the present one under "", with every form in which it may have been sent."""
        ways = [(kept.fingerprint, _ways_of(kept.turn, self._ids)) for kept in self._earlier]
        if (present := self._present) is not None:
            since = present.taken_at - CLOCK_TOLERANCE_SECONDS
            own = [SoughtTurn(turn_otid(agent_id, present.key), since) for agent_id in self._ids]
            if (content := present.content) is not None:
                own += [_legacy(agent_id, present.producer_id, since, content) for agent_id in self._ids]
            ways.append(("", own))
        return ways

    async def _end_own_run(self, present: FoundTurn | None) -> bool:
        """Cancel the present turn's run, once, if Letta has ended the turn; False if there is none to cancel.

        Letta records the end of a run before it answers. If the run is still active, its database was away.
        """
        if present is None or self._present is None or not self._present.ended or self._own_run_ended:
            return False
        if present.state is not TurnState.RUNNING or not present.run_ids:
            return False
        self._own_run_ended = True
        await self._cancel(present.run_ids)
        return True

    def _is_running(self, present: FoundTurn | None) -> bool:
        """Whether the present turn is still running. Raises TurnInterrupted if it can no longer complete."""
        if present is None or self._present is None:
            return False
        if present.state is TurnState.CANCELLED:
            raise TurnInterrupted("A run of this turn was cancelled in Letta; it is not sent again, it may be stored.")
        if present.state is not TurnState.RUNNING:
            return False
        # Without a labelled run there may only be an unlabelled one, possibly another program's.
        without_end = not present.run_ids and self._clock() >= self._until
        if without_end or self._own_run_ended or self._present.is_deserted() or self._is_dead(present.running_since):
            raise TurnInterrupted
        return True

    def _is_waited_for(self, earlier: Mapping[str, FoundTurn], others: Sequence[str]) -> bool:
        """Whether a run that this turn must not overlap is active, and there is time left."""
        if self._clock() >= self._until:
            return False
        return bool(others) or bool(self._at_work(earlier))

    def _at_work(self, earlier: Mapping[str, FoundTurn]) -> list[KeptTurn]:
        """The earlier turns that are running, unless their server has stopped or has ended them already."""
        return [
            kept
            for kept in self._running(earlier)
            if not (kept.turn.interrupted or kept.turn.ended)
            and (since := earlier[kept.fingerprint].running_since) is not None
            and not self._is_dead(since)
        ]

    def _running(self, earlier: Mapping[str, FoundTurn]) -> list[KeptTurn]:
        """The earlier turns that are running and not abandoned yet."""
        return [
            kept
            for kept in self._earlier
            if kept.fingerprint not in self._given_up
            and (found := earlier.get(kept.fingerprint)) is not None
            and found.state is TurnState.RUNNING
        ]

    async def _give_up(self, earlier: Mapping[str, FoundTurn]) -> bool:
        """Cancel only the runs of earlier turns that were left behind; False if there are none.

        Raises:
            EarlierTurnRunning: one of them is still running.
        """
        if self._at_work(earlier):
            raise EarlierTurnRunning
        running = self._running(earlier)
        self._given_up |= fingerprints(running)
        runs = [run_id for kept in running for run_id in earlier[kept.fingerprint].run_ids]
        if runs:
            await self._cancel(runs)
        return bool(runs)

    async def _cancel(self, runs: Sequence[str]) -> None:
        _log.warning("turn_cancelled", agent_id=self._agent_id, runs=len(runs))
        await self._letta.cancel(self._agent_id, runs)

    def _is_in_doubt(self, present: FoundTurn | None, earlier: Mapping[str, FoundTurn]) -> bool:
        """Whether a turn that was not found may be so new that Letta does not show it yet."""
        if present is not None and self._present is not None and not self._present.ended:
            return True
        return any(
            _may_be_on_its_way(kept.turn)
            and earlier[kept.fingerprint].state is TurnState.ABSENT
            and not self._absences.is_sure(self._agent_id, kept.fingerprint, self._clock())
            for kept in self._earlier
            if kept.fingerprint in earlier
        )

    def _reconciled(self, found: Mapping[str, FoundTurn], present: FoundTurn | None = None) -> Reconciled:
        result = Reconciled(present=present)
        fates = {kept.fingerprint: self._fate(kept, found.get(kept.fingerprint)) for kept in self._earlier}
        carried = _carried_by_unknown(self._earlier, fates)
        later_runs = {present.run_id} if present else set()
        for kept in reversed(self._earlier):
            seen, fate = found.get(kept.fingerprint), fates[kept.fingerprint]
            if fate is DeliveryStatus.ABSENT and kept.turn.task_id in carried:
                fate = DeliveryStatus.UNKNOWN
            # A bridge of the previous release caught up a turn under the turn's own otid, in the run of a later turn.
            rode_along = seen is not None and seen.run_id is not None and seen.run_id in later_runs
            if rode_along or (seen is not None and seen.caught_up) or not _holds_anything(kept.turn, fate):
                result.resolved.add(kept.fingerprint)
            else:
                result.pending.append(_with_status(kept, fate))
            if seen is not None:
                later_runs.add(seen.run_id)
        result.pending += self._of_gone_agents
        result.pending.sort(key=lambda kept: self._order[kept.fingerprint])
        return result

    def _fate(self, kept: KeptTurn, found: FoundTurn | None) -> DeliveryStatus:
        if kept.turn.fate is DeliveryStatus.STORED:
            return DeliveryStatus.STORED
        if found is None:  # the history was not read completely, so it may contain the catch-up of this turn
            return DeliveryStatus.UNKNOWN
        if found.state is TurnState.STORED:
            return DeliveryStatus.STORED
        # Its stream was read to the end, and what Letta has not stored of a cancelled stream by then, it never does.
        if found.state is TurnState.CANCELLED and kept.turn.cut_short and kept.turn.ended:
            return DeliveryStatus.ABSENT
        if found.state is TurnState.ABSENT and kept.fingerprint not in self._given_up:
            return DeliveryStatus.ABSENT
        return DeliveryStatus.UNKNOWN


def _ways_of(turn: MissedTurn, agent_ids: Sequence[str]) -> list[SoughtTurn]:
    """Every otid under which an earlier turn may be stored, the first one that of its own bridge.

    ``agent_ids``: of its agent, the present one and then the former ones.
    """
    if turn.taken_at is None:
        since = turn.timestamp - _LEGACY_SEARCH_SECONDS
        ways = [_legacy(agent_id, turn.task_id, since, turn.content) for agent_id in agent_ids]
    else:
        since = turn.taken_at - CLOCK_TOLERANCE_SECONDS
        ways = [SoughtTurn(turn.otids(agent_id).own, since) for agent_id in agent_ids]
        if turn.producer_id is not None:
            ways += [_legacy(agent_id, turn.producer_id, since, turn.content) for agent_id in agent_ids]
    copies = frozenset[str]().union(*(turn.otids(agent_id).copies for agent_id in agent_ids))
    return [replace(ways[0], copies=copies), *ways[1:]]


def _legacy(agent_id: str, producer_id: str, since: float, content: str) -> SoughtTurn:
    """A turn as the previous release sent it: under an id that is not unique, and in unlabelled runs."""
    return SoughtTurn(turn_otid(agent_id, producer_id), since, content=content, labelled=False)


def _best(ways: Sequence[FoundTurn]) -> FoundTurn:
    """The result for a turn, from the results for each form in which it may have been sent."""
    # An unlabelled run need not be this turn's, unless only the previous release can have sent it: it is not cancelled.
    safe = [ways[0], *(replace(way, run_ids=()) for way in ways[1:])]
    best = min(safe, key=lambda way: _STATES_BY_CERTAINTY.index(way.state))
    return replace(best, caught_up=any(way.caught_up for way in ways))


def _may_be_on_its_way(turn: MissedTurn) -> bool:
    return turn.fate is DeliveryStatus.UNKNOWN and not turn.ended


def _carried_by_unknown(turns: Sequence[KeptTurn], fates: Mapping[str, DeliveryStatus]) -> set[str]:
    """The keys of missed turns that a turn in doubt carried: they are in doubt as well."""
    carried: set[str] = set()
    for index, kept in enumerate(turns):
        if fates[kept.fingerprint] is not DeliveryStatus.UNKNOWN:
            continue
        if kept.turn.carried is None:
            carried.update(before.turn.task_id for before in turns[:index])
        else:
            carried.update(kept.turn.carried)
    return carried


def _holds_anything(turn: MissedTurn, fate: DeliveryStatus) -> bool:
    """Whether a record needs catch-up, or describes a turn that may still be stored with those that it carried."""
    if turn.is_worth_remembering and not (turn.canned and fate is DeliveryStatus.STORED):
        return True
    return fate is DeliveryStatus.UNKNOWN


def _with_status(kept: KeptTurn, fate: DeliveryStatus) -> KeptTurn:
    return replace(kept, turn=kept.turn.model_copy(update={"fate": fate}))
