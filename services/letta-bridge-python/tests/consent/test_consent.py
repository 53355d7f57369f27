"""What holds for a user's turn, whatever becomes of Redis, the database, this host's file or the bridge in between."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import replace

import pytest

from letta_bridge.consent import ChoiceCopies, Consent, InMemorySharedChoices, Verdict, copies
from letta_bridge.consent.shared_choices import held_choice
from letta_bridge.errors import ChoiceNotShared, ChoiceUnknown
from shared_utils.persistence.choices import IMPORTED_MS, Choice, user_key
from shared_utils.persistence.errors import PersistenceError
from shared_utils.persistence.memory_choices import InMemoryChoiceStore
from shared_utils.persistence.memory_sessions import InMemorySessionStore
from shared_utils.persistence.sessions import Session, SessionStoreAway

ADA = user_key("ada")
GIVEN, REFUSED, UNKNOWN = Verdict.GIVEN, Verdict.REFUSED, Verdict.UNKNOWN


class World:
    """Bridges of one queue: one Redis, one database, a session file for each host."""

    def __init__(self):
        ticks = itertools.count(1_800_000_000)
        self.redis = {}
        self.shared = InMemorySharedChoices(self.redis, lambda: next(ticks))
        self.database = InMemoryChoiceStore()
        self.sessions = InMemorySessionStore()

    def bridge(self, file=None):
        """A bridge with a database, and a session file of its own unless one is given."""
        return Consent(ChoiceCopies(self.shared, self.database, file or InMemoryChoiceStore(), self.sessions))

    def bridge_without_database(self, file=None):
        return Consent(ChoiceCopies(self.shared, file or InMemoryChoiceStore(), None, self.sessions))

    def handed_out(self, user="ada"):
        return held_choice(self.redis, user)

    async def verdict(self, bridge, user="ada", session=None):
        return await bridge.verdict(user, self.handed_out(user), session)

    def database_goes_away(self):
        self.database.broken = self.sessions.broken = True

    def database_comes_back(self):
        self.database.broken = self.sessions.broken = False

    def fail_over(self, replica):
        """To a replica that is behind."""
        self.redis.clear()
        self.redis.update(replica)


@pytest.fixture
def world():
    return World()


async def started(bridge):
    await bridge.copies.sync()
    await bridge.copies.follow()
    return bridge


async def refuse(bridge, user="ada"):
    return await bridge.choose(user, permanent_memory=False)


async def permit(bridge, user="ada"):
    return await bridge.choose(user, permanent_memory=True)


async def test_whoever_has_chosen_nothing_is_remembered(world):
    bridge = world.bridge()
    assert await world.verdict(bridge) is GIVEN  # before the copies were compared: the database says so
    await started(bridge)
    assert await world.verdict(bridge) is GIVEN
    world.database_goes_away()
    assert await world.verdict(bridge) is GIVEN


async def test_a_refusal_counts_for_every_bridge_with_the_next_hand_out(world):
    bridges = [await started(world.bridge()) for _ in range(3)]
    await refuse(bridges[0])
    assert [await world.verdict(bridge) for bridge in bridges] == [REFUSED] * 3
    assert [await world.verdict(bridge, "bo") for bridge in bridges] == [GIVEN] * 3
    await permit(bridges[1])
    assert [await world.verdict(bridge) for bridge in bridges] == [GIVEN] * 3


async def test_a_new_bridge_that_starts_while_the_database_is_away_honours_refusals_and_remembers_the_others(world):
    await refuse(await started(world.bridge()))
    world.database_goes_away()
    new = world.bridge()
    for _ in range(2):
        assert await world.verdict(new) is REFUSED
        assert await world.verdict(new, "bo") is GIVEN
        await started(new)
    assert new.copies.trouble is not None


async def test_a_bridge_without_a_database_honours_what_another_one_was_told(world):
    one, other = [await started(world.bridge_without_database()) for _ in range(2)]
    await refuse(one)
    assert await world.verdict(other) is REFUSED
    assert await world.verdict(world.bridge_without_database()) is REFUSED


async def test_the_file_of_each_bridge_without_a_database_learns_what_the_others_were_told(world):
    one, other = [await started(world.bridge_without_database()) for _ in range(2)]
    await refuse(one)
    await world.verdict(other, "bo")  # a turn of anybody shows that something was written
    await other.copies.follow()
    world.redis.clear()
    assert await world.verdict(other) is REFUSED


@pytest.mark.parametrize("with_database", [True, False])
async def test_when_redis_lost_everything_the_durable_store_brings_it_back(world, with_database):
    file = InMemoryChoiceStore()
    bridge = await started(world.bridge() if with_database else world.bridge_without_database(file))
    await refuse(bridge)
    world.redis.clear()
    assert await world.verdict(bridge) is REFUSED
    restarted = world.bridge() if with_database else world.bridge_without_database(file)
    assert await world.verdict(restarted) is REFUSED
    assert await world.verdict(restarted, "bo") is GIVEN
    await started(restarted)
    assert world.redis["complete"] == b"1"
    assert world.handed_out().entry is not None
    assert await world.verdict(bridge, "bo") is GIVEN


async def test_when_redis_lost_everything_while_the_database_is_away_nobody_is_remembered(world):
    bridge = await started(world.bridge())
    await refuse(bridge)
    world.database_goes_away()
    world.redis.clear()
    for one in (bridge, world.bridge()):
        assert await world.verdict(one, "bo") is UNKNOWN
        await started(one)
        assert await world.verdict(one, "bo") is UNKNOWN
    assert await world.verdict(bridge) is REFUSED  # this host's file knows
    world.database_comes_back()
    await started(bridge)
    assert await world.verdict(bridge, "bo") is GIVEN
    assert await world.verdict(bridge) is REFUSED


async def test_an_eviction_that_takes_the_choices_takes_the_word_that_they_are_complete_too(world):
    await refuse(await started(world.bridge()))
    world.redis.clear()
    assert world.handed_out("bo").complete is None


async def test_a_refusal_forgotten_in_a_failover_still_counts(world):
    writer, reader = [await started(world.bridge()) for _ in range(2)]
    replica = dict(world.redis)
    await refuse(writer)
    await reader.copies.follow()
    await world.verdict(writer, "bo")
    world.fail_over(replica)
    assert await world.verdict(writer) is REFUSED
    assert await world.verdict(reader) is REFUSED  # it has followed the database
    assert await world.verdict(world.bridge()) is REFUSED  # it asks the database before it believes Redis
    await started(writer)
    assert world.handed_out().entry is not None
    assert world.redis["complete"] == b"1"


async def test_a_failover_that_forgot_writes_is_noticed_and_believed_by_nobody_while_the_database_is_away(world):
    bridge, other = [await started(world.bridge()) for _ in range(2)]
    replica = dict(world.redis)
    await refuse(bridge, "cy")
    await world.verdict(bridge, "bo")
    world.database_goes_away()
    world.fail_over(replica)
    assert await world.verdict(bridge, "bo") is UNKNOWN
    await started(bridge)
    assert "complete" not in world.redis
    assert await world.verdict(other, "bo") is UNKNOWN
    world.database_comes_back()
    await started(bridge)
    assert await world.verdict(bridge, "bo") is GIVEN
    assert await world.verdict(other, "cy") is REFUSED


async def test_hand_outs_read_in_the_wrong_order_are_no_loss(world):
    bridge = await started(world.bridge())
    earlier = world.handed_out("bo")
    await refuse(bridge)
    assert await world.verdict(bridge, "bo") is GIVEN
    world.database_goes_away()
    assert await bridge.verdict("bo", earlier, None) is GIVEN


async def test_a_hand_out_whose_user_redis_read_differently_is_not_used(world):
    bridge = await started(world.bridge())
    await refuse(bridge)
    assert await bridge.verdict("ada", world.handed_out("bo"), None) is REFUSED
    assert await bridge.verdict("ada", None, None) is REFUSED
    assert await bridge.verdict("bo", world.handed_out("ada"), None) is GIVEN


async def test_an_entry_nobody_can_read_refuses(world):
    bridge = await started(world.bridge())
    world.redis[ADA] = b"maybe"
    assert await world.verdict(bridge) is REFUSED
    await started(bridge)
    assert await world.verdict(bridge) is REFUSED
    await permit(bridge)
    assert await world.verdict(bridge) is GIVEN


@pytest.mark.parametrize("field", ["born", "changes"])
async def test_a_state_of_the_copy_nobody_can_read_is_no_word_for_it(world, field):
    bridge = await started(world.bridge())
    await refuse(bridge)
    world.redis[field] = b"\xff?"
    world.database_goes_away()
    assert await world.verdict(bridge, "bo") is (UNKNOWN if field == "changes" else GIVEN)
    world.database_comes_back()
    await refuse(bridge, "cy")
    await started(bridge)
    assert await world.verdict(bridge, "bo") is GIVEN
    assert await world.verdict(bridge, "cy") is REFUSED
    assert bridge.copies.trouble is None


class TestRefusing:
    async def test_killed_before_it_was_stored_it_counts_and_is_stored_by_others(self, world):
        bridge, other = [await started(world.bridge()) for _ in range(2)]
        await world.shared.choose(Choice(ADA, False, 0))  # and the bridge is killed here
        assert await world.verdict(other) is REFUSED
        await started(other)
        assert world.database.choices[ADA].permanent_memory is False
        del bridge

    async def test_while_the_database_is_away_it_is_kept_on_this_host_and_stored_later(self, world):
        file = InMemoryChoiceStore()
        bridge = await started(world.bridge(file))
        world.database_goes_away()
        await refuse(bridge)
        world.redis.clear()
        restarted = world.bridge(file)
        assert await world.verdict(restarted) is REFUSED
        world.database_comes_back()
        await started(restarted)
        assert world.database.choices[ADA].permanent_memory is False

    async def test_after_an_outage_the_running_bridge_stores_it_without_being_asked(self, world):
        bridge = await started(world.bridge())
        world.database_goes_away()
        await refuse(bridge)
        world.database_comes_back()
        await bridge.copies.follow()  # notices that the database is back
        assert bridge.copies.needs_sync
        await bridge.copies.sync()
        assert world.database.choices[ADA].permanent_memory is False

    async def test_where_it_can_be_stored_nowhere_the_caller_is_told_and_it_counts(self, world):
        file = InMemoryChoiceStore()
        bridge = await started(world.bridge_without_database(file))
        file.broken = True
        with pytest.raises(PersistenceError):
            await refuse(bridge)
        assert await world.verdict(bridge) is REFUSED

    async def test_while_redis_is_away_it_is_stored_and_the_caller_is_told(self, world):
        bridge, other = [await started(world.bridge()) for _ in range(2)]
        world.shared.down = True
        with pytest.raises(ChoiceNotShared, match="written down"):
            await refuse(bridge)
        world.shared.down = False
        assert await world.verdict(bridge) is REFUSED
        await other.copies.follow()
        assert await world.verdict(other) is REFUSED
        assert world.handed_out().entry is not None

    async def test_it_is_later_than_a_permission_whose_time_lies_ahead_of_redis(self, world):
        await world.database.merge([Choice(ADA, True, 2**50)])
        bridge = world.bridge()
        await refuse(bridge)
        assert world.database.choices[ADA] == Choice(ADA, False, 2**50 + 1)
        await started(bridge)
        assert await world.verdict(bridge) is REFUSED


class TestPermitting:
    async def test_while_the_database_is_away_nothing_is_changed(self, world):
        bridge = await started(world.bridge())
        await refuse(bridge)
        world.database_goes_away()
        with pytest.raises(PersistenceError):
            await permit(bridge)
        assert await world.verdict(bridge) is REFUSED
        world.database_comes_back()
        await started(bridge)
        assert await world.verdict(bridge) is REFUSED

    async def test_while_redis_is_away_nothing_is_changed(self, world):
        bridge = await started(world.bridge())
        await refuse(bridge)
        world.shared.down = True
        with pytest.raises(ChoiceNotShared, match="nothing was changed"):
            await permit(bridge)
        world.shared.down = False
        await started(bridge)
        assert await world.verdict(bridge) is REFUSED

    async def test_killed_before_redis_knows_it_others_bring_it_there(self, world):
        bridge, other = [await started(world.bridge()) for _ in range(2)]
        await refuse(bridge)

        async def killed(_choices, **_how):
            raise asyncio.CancelledError

        learn, world.shared.learn = world.shared.learn, killed
        with pytest.raises(asyncio.CancelledError):
            await permit(bridge)
        world.shared.learn = learn
        assert await world.verdict(other) is REFUSED
        await other.copies.follow()
        assert await world.verdict(other) is GIVEN

    async def test_two_at_once_leave_every_copy_with_the_same_choice(self, world):
        file = InMemoryChoiceStore()
        bridge, other = await started(world.bridge(file)), await started(world.bridge())
        await asyncio.gather(*(ask(one) for one in (bridge, other) for ask in (refuse, permit, refuse)))
        await started(bridge)
        last = world.database.choices[ADA]
        assert file.choices[ADA] == last
        assert await world.verdict(bridge) is await world.verdict(other)
        assert (await world.verdict(bridge) is GIVEN) == last.permanent_memory


class TestCopies:
    async def test_a_database_restored_from_an_older_backup_learns_the_later_choices(self, world):
        bridge = await started(world.bridge())
        await permit(bridge)
        backup = dict(world.database.choices)
        await refuse(bridge)
        world.database.choices = dict(backup)
        await started(world.bridge())
        assert world.database.choices[ADA].permanent_memory is False

    async def test_the_file_of_another_time_overrides_nothing(self, world):
        old = InMemoryChoiceStore()
        await old.merge([Choice(ADA, False, 5), Choice(user_key("bo"), True, 5)])
        bridge = await started(world.bridge())
        await permit(bridge)
        await refuse(bridge, "bo")
        await started(world.bridge(old))
        assert await world.verdict(bridge) is GIVEN
        assert await world.verdict(bridge, "bo") is REFUSED
        assert old.choices[ADA].permanent_memory is True

    async def test_many_choices_are_loaded_page_by_page(self, world, monkeypatch):
        monkeypatch.setattr(copies, "_BATCH", 7)
        await world.database.merge([Choice(user_key(f"user-{n}"), n % 3 == 0, n + 1) for n in range(50)])
        await world.shared.learn([Choice(user_key(f"redis-{n}"), False, n + 1) for n in range(20)])
        bridge = await started(world.bridge())
        assert len(world.database.choices) == len(bridge.copies.local.choices) == 70
        assert await world.verdict(bridge, "user-49") is REFUSED
        assert await world.verdict(bridge, "user-48") is GIVEN

    async def test_what_redis_loses_while_it_is_loaded_is_loaded_again(self, world):
        await world.database.merge([Choice(user_key(f"user-{n}"), False, n + 1) for n in range(5)])
        losses, learn = iter([True, True]), world.shared.learn

        async def losing(choices, **how):
            seen = await learn(choices, **how)
            if choices and next(losses, False):
                world.redis.clear()
            return seen

        world.shared.learn = losing
        bridge = await started(world.bridge())
        assert world.redis["complete"] == b"1"
        assert all([await world.verdict(bridge, f"user-{n}") is REFUSED for n in range(5)])

    async def test_a_redis_that_keeps_losing_them_is_vouched_for_by_nobody(self, world):
        await world.database.merge([Choice(ADA, False, 1)])
        learn = world.shared.learn

        async def losing(choices, **how):
            seen = await learn(choices, **how)
            world.redis.clear()
            return seen

        world.shared.learn = losing
        bridge = world.bridge()
        await bridge.copies.sync()
        assert "complete" not in world.redis
        assert "keeps losing" in bridge.copies.trouble
        assert await world.verdict(bridge) is REFUSED

    async def test_upkeep_compares_the_copies_at_its_start_and_when_a_turn_calls_for_it(self, world, monkeypatch):
        monkeypatch.setattr(copies, "_POLL_SECONDS", 30.0)
        monkeypatch.setattr(copies, "_PAUSE_SECONDS", 0.0)
        await world.database.merge([Choice(ADA, False, 1)])
        bridge = world.bridge()
        async with bridge.copies.running(), asyncio.timeout(10):
            while "complete" not in world.redis:
                await asyncio.sleep(0.001)
            world.redis.clear()
            assert await world.verdict(bridge, "bo") is GIVEN
            while "complete" not in world.redis:
                await asyncio.sleep(0.001)
        assert world.handed_out().entry is not None

    async def test_upkeep_notices_a_lost_copy_without_any_turn(self, world, monkeypatch):
        monkeypatch.setattr(copies, "_POLL_SECONDS", 0.001)
        monkeypatch.setattr(copies, "_PAUSE_SECONDS", 0.0)
        bridge = world.bridge()
        async with bridge.copies.running(), asyncio.timeout(10):
            for _ in range(2):
                while "complete" not in world.redis:
                    await asyncio.sleep(0.001)
                world.redis.clear()

    async def test_upkeep_outlives_an_absence_of_redis(self, world, monkeypatch):
        monkeypatch.setattr(copies, "_POLL_SECONDS", 0.001)
        monkeypatch.setattr(copies, "_PAUSE_SECONDS", 0.001)
        world.shared.down = True
        bridge = world.bridge()
        async with bridge.copies.running(), asyncio.timeout(10):
            await asyncio.sleep(0.02)
            world.shared.down = False
            while "complete" not in world.redis:
                await asyncio.sleep(0.001)


class TestEarlierReleases:
    """They keep a refusal in the metadata of sessions alone."""

    @staticmethod
    async def session(world, *, permanent_memory, persona="default"):
        reserved = await world.sessions.reserve("ada", persona)
        return await world.sessions.save(replace(reserved, metadata={"permanent_memory": permanent_memory}))

    async def test_a_refusal_in_a_session_becomes_a_choice_at_the_start(self, world):
        session = await self.session(world, permanent_memory=False)
        bridge = await started(world.bridge())
        assert world.database.choices[ADA] == Choice(ADA, False, IMPORTED_MS)
        await world.sessions.delete(session.session_id, hard=True)
        assert await world.verdict(bridge) is REFUSED

    async def test_a_refusal_made_at_an_old_bridge_later_counts_and_outlives_its_session(self, world):
        bridge = await started(world.bridge())
        session = await self.session(world, permanent_memory=False)
        assert await world.verdict(bridge, session=session) is REFUSED
        assert await world.verdict(bridge, session=None) is REFUSED
        assert world.database.choices[ADA].permanent_memory is False

    async def test_a_refusal_in_an_ended_session_does_not_undo_a_later_permission(self, world):
        ended = await self.session(world, permanent_memory=False)
        await world.sessions.delete(ended.session_id)
        bridge = await started(world.bridge())
        assert await world.verdict(bridge) is REFUSED
        await permit(bridge)
        await started(bridge)
        assert await world.verdict(bridge) is GIVEN

    async def test_a_session_that_refuses_wins_over_a_permission_it_was_not_told_of(self, world):
        bridge = await started(world.bridge())
        await permit(bridge)
        session = await self.session(world, permanent_memory=False)
        assert await world.verdict(bridge, session=session) is REFUSED

    async def test_while_sessions_cannot_be_read_redis_is_not_declared_complete(self, world):
        world.sessions.broken = True
        bridge = world.bridge()
        await bridge.copies.sync()
        assert "complete" not in world.redis
        assert await world.verdict(bridge) is GIVEN  # the database knows nothing against it


class TestAsking:
    async def test_the_stores_answer_whoever_asks_without_a_turn(self, world):
        bridge = world.bridge()
        assert await bridge.permanent_memory("ada")
        await refuse(bridge)
        assert not await bridge.permanent_memory("ada")
        world.shared.down = True
        assert not await bridge.permanent_memory("ada")
        assert await bridge.permanent_memory("bo")

    async def test_where_nobody_can_tell_that_is_said(self, world):
        bridge = world.bridge()
        world.database_goes_away()
        world.shared.down = True
        with pytest.raises(ChoiceUnknown):
            await bridge.permanent_memory("ada")

    async def test_a_session_away_is_no_consent(self, world):
        world.sessions.broken = True
        with pytest.raises(SessionStoreAway):
            await world.sessions.find("ada", "default")
        assert Session("ada", "default").permanent_memory
