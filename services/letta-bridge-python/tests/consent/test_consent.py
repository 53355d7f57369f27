"""Consent fails closed whenever Redis, the database, the session file or the bridge itself fails in between."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import replace
from typing import Any

import pytest

from letta_bridge.consent import ChoiceReplicas, Consent, Verdict, replicas
from letta_bridge.consent.shared_choices import held_choice
from letta_bridge.errors import ChoiceNotShared, ChoiceUnknown
from letta_bridge.request_queue.port import HeldChoice
from letta_bridge.testing.shared_choices import InMemorySharedChoices
from shared_utils.persistence.choices.memory_store import InMemoryChoiceStore
from shared_utils.persistence.choices.port import IMPORTED_MS, Choice, user_key
from shared_utils.persistence.errors import PersistenceError
from shared_utils.persistence.sessions.memory_store import InMemorySessionStore
from shared_utils.persistence.sessions.port import Session

ADA = user_key("ada")
NOW_MS = 2**50
"""When a task was taken that was pushed after every choice."""
ALLOWED, DENIED, UNKNOWN = Verdict.ALLOWED, Verdict.DENIED, Verdict.UNKNOWN


class World:
    """Bridges of one queue: one Redis, one database, a session file for each host."""

    def __init__(self) -> None:
        ticks = itertools.count(1_800_000_000)
        self.redis: dict[str, Any] = {}
        self.shared = InMemorySharedChoices(self.redis, lambda: next(ticks))
        self.database = InMemoryChoiceStore()
        self.sessions = InMemorySessionStore()

    def bridge(self, file: Any = None) -> Consent:
        """A bridge with a database, and a session file of its own unless one is given."""
        return Consent(ChoiceReplicas(self.shared, self.database, file or InMemoryChoiceStore(), self.sessions))

    def bridge_without_database(self, file: InMemoryChoiceStore | None = None) -> Consent:
        return Consent(ChoiceReplicas(self.shared, file or InMemoryChoiceStore(), None, self.sessions))

    def handed_out(self, user: str = "ada") -> HeldChoice:
        return held_choice(self.redis, user)

    async def verdict(
        self, bridge: Consent, user: str = "ada", session: Session | None = None, *, first_ms: int = NOW_MS
    ) -> Verdict:
        return await bridge.verdict(user, self.handed_out(user), session, first_ms=first_ms)

    def database_goes_away(self) -> None:
        self.database.broken = self.sessions.broken = True

    def database_comes_back(self) -> None:
        self.database.broken = self.sessions.broken = False

    def fail_over(self, replica: dict[str, bytes]) -> None:
        """Promote a Redis replica that lags behind."""
        self.redis.clear()
        self.redis.update(replica)


@pytest.fixture
def world() -> World:
    return World()


async def started(bridge: Consent) -> Consent:
    await bridge.replicas.reconcile()
    await bridge.replicas.poll()
    return bridge


async def opt_out(bridge: Consent, user: str = "ada") -> Choice:
    return await bridge.choose(user, permanent_memory=False)


async def opt_in(bridge: Consent, user: str = "ada") -> Choice:
    return await bridge.choose(user, permanent_memory=True)


async def test_user_without_a_choice_is_allowed(world: World) -> None:
    bridge = world.bridge()
    assert await world.verdict(bridge) is ALLOWED  # before the first reconciliation the database is asked
    await started(bridge)
    assert await world.verdict(bridge) is ALLOWED
    world.database_goes_away()
    assert await world.verdict(bridge) is ALLOWED


async def test_choice_applies_to_every_bridge_with_the_next_hand_out(world: World) -> None:
    bridges = [await started(world.bridge()) for _ in range(3)]
    await opt_out(bridges[0])
    assert [await world.verdict(bridge) for bridge in bridges] == [DENIED] * 3
    assert [await world.verdict(bridge, "bo") for bridge in bridges] == [ALLOWED] * 3
    await opt_in(bridges[1])
    assert [await world.verdict(bridge) for bridge in bridges] == [ALLOWED] * 3


async def test_bridge_started_without_the_database_trusts_a_complete_replica_in_redis(world: World) -> None:
    await opt_out(await started(world.bridge()))
    world.database_goes_away()
    new = world.bridge()
    for _ in range(2):
        assert await world.verdict(new) is DENIED
        assert await world.verdict(new, "bo") is ALLOWED
        await started(new)
    assert new.replicas.last_error is not None


async def test_bridges_without_a_database_share_choices_through_redis(world: World) -> None:
    one, other = [await started(world.bridge_without_database()) for _ in range(2)]
    await opt_out(one)
    assert await world.verdict(other) is DENIED
    assert await world.verdict(world.bridge_without_database()) is DENIED


async def test_session_file_of_each_bridge_replicates_the_choices_of_the_others(world: World) -> None:
    one, other = [await started(world.bridge_without_database()) for _ in range(2)]
    await opt_out(one)
    await world.verdict(other, "bo")  # any user's turn reports the number of changes
    await other.replicas.poll()
    world.redis.clear()
    assert await world.verdict(other) is DENIED


@pytest.mark.parametrize("with_database", [True, False])
async def test_durable_store_restores_a_lost_redis_replica(world: World, with_database: bool) -> None:
    file = InMemoryChoiceStore()
    bridge = await started(world.bridge() if with_database else world.bridge_without_database(file))
    await opt_out(bridge)
    world.redis.clear()
    assert await world.verdict(bridge) is DENIED
    restarted = world.bridge() if with_database else world.bridge_without_database(file)
    assert await world.verdict(restarted) is DENIED
    assert await world.verdict(restarted, "bo") is ALLOWED
    await started(restarted)
    assert world.redis["complete"] == b"1"
    assert world.handed_out().entry is not None
    assert await world.verdict(bridge, "bo") is ALLOWED


async def test_lost_redis_replica_without_the_database_makes_every_choice_unknown(world: World) -> None:
    bridge = await started(world.bridge())
    await opt_out(bridge)
    world.database_goes_away()
    world.redis.clear()
    for one in (bridge, world.bridge()):
        assert await world.verdict(one, "bo") is UNKNOWN
        await started(one)
        assert await world.verdict(one, "bo") is UNKNOWN
    assert await world.verdict(bridge) is DENIED  # this host's session file has the opt-out
    world.database_comes_back()
    await started(bridge)
    assert await world.verdict(bridge, "bo") is ALLOWED
    assert await world.verdict(bridge) is DENIED


async def test_eviction_of_the_choices_takes_the_completeness_marker_too(world: World) -> None:
    await opt_out(await started(world.bridge()))
    world.redis.clear()
    assert world.handed_out("bo").complete is None


async def test_opt_out_lost_in_a_failover_still_applies(world: World) -> None:
    writer, reader = [await started(world.bridge()) for _ in range(2)]
    replica = dict(world.redis)
    await opt_out(writer)
    await reader.replicas.poll()
    await world.verdict(writer, "bo")
    world.fail_over(replica)
    assert await world.verdict(writer) is DENIED
    assert await world.verdict(reader) is DENIED  # it has polled the database
    assert await world.verdict(world.bridge()) is DENIED  # it asks the database before it trusts Redis
    await started(writer)
    assert world.handed_out().entry is not None
    assert world.redis["complete"] == b"1"


async def test_opt_in_lost_in_a_failover_applies_once_redis_has_it_again(world: World) -> None:
    writer, reader = [await started(world.bridge()) for _ in range(2)]
    await opt_out(writer)
    await reader.replicas.poll()
    replica = dict(world.redis)
    await opt_in(writer)
    await reader.replicas.poll()
    world.fail_over(replica)
    for bridge in (writer, reader):
        assert await world.verdict(bridge) is DENIED  # which tasks were pushed before the opt-in is lost with it
        assert bridge.replicas.needs_reconciliation
    await started(reader)
    assert await world.verdict(writer) is ALLOWED
    assert await world.verdict(reader) is ALLOWED
    await opt_out(reader)
    assert await world.verdict(writer) is DENIED


async def test_words_pushed_before_an_opt_in_stay_private_at_every_bridge(world: Any) -> None:
    one, other = [await started(world.bridge()) for _ in range(2)]
    await opt_out(one)
    await opt_in(one)
    since_ms = int(world.handed_out().entry.split()[2])
    for bridge in (one, other, world.bridge(), world.bridge_without_database()):
        assert await world.verdict(bridge, first_ms=since_ms) is DENIED
    world.database_goes_away()
    assert await world.verdict(other, first_ms=since_ms) is DENIED
    assert await world.verdict(other, first_ms=since_ms + 1) is ALLOWED


@pytest.mark.parametrize("database", ["there", "away"])
async def test_opt_in_that_redis_lacks_lets_no_turn_reach_an_agent(world: Any, database: Any) -> None:
    bridge = await started(world.bridge())
    await opt_out(bridge)
    await opt_in(bridge)
    del world.redis[ADA]  # the failover is hidden by later writes
    restarted = world.bridge(bridge.replicas.local)
    if database == "away":
        world.database_goes_away()
    assert await world.verdict(restarted) is UNKNOWN
    assert restarted.replicas.needs_reconciliation
    assert await world.verdict(restarted, "bo") is ALLOWED


async def test_repeated_opt_in_applies_to_tasks_pushed_between_the_two(world: Any) -> None:
    bridge = await started(world.bridge())
    await opt_in(bridge)
    since_ms = int(world.handed_out().entry.split()[2])
    await opt_in(bridge)
    assert await world.verdict(bridge, first_ms=since_ms + 1) is ALLOWED
    replica = dict(world.redis)
    await opt_out(bridge)
    world.fail_over(replica)  # the opt-out is in the database alone
    await opt_in(bridge)
    assert await world.verdict(bridge, first_ms=since_ms + 1) is DENIED
    assert await world.verdict(bridge) is ALLOWED


@pytest.mark.parametrize(
    ("metadata", "verdict"),
    [
        ({}, ALLOWED),
        ({"permanent_memory": False, "permanent_memory_chosen_ms": 1_000}, ALLOWED),  # another host's session file
        ({"permanent_memory": False, "permanent_memory_chosen_ms": 2**60}, DENIED),
        ({"permanent_memory": False}, DENIED),  # of a bridge of the previous release, and perhaps later
        ({"permanent_memory": False, "permanent_memory_chosen_ms": "soon"}, DENIED),
        ({"permanent_memory": "no", "permanent_memory_chosen_ms": True}, DENIED),
    ],
)
async def test_opt_out_in_a_session_holds_unless_a_later_opt_in_is_known(
    world: World, metadata: dict[str, Any], verdict: Verdict
) -> None:
    bridge = await started(world.bridge())
    session = Session("ada", "default", metadata=metadata)
    choice = await opt_in(bridge)
    assert await world.verdict(bridge, session=session) is verdict
    assert await bridge.permanent_memory("ada", session.opt_out) is (verdict is ALLOWED)
    of_previous_release = {"permanent_memory": False, "permanent_memory_chosen_ms": choice.chosen_ms}
    assert await world.verdict(bridge, session=Session("ada", "default", metadata=of_previous_release)) is DENIED


async def test_opt_out_that_only_a_session_holds_keeps_its_time_when_it_is_imported(world: World) -> None:
    bridge = await started(world.bridge())
    metadata = {"permanent_memory": False, "permanent_memory_chosen_ms": 1_000}
    assert await world.verdict(bridge, session=Session("ada", "default", metadata=metadata)) is DENIED
    assert (await bridge.replicas.stored([ADA]))[ADA].chosen_ms == 1_000


async def test_failover_that_lost_writes_is_not_trusted_without_the_database(world: World) -> None:
    bridge, other = [await started(world.bridge()) for _ in range(2)]
    replica = dict(world.redis)
    await opt_out(bridge, "cy")
    await world.verdict(bridge, "bo")
    world.database_goes_away()
    world.fail_over(replica)
    assert await world.verdict(bridge, "bo") is UNKNOWN
    await started(bridge)
    assert "complete" not in world.redis
    assert await world.verdict(other, "bo") is UNKNOWN
    world.database_comes_back()
    await started(bridge)
    assert await world.verdict(bridge, "bo") is ALLOWED
    assert await world.verdict(other, "cy") is DENIED


async def test_failover_hidden_by_later_writes_loses_no_opt_out(world: World) -> None:
    writer, reader = [await started(world.bridge()) for _ in range(2)]
    replica = dict(world.redis)
    await opt_out(writer)
    await reader.replicas.poll()
    world.fail_over(replica)
    await opt_out(writer, "cy")  # as many changes as before the failover
    world.database_goes_away()
    await started(reader)
    assert await world.verdict(reader) is DENIED
    world.database_comes_back()
    await started(reader)
    assert world.handed_out().entry is not None
    assert await world.verdict(reader) is DENIED


async def test_hand_outs_read_out_of_order_do_not_count_as_a_loss(world: World) -> None:
    bridge = await started(world.bridge())
    earlier = world.handed_out("bo")
    await opt_out(bridge)
    assert await world.verdict(bridge, "bo") is ALLOWED
    world.database_goes_away()
    assert await bridge.verdict("bo", earlier, None, first_ms=NOW_MS) is ALLOWED


async def test_hand_out_of_another_user_is_ignored(world: World) -> None:
    bridge = await started(world.bridge())
    await opt_out(bridge)
    assert await bridge.verdict("ada", world.handed_out("bo"), None, first_ms=NOW_MS) is DENIED
    assert await bridge.verdict("ada", None, None, first_ms=NOW_MS) is DENIED
    assert await bridge.verdict("bo", world.handed_out("ada"), None, first_ms=NOW_MS) is ALLOWED


async def test_unreadable_entry_counts_as_an_opt_out(world: World) -> None:
    bridge = await started(world.bridge())
    world.redis[ADA] = b"maybe"
    assert await world.verdict(bridge) is DENIED
    await started(bridge)
    assert await world.verdict(bridge) is DENIED
    await opt_in(bridge)
    assert await world.verdict(bridge) is ALLOWED


@pytest.mark.parametrize("field", ["generation", "changes"])
async def test_unreadable_replica_state_is_not_trusted(world: World, field: str) -> None:
    bridge = await started(world.bridge())
    await opt_out(bridge)
    world.redis[field] = b"\xff?"
    world.database_goes_away()
    assert await world.verdict(bridge, "bo") is (UNKNOWN if field == "changes" else ALLOWED)
    world.database_comes_back()
    await opt_out(bridge, "cy")
    await started(bridge)
    assert await world.verdict(bridge, "bo") is ALLOWED
    assert await world.verdict(bridge, "cy") is DENIED
    assert bridge.replicas.last_error is None


class TestOptingOut:
    async def test_kill_before_the_durable_write_leaves_the_opt_out_to_other_bridges(self, world: World) -> None:
        bridge, other = [await started(world.bridge()) for _ in range(2)]
        await world.shared.choose(Choice(ADA, False, 0))  # and the bridge is killed here
        assert await world.verdict(other) is DENIED
        await started(other)
        assert world.database.choices[ADA].permanent_memory is False
        del bridge

    async def test_database_outage_keeps_the_opt_out_on_the_host_until_a_restart_stores_it(self, world: World) -> None:
        file = InMemoryChoiceStore()
        bridge = await started(world.bridge(file))
        world.database_goes_away()
        await opt_out(bridge)
        world.redis.clear()
        restarted = world.bridge(file)
        assert await world.verdict(restarted) is DENIED
        world.database_comes_back()
        await started(restarted)
        assert world.database.choices[ADA].permanent_memory is False

    async def test_running_bridge_stores_the_opt_out_after_the_outage(self, world: World) -> None:
        bridge = await started(world.bridge())
        world.database_goes_away()
        await opt_out(bridge)
        world.database_comes_back()
        await bridge.replicas.poll()  # notices that the database is back
        assert bridge.replicas.needs_reconciliation
        await bridge.replicas.reconcile()
        assert world.database.choices[ADA].permanent_memory is False

    async def test_no_durable_store_raises_and_the_opt_out_still_applies(self, world: World) -> None:
        file = InMemoryChoiceStore()
        bridge = await started(world.bridge_without_database(file))
        file.broken = True
        with pytest.raises(PersistenceError):
            await opt_out(bridge)
        assert await world.verdict(bridge) is DENIED

    async def test_redis_outage_raises_and_the_opt_out_is_stored(self, world: World) -> None:
        bridge, other = [await started(world.bridge()) for _ in range(2)]
        world.shared.down = True
        with pytest.raises(ChoiceNotShared, match="opt-out is stored"):
            await opt_out(bridge)
        world.shared.down = False
        assert await world.verdict(bridge) is DENIED
        await other.replicas.poll()
        assert await world.verdict(other) is DENIED
        assert world.handed_out().entry is not None

    async def test_opt_out_overrides_an_opt_in_from_a_clock_ahead_of_redis(self, world: World) -> None:
        await world.database.merge([Choice(ADA, True, 2**50)])
        bridge = world.bridge()
        await opt_out(bridge)
        assert world.database.choices[ADA] == Choice(ADA, False, 2**50 + 1)
        await started(bridge)
        assert await world.verdict(bridge) is DENIED


class TestOptingIn:
    async def test_database_outage_changes_nothing(self, world: World) -> None:
        bridge = await started(world.bridge())
        await opt_out(bridge)
        world.database_goes_away()
        with pytest.raises(PersistenceError):
            await opt_in(bridge)
        assert await world.verdict(bridge) is DENIED
        world.database_comes_back()
        await started(bridge)
        assert await world.verdict(bridge) is DENIED

    async def test_redis_outage_changes_nothing(self, world: World) -> None:
        bridge = await started(world.bridge())
        await opt_out(bridge)
        world.shared.down = True
        with pytest.raises(ChoiceNotShared, match="nothing was changed"):
            await opt_in(bridge)
        world.shared.down = False
        await started(bridge)
        assert await world.verdict(bridge) is DENIED

    async def test_kill_before_the_redis_write_leaves_the_opt_in_to_other_bridges(self, world: Any) -> None:
        bridge, other = [await started(world.bridge()) for _ in range(2)]
        await opt_out(bridge)

        async def killed(_choices: list[Choice], **_how: bool) -> None:
            raise asyncio.CancelledError

        merge, world.shared.merge = world.shared.merge, killed
        with pytest.raises(asyncio.CancelledError):
            await opt_in(bridge)
        world.shared.merge = merge
        assert await world.verdict(other) is DENIED
        await other.replicas.poll()
        assert await world.verdict(other) is ALLOWED

    async def test_concurrent_writes_leave_every_replica_with_the_same_choice(self, world: World) -> None:
        file = InMemoryChoiceStore()
        bridge, other = await started(world.bridge(file)), await started(world.bridge())
        await asyncio.gather(*(ask(one) for one in (bridge, other) for ask in (opt_out, opt_in, opt_out)))
        await started(bridge)
        last = world.database.choices[ADA]
        assert file.choices[ADA] == last
        assert await world.verdict(bridge) is await world.verdict(other)
        assert (await world.verdict(bridge) is ALLOWED) == last.permanent_memory


class TestReplicas:
    async def test_database_restored_from_an_older_backup_receives_the_later_choices(self, world: World) -> None:
        bridge = await started(world.bridge())
        await opt_in(bridge)
        backup = dict(world.database.choices)
        await opt_out(bridge)
        world.database.choices = dict(backup)
        await started(world.bridge())
        assert world.database.choices[ADA].permanent_memory is False

    async def test_outdated_session_file_overrides_no_later_choice(self, world: World) -> None:
        old = InMemoryChoiceStore()
        await old.merge([Choice(ADA, False, 5), Choice(user_key("bo"), True, 5)])
        bridge = await started(world.bridge())
        await opt_in(bridge)
        await opt_out(bridge, "bo")
        await started(world.bridge(old))
        assert await world.verdict(bridge) is ALLOWED
        assert await world.verdict(bridge, "bo") is DENIED
        assert old.choices[ADA].permanent_memory is True

    async def test_many_choices_are_reconciled_in_batches(self, world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(replicas, "_CHOICES_PER_MERGE", 7)
        await world.database.merge([Choice(user_key(f"user-{n}"), n % 3 == 0, n + 1) for n in range(50)])
        await world.shared.merge([Choice(user_key(f"redis-{n}"), False, n + 1) for n in range(20)])
        bridge: Any = await started(world.bridge())
        assert len(world.database.choices) == len(bridge.replicas.local.choices) == 70
        assert await world.verdict(bridge, "user-49") is DENIED
        assert await world.verdict(bridge, "user-48") is ALLOWED

    async def test_loss_during_reconciliation_repeats_it(self, world: Any) -> None:
        await world.database.merge([Choice(user_key(f"user-{n}"), False, n + 1) for n in range(5)])
        losses, merge = iter([True, True]), world.shared.merge

        async def losing(choices: Any, **how: Any) -> Any:
            seen = await merge(choices, **how)
            if choices and next(losses, False):
                world.redis.clear()
            return seen

        world.shared.merge = losing
        bridge = await started(world.bridge())
        assert world.redis["complete"] == b"1"
        assert all([await world.verdict(bridge, f"user-{n}") is DENIED for n in range(5)])

    async def test_redis_that_keeps_losing_choices_is_never_marked_complete(self, world: Any) -> None:
        await world.database.merge([Choice(ADA, False, 1)])
        merge = world.shared.merge

        async def losing(choices: list[Any], **how: Any) -> Any:
            seen = await merge(choices, **how)
            world.redis.clear()
            return seen

        world.shared.merge = losing
        bridge = world.bridge()
        await bridge.replicas.reconcile()
        assert "complete" not in world.redis
        assert "keeps losing" in bridge.replicas.last_error
        assert await world.verdict(bridge) is DENIED

    async def test_upkeep_reconciles_at_start_and_after_a_turn_noticed_a_loss(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(replicas, "_POLL_SECONDS", 30.0)
        monkeypatch.setattr(replicas, "_PAUSE_SECONDS", 0.0)
        await world.database.merge([Choice(ADA, False, 1)])
        bridge = world.bridge()
        async with bridge.replicas.running(), asyncio.timeout(10):
            while "complete" not in world.redis:
                await asyncio.sleep(0.001)
            world.redis.clear()
            assert await world.verdict(bridge, "bo") is ALLOWED
            while "complete" not in world.redis:
                await asyncio.sleep(0.001)
        assert world.handed_out().entry is not None

    async def test_upkeep_notices_a_lost_replica_without_any_turn(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(replicas, "_POLL_SECONDS", 0.001)
        monkeypatch.setattr(replicas, "_PAUSE_SECONDS", 0.0)
        bridge = world.bridge()
        async with bridge.replicas.running(), asyncio.timeout(10):
            for _ in range(2):
                while "complete" not in world.redis:
                    await asyncio.sleep(0.001)
                world.redis.clear()

    async def test_upkeep_survives_a_redis_outage(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(replicas, "_POLL_SECONDS", 0.001)
        monkeypatch.setattr(replicas, "_PAUSE_SECONDS", 0.001)
        world.shared.down = True
        bridge = world.bridge()
        async with bridge.replicas.running(), asyncio.timeout(10):
            await asyncio.sleep(0.02)
            world.shared.down = False
            while "complete" not in world.redis:
                await asyncio.sleep(0.001)


class TestEarlierReleases:
    """Earlier releases keep an opt-out in session metadata only."""

    @staticmethod
    async def session(world: World, *, permanent_memory: bool, persona: str = "default") -> Session:
        reserved = await world.sessions.reserve("ada", persona)
        return await world.sessions.save(replace(reserved, metadata={"permanent_memory": permanent_memory}))

    async def test_opt_out_in_a_session_is_imported_at_start(self, world: World) -> None:
        session = await self.session(world, permanent_memory=False)
        bridge = await started(world.bridge())
        assert world.database.choices[ADA] == Choice(ADA, False, IMPORTED_MS)
        await world.sessions.delete(session.session_id, hard=True)
        assert await world.verdict(bridge) is DENIED

    async def test_opt_out_at_an_old_bridge_applies_and_outlives_its_session(self, world: World) -> None:
        bridge = await started(world.bridge())
        session = await self.session(world, permanent_memory=False)
        assert await world.verdict(bridge, session=session) is DENIED
        assert await world.verdict(bridge, session=None) is DENIED
        assert world.database.choices[ADA].permanent_memory is False

    async def test_opt_out_in_an_ended_session_does_not_undo_a_later_opt_in(self, world: World) -> None:
        ended = await self.session(world, permanent_memory=False)
        await world.sessions.delete(ended.session_id)
        bridge = await started(world.bridge())
        assert await world.verdict(bridge) is DENIED
        await opt_in(bridge)
        await started(bridge)
        assert await world.verdict(bridge) is ALLOWED

    async def test_opt_out_in_a_session_overrides_an_opt_in_not_mirrored_to_it(self, world: World) -> None:
        bridge = await started(world.bridge())
        await opt_in(bridge)
        session = await self.session(world, permanent_memory=False)
        assert await world.verdict(bridge, session=session) is DENIED

    async def test_unreadable_sessions_keep_redis_from_being_marked_complete(self, world: World) -> None:
        world.sessions.broken = True
        bridge = world.bridge()
        await bridge.replicas.reconcile()
        assert "complete" not in world.redis
        assert await world.verdict(bridge) is ALLOWED  # the database holds no opt-out


class TestPermanentMemory:
    async def test_permanent_memory_without_a_turn_is_answered_by_the_stores(self, world: World) -> None:
        bridge = world.bridge()
        assert await bridge.permanent_memory("ada")
        await opt_out(bridge)
        assert not await bridge.permanent_memory("ada")
        world.shared.down = True
        assert not await bridge.permanent_memory("ada")
        assert await bridge.permanent_memory("bo")

    async def test_permanent_memory_raises_when_no_store_can_answer(self, world: World) -> None:
        bridge = world.bridge()
        world.database_goes_away()
        world.shared.down = True
        with pytest.raises(ChoiceUnknown):
            await bridge.permanent_memory("ada")


@pytest.mark.parametrize("is_started", [True, False])
async def test_opt_out_of_another_host_is_kept_on_this_one_before_an_erasure_ends(
    world: World, is_started: bool
) -> None:
    receiver, other = world.bridge_without_database(), world.bridge_without_database()
    await started(receiver)
    if is_started:
        await started(other)
    await opt_out(receiver)
    await other.replicas.keep_others()
    world.redis.clear()  # and the host of the receiver is gone
    await started(other)
    assert await world.verdict(other) is DENIED


async def test_choices_that_could_not_be_kept_are_kept_at_the_next_try(world: World) -> None:
    file = InMemoryChoiceStore()
    other = await started(world.bridge_without_database(file))
    await opt_out(await started(world.bridge_without_database()))
    file.broken = True
    with pytest.raises(PersistenceError):
        await other.replicas.keep_others()
    file.broken = False
    await other.replicas.poll()
    assert (await file.find([ADA])).keys() == {ADA}
