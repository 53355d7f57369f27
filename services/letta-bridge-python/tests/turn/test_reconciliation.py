"""What is thought of turns whose fate is open, from what Letta shows of them."""

from __future__ import annotations

import asyncio
import time
import uuid
from typing import Any

import pytest

from letta_bridge.errors import EarlierTurnRunning, TurnInterrupted
from letta_bridge.letta import FoundTurn, FoundTurns, TurnAnswer, TurnState, turn_otid
from letta_bridge.letta.port import SoughtTurn
from letta_bridge.request_queue.missed_turns import DeliveryStatus, MissedTurn, read
from letta_bridge.turn import reconciliation
from letta_bridge.turn.reconciliation import Absences, PresentTurn, Reconciliation
from shared_utils.contracts.messages import dump

pytestmark = pytest.mark.virtual_time

AGENT = f"agent-{uuid.UUID(int=7)}"
ABSENT, RUNNING, CANCELLED, STORED = (FoundTurn(state) for state in TurnState)


class Letta:
    """Shows one look after the other; the last one for ever."""

    def __init__(self, *looks: Any, others: Any = ()) -> None:
        self.looks = list(looks)
        self.others = others
        self.sought: list[Any] = []
        self.cancelled: list[Any] = []
        self.limits: list[Any] = []
        self.complete = True

    async def find_turns(
        self, agent_id: str, sought: list[SoughtTurn], *, time_limit: float | None = None
    ) -> FoundTurns:
        self.sought.append(sought)
        self.limits.append(time_limit)
        look = self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]
        # A present turn is looked for in two ways: as this release sends it, and as the previous one did.
        turns = [*look, *[ABSENT] * (len(sought) - len(look))]
        return FoundTurns(tuple(turns), tuple(self.others), complete=self.complete)

    async def cancel(self, agent_id: str, run_ids: Any) -> None:
        self.cancelled += run_ids


def missed(number: int, **fields: Any) -> MissedTurn:
    turn = {
        "task_id": f"{number}-1",
        "content": f"said {number}",
        "response_text": "short",
        "timestamp": time.time(),
        "taken_at": time.time(),
        "persona": "default",
        "fate": DeliveryStatus.UNKNOWN,
        "agent_id": AGENT,
        **fields,
    }
    return MissedTurn.model_validate({name: value for name, value in turn.items() if value is not None})


def running(*run_ids: str, since: float | None = None) -> FoundTurn:
    return FoundTurn(TurnState.RUNNING, run_ids=run_ids, running_since=time.time() if since is None else since)


DEAD = 1.0
"""When a run began that a killed server left behind."""


def present(*, ended: bool = False, deserted: bool = False) -> reconciliation.PresentTurn:
    return PresentTurn("9-1", "t9", time.time(), "hello", ended=ended, is_deserted=lambda: deserted)


async def reconciled(
    letta: Any,
    *turns: MissedTurn,
    present: reconciliation.PresentTurn | None = None,
    former_ids: Any = (),
    patience: float = 0.0,
    absences: Any = None,
) -> tuple[Any, ...]:
    kept = read([dump(turn) for turn in turns])
    looks = []
    result = await Reconciliation(
        letta,
        AGENT,
        kept,
        present,
        former_ids=former_ids,
        patience=patience,
        absences=absences or Absences(),
        is_dead=lambda began: began == DEAD,
        looked=lambda: looks.append(1),
    ).run()
    assert len(looks) == len(letta.sought)
    names = {each.fingerprint: each.turn.task_id for each in kept}
    fates = [(each.turn.task_id, each.turn.fate) for each in result.pending]
    return result.present, fates, {names[each] for each in result.resolved}


@pytest.mark.parametrize(
    ("found", "fate"),
    [(ABSENT, DeliveryStatus.ABSENT), (CANCELLED, DeliveryStatus.UNKNOWN), (STORED, DeliveryStatus.STORED)],
)
async def test_earlier_turn_is_pending_with_the_found_status(found: FoundTurn, fate: DeliveryStatus) -> None:
    assert await reconciled(Letta([found]), missed(1)) == (None, [("1-1", fate)], set())


async def test_turn_with_a_stored_catch_up_is_resolved() -> None:
    told = FoundTurn(TurnState.ABSENT, caught_up=True)
    assert await reconciled(Letta([told, ABSENT]), missed(1), missed(2)) == (
        None,
        [("2-1", DeliveryStatus.ABSENT)],
        {"1-1"},
    )


async def test_restored_agent_is_searched_for_turns_sent_before_the_restore() -> None:
    former = f"agent-{uuid.UUID(int=8)}"
    letta = Letta([ABSENT, STORED, ABSENT, STORED])
    earlier = missed(1, agent_id=former)
    found, pending, _ = await reconciled(letta, earlier, present=present(), former_ids=[former])
    assert (found, pending) == (STORED, [("1-1", DeliveryStatus.STORED)])
    ((new, old, *presents),) = letta.sought
    assert [new.otid, old.otid] == [earlier.otids(agent_id).own for agent_id in (AGENT, former)]
    assert new.copies == earlier.otids(AGENT).copies | earlier.otids(former).copies
    assert [sought.otid for sought in presents] == [
        turn_otid(agent_id, key) for key in ("9-1", "t9") for agent_id in (AGENT, former)
    ]


@pytest.mark.parametrize(
    ("fields", "found", "resolved"),
    [
        ({"response_text": None}, ABSENT, True),
        ({"response_text": None}, STORED, True),
        ({"response_text": None}, CANCELLED, False),
        ({"response_text": None, "canned": True}, STORED, True),
        ({"response_text": None, "canned": True}, ABSENT, False),
        ({}, STORED, False),
    ],
)
async def test_turn_without_catch_up_is_resolved_once_its_status_is_certain(
    fields: dict[str, Any], found: FoundTurn, resolved: bool
) -> None:
    _, pending, done = await reconciled(Letta([found]), missed(1, **fields))
    assert (len(pending), len(done)) == ((0, 1) if resolved else (1, 0))


@pytest.mark.parametrize(
    ("fields", "looks"),
    [
        ({}, 3),  # Letta may not show it yet
        ({"ended": True}, 1),
        ({"fate": DeliveryStatus.ABSENT}, 1),
    ],
)
async def test_a_turn_that_may_be_on_its_way_is_looked_for_again(fields: dict[str, Any], looks: int) -> None:
    letta = Letta([ABSENT])
    await reconciled(letta, missed(1, **fields))
    assert len(letta.sought) == looks


async def test_a_turn_that_shows_late_is_not_absent() -> None:
    late = FoundTurn(TurnState.STORED, run_id="run-1")
    assert await reconciled(Letta([ABSENT], [ABSENT], [late]), missed(1)) == (
        None,
        [("1-1", DeliveryStatus.STORED)],
        set(),
    )


async def test_a_turn_beside_one_that_is_still_at_work_is_not_sent() -> None:
    letta = Letta([running("run-1"), running("run-2", since=DEAD)])
    with pytest.raises(EarlierTurnRunning):
        await reconciled(letta, missed(1), missed(2), patience=0.05)
    assert len(letta.sought) > 1
    assert letta.cancelled == []


async def test_a_turn_that_ends_within_the_patience_is_waited_for() -> None:
    letta = Letta([running("run-1")], [running("run-1")], [STORED])
    assert await reconciled(letta, missed(1), patience=20.0) == (None, [("1-1", DeliveryStatus.STORED)], set())


async def test_runs_of_a_killed_server_are_cancelled_and_searched_once_more() -> None:
    letta = Letta([running("run-1", since=DEAD), running("run-2", since=DEAD)], [CANCELLED, STORED])
    assert await reconciled(letta, missed(1), missed(2)) == (
        None,
        [("1-1", DeliveryStatus.UNKNOWN), ("2-1", DeliveryStatus.STORED)],
        set(),
    )
    assert letta.cancelled == ["run-1", "run-2"]


async def test_a_turn_whose_cancel_has_no_effect_stays_in_doubt() -> None:
    letta = Letta([running("run-1", since=DEAD)])
    assert await reconciled(letta, missed(1)) == (None, [("1-1", DeliveryStatus.UNKNOWN)], set())
    assert letta.cancelled == ["run-1"]


async def test_a_run_without_a_date_is_taken_for_dead() -> None:
    letta = Letta([FoundTurn(TurnState.RUNNING, run_ids=("run-1",))], [CANCELLED])
    assert await reconciled(letta, missed(1)) == (None, [("1-1", DeliveryStatus.UNKNOWN)], set())
    assert letta.cancelled == ["run-1"]


async def test_an_interrupted_turn_is_not_waited_for() -> None:
    letta = Letta([running("run-1")], [CANCELLED])
    async with asyncio.timeout(20):
        await reconciled(letta, missed(1, interrupted=True), patience=3600.0)
    assert letta.cancelled == ["run-1"]


async def test_a_run_that_letta_left_active_although_it_ended_the_turn_is_not_waited_for() -> None:
    letta = Letta([running("run-1")], [STORED])
    async with asyncio.timeout(20):
        result = await reconciled(letta, missed(1, ended=True), patience=3600.0)
    assert (result, letta.cancelled) == ((None, [("1-1", DeliveryStatus.STORED)], set()), ["run-1"])


async def test_run_of_another_program_is_waited_for_and_not_cancelled() -> None:
    letta = Letta([ABSENT], others=["run-9"])
    assert await reconciled(letta, missed(1, fate=DeliveryStatus.ABSENT), patience=0.05) == (
        None,
        [("1-1", DeliveryStatus.ABSENT)],
        set(),
    )
    assert len(letta.sought) > 1
    assert letta.cancelled == []


@pytest.mark.parametrize(("carried", "fates"), [(("1-1",), ["unknown", "absent"]), ((), ["absent", "absent"])])
async def test_turns_carried_by_an_unknown_turn_are_unknown(carried: tuple[Any, ...], fates: list[str]) -> None:
    turns = [missed(1, fate=DeliveryStatus.ABSENT), missed(2, fate=DeliveryStatus.ABSENT), missed(3, carried=carried)]
    _, pending, _ = await reconciled(Letta([ABSENT, ABSENT, CANCELLED]), *turns)
    assert [fate for _, fate in pending] == [*fates, "unknown"]


async def test_record_without_carried_keys_may_have_carried_all_earlier_turns() -> None:
    turns = [missed(1, fate=DeliveryStatus.ABSENT), missed(2), missed(3, fate=DeliveryStatus.ABSENT)]
    _, pending, _ = await reconciled(Letta([ABSENT, CANCELLED, ABSENT]), *turns)
    assert [fate for _, fate in pending] == ["unknown", "unknown", "absent"]


async def test_turn_stored_in_a_later_run_counts_as_catch_up_of_the_previous_release() -> None:
    stored = FoundTurn(TurnState.STORED, run_id="run-1")
    _, pending, resolved = await reconciled(Letta([stored, stored]), missed(1), missed(2))
    assert (pending, resolved) == ([("2-1", DeliveryStatus.STORED)], {"1-1"})


async def test_a_turn_of_an_agent_that_is_gone_is_absent_and_not_looked_for() -> None:
    letta = Letta([ABSENT])
    gone = missed(1, agent_id="agent-gone")
    assert await reconciled(letta, gone) == (None, [("1-1", DeliveryStatus.ABSENT)], set())
    assert letta.sought == []


async def test_incomplete_search_leaves_turns_that_it_did_not_find_in_doubt() -> None:
    """A turn that was never sent may have been told with a later one whose answer got lost."""
    letta = Letta([ABSENT, ABSENT, STORED])
    letta.complete = False
    turns = [missed(1), missed(2, fate=DeliveryStatus.ABSENT), missed(3)]
    _, pending, _ = await reconciled(letta, *turns, patience=5.0)
    assert pending == [("1-1", DeliveryStatus.UNKNOWN), ("2-1", DeliveryStatus.UNKNOWN), ("3-1", DeliveryStatus.STORED)]
    assert 4.0 < letta.limits[0] <= 5.0


async def test_incomplete_search_uses_turns_that_it_found() -> None:
    told = FoundTurn(TurnState.ABSENT, caught_up=True)
    letta = Letta([told, STORED])
    letta.complete = False
    turns = [missed(1, fate=DeliveryStatus.ABSENT), missed(2, carried=["1-1"])]
    assert await reconciled(letta, *turns) == (None, [("2-1", DeliveryStatus.STORED)], {"1-1"})


async def test_a_short_patience_is_time_enough_for_a_short_search() -> None:
    letta = Letta([STORED])
    await reconciled(letta, missed(1))
    assert letta.limits == [2.0]


async def test_a_search_for_the_present_turn_takes_as_long_as_it_takes() -> None:
    letta = Letta([ABSENT])
    await reconciled(letta, present=present())
    assert set(letta.limits) == {None}


async def test_the_present_turn_is_used_where_it_is_stored() -> None:
    stored = FoundTurn(TurnState.STORED, answer=TurnAnswer("hi"), run_id="run-1")
    told = FoundTurn(TurnState.ABSENT, caught_up=True)
    found, pending, resolved = await reconciled(Letta([told, ABSENT, stored]), missed(1), missed(2), present=present())
    assert found.answer.text == "hi"
    assert (pending, resolved) == ([("2-1", DeliveryStatus.ABSENT)], {"1-1"})


async def test_the_present_turn_is_looked_for_as_the_previous_release_sent_it_too() -> None:
    letta = Letta([ABSENT, FoundTurn(TurnState.STORED, answer=TurnAnswer("old"))])
    found, _, _ = await reconciled(letta, present=present())
    assert found.answer.text == "old"
    own, legacy = letta.sought[0]
    assert (own.content, own.labelled) == (None, True)
    assert (legacy.content, legacy.labelled) == ("hello", False)
    assert own.since == legacy.since


async def test_the_present_turn_is_waited_for_beyond_all_patience() -> None:
    letta = Letta(*[[running("run-1")]] * 20, [STORED])
    found, _, _ = await reconciled(letta, present=present())
    assert found.state is TurnState.STORED
    assert letta.cancelled == []


async def test_a_run_that_may_be_another_programs_is_waited_for_within_the_patience_only() -> None:
    """An unlabelled run: the previous release's of this turn, or anybody's."""
    letta = Letta([ABSENT, running("run-9")])
    with pytest.raises(TurnInterrupted):
        await reconciled(letta, present=present(), patience=0.05)
    assert len(letta.sought) > 1
    assert letta.cancelled == []


async def test_present_turn_is_absent_after_three_searches_or_one_if_letta_ended_it() -> None:
    letta = Letta([ABSENT])
    assert await reconciled(letta, present=present()) == (None, [], set())
    assert len(letta.sought) == 3
    letta = Letta([ABSENT])
    await reconciled(letta, present=present(ended=True))
    assert len(letta.sought) == 1


@pytest.mark.parametrize(
    ("found", "deserted"), [(CANCELLED, False), (running("run-1"), True), (running("run-1", since=DEAD), False)]
)
async def test_a_present_turn_that_was_broken_off_is_not_sent_again(found: FoundTurn, deserted: bool) -> None:
    with pytest.raises(TurnInterrupted):
        await reconciled(Letta([found]), present=present(deserted=deserted))


async def test_the_answer_of_a_present_turn_that_letta_ended_is_used_although_its_run_stands_as_active() -> None:
    letta = Letta([running("run-1")], [FoundTurn(TurnState.STORED, answer=TurnAnswer("hi"), run_id="run-1")])
    async with asyncio.timeout(20):
        found, _, _ = await reconciled(letta, present=present(ended=True), patience=3600.0)
    assert (found.answer.text, letta.cancelled) == ("hi", ["run-1"])


@pytest.mark.parametrize("later", [CANCELLED, running("run-1")], ids=["not stored", "the cancel has no effect"])
async def test_a_present_turn_that_letta_ended_without_ending_its_run_is_not_sent_again(later: FoundTurn) -> None:
    letta = Letta([running("run-1")], [later])
    async with asyncio.timeout(20):
        with pytest.raises(TurnInterrupted):
            await reconciled(letta, present=present(ended=True), patience=3600.0)
    assert letta.cancelled == ["run-1"]


async def test_an_active_run_that_need_not_be_of_the_present_turn_is_never_cancelled() -> None:
    letta = Letta([ABSENT, running("run-9")])
    async with asyncio.timeout(20):
        with pytest.raises(TurnInterrupted):
            await reconciled(letta, present=present(ended=True), patience=0.05)
    assert letta.cancelled == []


async def test_a_turn_in_doubt_does_not_use_up_the_deadline_of_every_later_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reconciliation, "_LOOKUP_PAUSE_SECONDS", 60.0)
    monkeypatch.setattr(reconciliation, "_SURE_ABSENCE_SECONDS", 0.1)
    lost, absences = missed(1), Absences()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await reconciled(Letta([ABSENT]), lost, absences=absences)
    await asyncio.sleep(0.1)
    async with asyncio.timeout(30):
        assert await reconciled(Letta([ABSENT]), lost, absences=absences) == (
            None,
            [("1-1", DeliveryStatus.ABSENT)],
            set(),
        )


async def test_a_turn_that_shows_again_is_looked_for_as_long_as_at_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconciliation, "_SURE_ABSENCE_SECONDS", 0.05)
    lost, absences = missed(1), Absences()
    await reconciled(Letta([ABSENT]), lost, absences=absences)
    await asyncio.sleep(0.05)
    letta = Letta([running("run-1")], [ABSENT], [ABSENT], [STORED])
    _, fates, _ = await reconciled(letta, lost, patience=5.0, absences=absences)
    assert fates == [("1-1", DeliveryStatus.STORED)]
