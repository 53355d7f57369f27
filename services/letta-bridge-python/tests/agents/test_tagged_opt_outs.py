"""An opt-out that stands only in an agent's tags is honoured where a restored database names the agent."""

from __future__ import annotations

import asyncio
import errno
import itertools
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from redis.exceptions import ConnectionError as RedisAway

from letta_bridge.agents import opt_out_tags
from letta_bridge.agents.agent_spec import Owner, agent_spec, opt_out_tag
from letta_bridge.agents.opt_out_tags import TaggedOptOuts
from letta_bridge.agents.session_manager import SessionManager
from letta_bridge.errors import LettaUnavailable, OptedOut, TenantTaken
from letta_bridge.testing.letta import InMemoryLetta
from shared_utils.persistence.choices.port import IMPORTED_MS, Choice, user_key

if TYPE_CHECKING:
    from letta_bridge_tests.conftest import Rig

ADA, BO = user_key("ada"), user_key("bo")


class Restored:
    """A bridge with a database of last night, a new Redis, and the Letta of today, where Ada has opted out since."""

    def __init__(self, rig: Any) -> None:
        self.rig = rig
        self.readings = 0
        self.numbers = itertools.count()
        self.tags = TaggedOptOuts(rig.consent, rig.settings.tenant.name)
        rig.sessions = SessionManager(rig.store, rig.settings.agents, consent=rig.consent, opt_outs=self.tags)
        rig.delivery_context = replace(rig.delivery_context, sessions=rig.sessions)
        find = rig.letta.find_tagged_agents

        async def counted(beginning: str) -> Any:
            self.readings += 1
            return await find(beginning)

        rig.letta.find_tagged_agents = counted

    async def agent(self, user: str, *tags: str, tenant: str = "") -> Any:
        spec = agent_spec(self.rig.settings.agents, Owner(tenant, user, "default"), None)
        agent = await self.rig.letta.create_agent(replace(spec, tags=(*spec.tags, *tags)))
        session = await self.rig.store.reserve(user, "default")
        await self.rig.store.save(replace(session, agent_id=agent.agent_id))
        return agent.agent_id

    async def says(self, user: str) -> Any:
        """The reply's source, or why it came from memory-python."""
        task_id = f"t{next(self.numbers)}"
        self.rig.push(task_id, user)
        await self.rig.work_off()
        return dict(self.rig.fallback.answered).get(task_id) or self.rig.kept(user, task_id)["source"]

    def opt_out(self, user: str = "ada", chosen_ms: int = 17) -> str:
        return opt_out_tag(Choice(user_key(user), False, chosen_ms))

    def redis_loses_its_choices(self) -> None:
        self.rig.shelf.choices.clear()


@pytest.fixture
def restored(rig: Rig) -> Restored:
    return Restored(rig)


async def test_opt_out_in_the_tags_of_an_agent_that_a_session_names_is_honoured(restored: Restored) -> None:
    await restored.agent("ada", restored.opt_out())
    await restored.agent("bo")
    assert [await restored.says("ada") for _ in range(2)] == ["user_switch"] * 2
    assert restored.rig.letta.sent == []
    assert restored.rig.shelf.missed == {}
    assert restored.rig.shelf.journal == []
    assert await restored.says("bo") == "letta"
    assert restored.rig.choices.choices == {ADA: Choice(ADA, False, 17)}


async def test_tags_are_read_once_for_each_generation_of_the_replica_in_redis(restored: Restored) -> None:
    await restored.agent("ada", restored.opt_out())
    await restored.agent("bo")
    await restored.rig.consent.replicas.reconcile()
    assert [await restored.says("bo") for _ in range(3)] == ["letta"] * 3
    assert restored.readings == 1
    restored.redis_loses_its_choices()
    await restored.rig.consent.replicas.reconcile()
    assert [await restored.says("bo") for _ in range(3)] == ["letta"] * 3
    assert restored.readings == 2


async def test_database_and_redis_replaced_under_a_running_bridge_lose_no_opt_out(restored: Restored) -> None:
    await restored.agent("ada")
    await restored.agent("bo")
    await restored.rig.consent.replicas.reconcile()
    assert await restored.says("ada") == "letta"
    [agent] = await restored.rig.letta.find_agents(["user:ada"])
    await restored.rig.letta.retag(agent.agent_id, add=[restored.opt_out()])
    restored.redis_loses_its_choices()
    assert await restored.says("ada") == "user_switch"


async def test_later_opt_in_beats_the_tag(restored: Restored) -> None:
    await restored.agent("ada", restored.opt_out())
    await restored.rig.consent.choose("ada", permanent_memory=True)
    assert [await restored.says("ada") for _ in range(2)] == ["letta"] * 2


async def test_tags_that_cannot_be_read_keep_the_turn_from_the_agent(restored: Restored) -> None:
    agent = await restored.agent("bo")
    restored.rig.letta.down = True
    assert await restored.says("bo") == "breaker_open"
    with pytest.raises(LettaUnavailable):
        await restored.tags.require("bo", restored.rig.letta)
    restored.rig.letta_comes_back()
    assert await restored.says("bo") == "letta"
    assert {agent_id for agent_id, _ in restored.rig.letta.sent} == {agent}


async def test_turns_that_wait_for_the_reading_are_all_refused(restored: Restored) -> None:
    await restored.agent("ada", restored.opt_out())
    await restored.rig.consent.replicas.reconcile()
    waiting = [restored.tags.require("ada", restored.rig.letta) for _ in range(5)]
    ended = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(end) for end in ended] == [OptedOut] * 5
    assert restored.readings == 1


async def test_tags_of_other_tenants_and_of_half_restored_agents_are_ignored(restored: Restored) -> None:
    await restored.agent("ada", restored.opt_out(), tenant="shop")
    spec = agent_spec(restored.rig.settings.agents, Owner("", "ada", "default"), None)
    await restored.rig.letta.create_agent(replace(spec, tags=("bridge", restored.opt_out())))
    await restored.agent("ada")
    assert await restored.says("ada") == "letta"


async def test_latest_of_several_agents_counts_and_an_unreadable_time_is_the_earliest(restored: Restored) -> None:
    await restored.agent("ada", restored.opt_out(chosen_ms=5))
    await restored.agent("ada", restored.opt_out(chosen_ms=9), "memory-opt-out:" + "9" * 30)
    await restored.agent("bo", "memory-opt-out:soon")
    assert await restored.says("bo") == "user_switch"
    stored = restored.rig.choices.choices
    assert (stored[ADA].chosen_ms, stored[BO].chosen_ms) == (9, IMPORTED_MS)


async def test_opt_outs_are_kept_on_this_host_and_in_redis_while_the_database_is_unavailable(
    restored: Restored,
) -> None:
    await restored.agent("ada", restored.opt_out())
    await restored.rig.consent.replicas.reconcile()
    restored.rig.choices.broken = True
    assert await restored.says("ada") == "user_switch"
    restored.rig.choices.broken = False
    await restored.rig.consent.replicas.poll()
    assert restored.rig.consent.replicas.needs_reconciliation
    await restored.rig.consent.replicas.reconcile()
    assert restored.rig.choices.choices == {ADA: Choice(ADA, False, 17)}


async def test_tags_are_read_in_the_background_and_not_while_another_queue_holds_the_tenant(
    restored: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opt_out_tags, "_TAG_POLL_SECONDS", 0.001)
    await restored.agent("ada", restored.opt_out())
    looked, free = asyncio.Event(), asyncio.Event()

    async def allowed(_letta: InMemoryLetta) -> None:
        looked.set()
        if not free.is_set():
            raise TenantTaken

    await restored.rig.consent.replicas.reconcile()
    async with restored.tags.running(lambda: restored.rig.letta, allowed), asyncio.timeout(10):
        await looked.wait()
        looked.clear()
        await looked.wait()
        assert restored.rig.choices.choices == {}
        free.set()
        while ADA not in restored.rig.choices.choices:
            await asyncio.sleep(0.001)
    assert not await restored.rig.consent.permanent_memory("ada")


async def test_tags_are_read_in_the_background_after_a_lack_of_descriptors(
    restored: Restored, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opt_out_tags, "_TAG_POLL_SECONDS", 0.001)
    await restored.agent("ada", restored.opt_out())
    await restored.rig.consent.replicas.reconcile()
    take_over, failures = restored.rig.consent.replicas.take_over, iter([OSError(errno.EMFILE, "Too many open files")])

    async def impossible_at_first(choices: list[Choice]) -> Any:
        if (error := next(failures, None)) is not None:
            raise error
        return await take_over(choices)

    monkeypatch.setattr(restored.rig.consent.replicas, "take_over", impossible_at_first)
    async with restored.tags.running(lambda: restored.rig.letta, opt_out_tags.always_allowed), asyncio.timeout(10):
        while ADA not in restored.rig.choices.choices:
            await asyncio.sleep(0.001)
    assert not await restored.rig.consent.permanent_memory("ada")


async def test_missed_turns_of_a_user_with_an_opt_out_in_tags_reach_no_agent(
    restored: Restored,
) -> None:
    rig, forgotten = restored.rig, []

    async def forget(user: str) -> None:
        forgotten.append(user)
        rig.shelf.missed.pop(user, None)

    restored.tags._forget_missed = forget
    await restored.agent("ada", restored.opt_out())
    await restored.agent("bo")
    rig.letta.down = True
    assert await restored.says("ada") != "user_switch"
    assert await restored.says("bo") != "letta"
    assert rig.shelf.missed.keys() == {"ada", "bo"}
    rig.letta_comes_back()
    assert await restored.says("ada") == "user_switch"
    assert set(forgotten) == {"ada"}
    assert rig.shelf.missed.keys() == {"bo"}


async def test_a_moment_without_redis_costs_no_turn_and_no_forgetting(restored: Restored) -> None:
    forgotten = []

    async def forget(user: str) -> None:
        forgotten.append(user)
        if len(forgotten) == 1:
            raise RedisAway

    restored.tags._forget_missed = forget
    await restored.agent("ada", restored.opt_out())
    assert await restored.says("ada") == "user_switch"
    assert forgotten[:2] == ["ada", "ada"]
    assert restored.rig.shelf.dead == []


async def test_interrupted_reading_still_drops_missed_turns_of_opted_out_users(restored: Restored) -> None:
    rig = restored.rig
    begun = asyncio.Event()

    async def never_done(_user: str) -> None:
        begun.set()
        await asyncio.Event().wait()

    async def forget(user: str) -> None:
        rig.shelf.missed.pop(user, None)

    await restored.agent("ada", restored.opt_out())
    rig.letta.down = True
    assert await restored.says("ada") != "user_switch"
    assert rig.shelf.missed.keys() == {"ada"}
    rig.letta_comes_back()
    restored.tags._forget_missed = never_done
    reading = asyncio.create_task(restored.tags.require("bo", rig.letta))
    async with asyncio.timeout(10):
        await begun.wait()
    reading.cancel()  # the turn's time is up, or its bridge is killed
    await asyncio.wait([reading])
    await rig.consent.replicas.reconcile()
    restored.tags = TaggedOptOuts(rig.consent, rig.settings.tenant.name, forget)
    with pytest.raises(OptedOut):
        await restored.tags.require("ada", rig.letta)
    assert rig.shelf.missed == {}


async def test_missed_turns_of_a_user_with_a_known_opt_out_are_kept(restored: Restored) -> None:
    forgotten = []

    async def forget(user: str) -> None:
        forgotten.append(user)

    restored.tags._forget_missed = forget
    await restored.agent("ada", restored.opt_out())
    await restored.agent("bo", restored.opt_out())
    await restored.rig.consent.merge(Choice(ADA, False, 17))
    await restored.rig.consent.choose("bo", permanent_memory=True)
    assert await restored.says("ada") == "user_switch"
    assert await restored.says("bo") == "letta"
    assert forgotten == []
