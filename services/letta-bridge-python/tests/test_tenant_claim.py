"""One queue serves a tenant on one Letta, whatever begins, dies or comes back at the same time."""

from __future__ import annotations

import asyncio
import uuid

import pytest

from letta_bridge import tenant_claim
from letta_bridge.errors import BreakerOpen, LettaUnavailable, TenantTaken
from letta_bridge.letta import InMemoryLetta
from letta_bridge.request_queue.identity import QueueIdentity
from letta_bridge.request_queue.keys import Keys
from letta_bridge.session_manager import SessionManager
from letta_bridge.settings import AgentSettings
from letta_bridge.tenant_claim import ClaimState, TenantClaim
from shared_utils.persistence.memory_sessions import InMemorySessionStore
from shared_utils.redis_connection import connect
from shared_utils.settings import RedisSettings

HELD, TAKEN, UNKNOWN = ClaimState.HELD, ClaimState.TAKEN, ClaimState.UNKNOWN


@pytest.fixture
def letta():
    return InMemoryLetta()


def claim(queue, tenant="", identity=None):
    async def known():
        return identity or f"id of {queue}"

    return TenantClaim(tenant, queue, known)


async def looks(one, letta, times=1):
    for _ in range(times):
        await one.look(letta)
    return one.state


async def test_the_first_queue_holds_the_tenant_and_keeps_it(letta):
    first = claim("first")
    assert first.state is UNKNOWN
    await first.require(letta)
    assert await looks(first, letta, 10) is HELD
    assert len(await letta.notes("letta-bridge")) == 1


async def test_bridges_of_one_queue_hold_it_together(letta):
    bridges = [claim("first") for _ in range(3)]
    for _ in range(10):
        assert [await looks(one, letta) for one in bridges] == [HELD] * 3
    assert len(await letta.notes("letta-bridge")) == 1


async def test_a_second_queue_of_the_same_tenant_gets_no_agents_and_says_what_to_do(letta):
    first, second = claim("first"), claim("second")
    await looks(first, letta)
    with pytest.raises(TenantTaken, match=r"queue 'first' serves the tenant ''.*TENANT.*TENANT_SHARDS"):
        await second.require(letta)
    for _ in range(20):
        assert (await looks(first, letta), await looks(second, letta)) == (HELD, TAKEN)
    assert "first" in second.trouble
    assert first.trouble is None


async def test_the_same_queue_name_in_two_redises_is_two_queues(letta):
    first, second = claim("letta_requests", identity="a"), claim("letta_requests", identity="b")
    assert (await looks(first, letta), await looks(second, letta)) == (HELD, TAKEN)


async def test_queues_of_two_tenants_do_not_mind_each_other(letta):
    claims = [claim("first"), claim("second", "shop"), claim("third", "shop_2")]
    assert [await looks(one, letta) for one in claims] == [HELD] * 3


async def test_a_queue_that_is_gone_is_succeeded_once_its_note_stays_the_same(letta):
    gone, successor = claim("gone"), claim("successor")
    await looks(gone, letta)
    assert await looks(successor, letta, tenant_claim._SILENT_LOOKS) is TAKEN
    assert await looks(successor, letta) is HELD
    assert await looks(gone, letta) is TAKEN  # it comes back


async def test_an_outage_of_letta_is_no_silence(letta):
    first, second = claim("first"), claim("second")
    await looks(first, letta)
    for _ in range(5 * tenant_claim._SILENT_LOOKS):
        await looks(second, letta)
        letta.down = True
        for one in (first, second):
            with pytest.raises(LettaUnavailable):
                await one.look(letta)
        letta.down = False
        assert await looks(first, letta) is HELD
    assert second.state is TAKEN


async def test_of_two_that_begin_at_once_exactly_one_holds_it(letta):
    for _ in range(30):
        letta = InMemoryLetta()
        claims = [claim("a"), claim("b")]
        await asyncio.gather(*(one.look(letta) for one in claims))
        for _ in range(2):
            for one in claims:
                await one.look(letta)
        assert {one.state for one in claims} == {HELD, TAKEN}
        assert len(await letta.notes("letta-bridge")) == 1


async def test_several_notes_of_one_queue_become_one(letta):
    bridges = [claim("first") for _ in range(3)]
    await asyncio.gather(*(one.look(letta) for one in bridges))
    await looks(bridges[0], letta)
    assert len(await letta.notes("letta-bridge")) == 1
    assert [await looks(one, letta) for one in bridges] == [HELD] * 3


@pytest.mark.parametrize("value", ["", "nonsense", "[]", '{"id": 5}'])
async def test_a_note_nobody_can_read_is_another_queues_until_it_stays_the_same(letta, value):
    await letta.write_note("letta-bridge", value)
    first = claim("first")
    assert await looks(first, letta, tenant_claim._SILENT_LOOKS) is TAKEN
    assert await looks(first, letta) is HELD


async def test_without_letta_nothing_is_known_and_nobody_gets_an_agent(letta):
    letta.down = True
    first = claim("first")
    with pytest.raises(LettaUnavailable):
        await first.require(letta)
    assert first.state is UNKNOWN


async def test_no_user_gets_an_agent_while_the_tenant_is_another_queues(letta):
    first, second = claim("first"), claim("second")
    await looks(first, letta)
    manager = SessionManager(InMemorySessionStore(), AgentSettings(), claim_on_tenant=second)
    with pytest.raises(TenantTaken):
        await manager.agent_for("ada", "default", None, letta)
    assert await letta.find_agents(["user:ada"]) == []


async def test_the_claim_is_kept_in_the_background_whatever_fails(letta, monkeypatch):
    monkeypatch.setattr(tenant_claim, "_BEAT_SECONDS", 0.001)
    first = claim("first")
    servers = iter([BreakerOpen(), LettaUnavailable()])

    def server():
        if (error := next(servers, None)) is not None:
            raise error
        return letta

    async with first.running(server), asyncio.timeout(10):
        while first.state is not HELD:
            await asyncio.sleep(0.001)
        [before] = await letta.notes("letta-bridge")
        while (await letta.notes("letta-bridge"))[0] == before:
            await asyncio.sleep(0.001)


async def test_turns_of_a_second_queue_are_answered_by_memory_python_and_told_when_it_is_mended(make_rig):
    rig = make_rig()
    await looks(claim("first"), rig.letta)
    rig.sessions._claim_on_tenant = claim("second")
    rig.push("t1", content="one")
    await rig.work_off()
    assert rig.fallback.answered == [("t1", "tenant_taken")]
    rig.sessions._claim_on_tenant = claim("second", "shop")
    rig.push("t2", content="two")
    await rig.work_off()
    assert await rig.said_to_agents() == {"ada": ["one", "two"]}


@pytest.mark.integration
async def test_a_queue_has_one_id_that_outlives_a_loss_of_redis_while_a_bridge_knows_it(redis_url):
    client = connect(RedisSettings(url=redis_url), name="test")
    keys = Keys(f"q-{uuid.uuid4().hex[:8]}")
    one, other = QueueIdentity(client, keys), QueueIdentity(client, keys)
    identity = await one()
    assert await other() == identity
    assert await QueueIdentity(client, Keys("another"))() != identity
    await client.delete(keys.identity)
    assert await other() == identity
    assert await QueueIdentity(client, keys)() == identity
    await client.aclose()
