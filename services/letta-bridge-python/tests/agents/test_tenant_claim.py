"""At most one queue holds a tenant on one Letta, whichever bridges start, die or return at the same time."""

from __future__ import annotations

import asyncio
import errno
import uuid
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

import pytest

from letta_bridge.agents import tenant_claim
from letta_bridge.agents.session_manager import SessionManager
from letta_bridge.agents.tenant_claim import ClaimState, TenantClaim
from letta_bridge.errors import BreakerOpen, LettaUnavailable, TenantTaken
from letta_bridge.request_queue.identity import QueueIdentity
from letta_bridge.request_queue.keys import Keys
from letta_bridge.request_queue.served_letta import ServedLetta
from letta_bridge.settings import AgentSettings
from letta_bridge.testing.letta import InMemoryLetta
from shared_utils.config.settings import RedisSettings
from shared_utils.persistence.sessions.memory_store import InMemorySessionStore
from shared_utils.redis.connection import connect

if TYPE_CHECKING:
    from letta_bridge_tests.conftest import Rig

HELD, TAKEN, UNKNOWN = ClaimState.HELD, ClaimState.TAKEN, ClaimState.UNKNOWN


@pytest.fixture
def letta() -> InMemoryLetta:
    return InMemoryLetta()


def claim(queue: str, tenant: str = "", identity: str | None = None) -> tenant_claim.TenantClaim:
    async def queue_id() -> str:
        return identity or f"id of {queue}"

    return TenantClaim(tenant, queue, queue_id)


async def beat(one: tenant_claim.TenantClaim, letta: InMemoryLetta, times: int = 1) -> tenant_claim.ClaimState:
    for _ in range(times):
        await one.beat(letta)
    return one.state


async def test_first_queue_holds_the_tenant_and_keeps_it(letta: InMemoryLetta) -> None:
    first = claim("first")
    assert first.state is UNKNOWN
    await first.require(letta)
    assert await beat(first, letta, 10) is HELD
    assert len(await letta.notes("letta-bridge")) == 1


async def test_bridges_of_one_queue_share_the_claim(letta: InMemoryLetta) -> None:
    bridges = [claim("first") for _ in range(3)]
    for _ in range(10):
        assert [await beat(one, letta) for one in bridges] == [HELD] * 3
    assert len(await letta.notes("letta-bridge")) == 1


async def test_second_queue_of_a_tenant_is_refused_with_advice(letta: InMemoryLetta) -> None:
    first, second = claim("first"), claim("second")
    await beat(first, letta)
    with pytest.raises(TenantTaken, match=r"queue 'first' serves the tenant ''.*TENANT.*TENANT_SHARDS"):
        await second.require(letta)
    for _ in range(20):
        assert (await beat(first, letta), await beat(second, letta)) == (HELD, TAKEN)
    assert second.last_error is not None
    assert "first" in second.last_error
    assert first.last_error is None


async def test_one_queue_name_in_two_redises_counts_as_two_queues(letta: InMemoryLetta) -> None:
    first, second = claim("letta_requests", identity="a"), claim("letta_requests", identity="b")
    assert (await beat(first, letta), await beat(second, letta)) == (HELD, TAKEN)


async def test_queues_of_different_tenants_hold_separate_claims(letta: InMemoryLetta) -> None:
    claims = [claim("first"), claim("second", "shop"), claim("third", "shop_2")]
    assert [await beat(one, letta) for one in claims] == [HELD] * 3


async def test_claim_passes_on_after_missed_heartbeats(letta: InMemoryLetta) -> None:
    gone, successor = claim("gone"), claim("successor")
    await beat(gone, letta)
    assert await beat(successor, letta, tenant_claim._MISSED_HEARTBEATS) is TAKEN
    assert await beat(successor, letta) is HELD
    assert await beat(gone, letta) is TAKEN  # the previous holder returns


async def test_letta_outage_does_not_count_as_missed_heartbeats(letta: InMemoryLetta) -> None:
    first, second = claim("first"), claim("second")
    await beat(first, letta)
    for _ in range(5 * tenant_claim._MISSED_HEARTBEATS):
        await beat(second, letta)
        letta.down = True
        for one in (first, second):
            with pytest.raises(LettaUnavailable):
                await one.beat(letta)
        letta.down = False
        assert await beat(first, letta) is HELD
    assert second.state is TAKEN


async def test_two_queues_starting_at_once_leave_one_holder(letta: InMemoryLetta) -> None:
    for _ in range(30):
        letta = InMemoryLetta()
        claims = [claim("a"), claim("b")]
        await asyncio.gather(*(one.beat(letta) for one in claims))
        for _ in range(2):
            for one in claims:
                await one.beat(letta)
        assert {one.state for one in claims} == {HELD, TAKEN}
        assert len(await letta.notes("letta-bridge")) == 1


async def test_notes_of_one_queue_are_merged_into_one(letta: InMemoryLetta) -> None:
    bridges = [claim("first") for _ in range(3)]
    await asyncio.gather(*(one.beat(letta) for one in bridges))
    await beat(bridges[0], letta)
    assert len(await letta.notes("letta-bridge")) == 1
    assert [await beat(one, letta) for one in bridges] == [HELD] * 3


@pytest.mark.parametrize("value", ["", "nonsense", "[]", '{"id": 5}'])
async def test_unreadable_note_blocks_the_claim_until_heartbeats_are_missed(letta: InMemoryLetta, value: str) -> None:
    await letta.write_note("letta-bridge", value)
    first = claim("first")
    assert await beat(first, letta, tenant_claim._MISSED_HEARTBEATS) is TAKEN
    assert await beat(first, letta) is HELD


async def test_unavailable_letta_leaves_the_claim_unknown(letta: InMemoryLetta) -> None:
    letta.down = True
    first = claim("first")
    with pytest.raises(LettaUnavailable):
        await first.require(letta)
    assert first.state is UNKNOWN


async def test_no_agent_is_created_while_another_queue_holds_the_tenant(letta: InMemoryLetta) -> None:
    first, second = claim("first"), claim("second")
    await beat(first, letta)
    manager = SessionManager(InMemorySessionStore(), AgentSettings(), claim_on_tenant=second)
    with pytest.raises(TenantTaken):
        await manager.agent_for("ada", "default", None, letta)
    assert await letta.find_agents(["user:ada"]) == []


async def test_background_heartbeat_survives_failures(letta: InMemoryLetta, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tenant_claim, "HEARTBEAT_SECONDS", 0.001)
    first = claim("first")
    servers = iter([BreakerOpen(), LettaUnavailable()])

    def server() -> InMemoryLetta:
        if (error := next(servers, None)) is not None:
            raise error
        return letta

    async with first.running(server), asyncio.timeout(10):
        while first.state is not HELD:
            await asyncio.sleep(0.001)
        [before] = await letta.notes("letta-bridge")
        while (await letta.notes("letta-bridge"))[0] == before:
            await asyncio.sleep(0.001)


async def test_background_heartbeat_survives_a_host_without_descriptors(
    letta: InMemoryLetta, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tenant_claim, "HEARTBEAT_SECONDS", 0.001)
    one = claim("first")
    identity, failures = one._identity, iter([OSError(errno.EMFILE, "Too many open files")] * 3)

    async def unavailable_at_first() -> str:
        if (error := next(failures, None)) is not None:
            raise error
        return await identity()

    monkeypatch.setattr(one, "_identity", unavailable_at_first)
    async with one.running(lambda: letta), asyncio.timeout(10):
        while one.state is not HELD:
            await asyncio.sleep(0.001)


async def test_turns_of_a_refused_queue_are_answered_by_the_fallback_and_caught_up_later(
    make_rig: Callable[..., Rig],
) -> None:
    rig = make_rig()
    await beat(claim("first"), rig.letta)
    rig.sessions._claim_on_tenant = claim("second")
    rig.push("t1", content="one")
    await rig.work_off()
    assert rig.fallback.answered == [("t1", "tenant_taken")]
    rig.sessions._claim_on_tenant = claim("second", "shop")
    rig.push("t2", content="two")
    await rig.work_off()
    assert await rig.said_to_agents() == {"ada": ["one", "two"]}


@pytest.fixture
async def served(redis_url: str) -> AsyncIterator[Callable[..., Any]]:
    """Makes a bridge's claim for one queue, in a real Redis."""
    client = connect(RedisSettings(url=redis_url), name="test")
    keys = Keys(f"q-{uuid.uuid4().hex[:8]}")

    def make() -> tenant_claim.TenantClaim:
        one = claim(keys.requests, identity="the queue's")
        one._served = ServedLetta(client, keys, f"bridge-{uuid.uuid4().hex[:4]}")
        return one

    make.client, make.keys = client, keys  # type: ignore[attr-defined]  # where the tests find them
    yield make
    await client.aclose()


@pytest.mark.integration
async def test_second_letta_of_one_queue_is_refused_and_takes_nothing(served: Any, letta: Any) -> None:
    first, second, other_letta = served(), served(), InMemoryLetta()
    for _ in range(3):
        assert (await beat(first, letta), await beat(second, other_letta)) == (HELD, ClaimState.OTHER_LETTA)
    assert (first.may_take, second.may_take) == (True, False)
    with pytest.raises(TenantTaken, match=r"another Letta.*LETTA_API_URL.*REDIS_URL"):
        await second.require(other_letta)
    assert await beat(served(), letta) is HELD  # a second bridge on the first Letta
    await served.client.pexpire(served.keys.letta, 100)  # as the lease ends when those bridges are gone
    async with asyncio.timeout(20):
        while await beat(second, other_letta) is not HELD:
            await asyncio.sleep(0.01)
    assert await beat(first, letta) is ClaimState.OTHER_LETTA


@pytest.mark.integration
async def test_claim_that_redis_lost_does_not_pass_to_the_letta_that_was_refused(served: Any, letta: Any) -> None:
    """FLUSHALL, or a restart from an older snapshot: each user would get a second agent in the other Letta."""
    first, second, other_letta = served(), served(), InMemoryLetta()
    await beat(first, letta)
    assert await beat(second, other_letta) is ClaimState.OTHER_LETTA
    await served.client.delete(served.keys.letta)
    for _ in range(2):
        assert await beat(second, other_letta) is ClaimState.OTHER_LETTA
    assert not second.may_take
    assert await beat(first, letta) is HELD
    assert await beat(second, other_letta) is ClaimState.OTHER_LETTA


@pytest.mark.integration
async def test_claim_on_a_queue_ends_with_its_bridges(served: Any, letta: Any) -> None:
    await beat(served(), letta)
    assert 0 < await served.client.pttl(served.keys.letta) <= 90_000


@pytest.mark.integration
@pytest.mark.parametrize("other_alive", [False, True])
async def test_last_bridge_to_stop_gives_the_queue_back(served: Any, letta: InMemoryLetta, other_alive: bool) -> None:
    first, successor = served(), served()
    if other_alive:
        await served.client.zadd(served.keys.bridges, {"other": 2**52})
    async with asyncio.timeout(60), first.running(lambda: letta):
        while first.state is not HELD:
            await asyncio.sleep(0.01)
    expected = ClaimState.OTHER_LETTA if other_alive else HELD
    assert await beat(successor, InMemoryLetta()) is expected


@pytest.mark.integration
async def test_note_that_letta_lost_costs_no_bridge_its_queue(served: Callable[..., Any], letta: InMemoryLetta) -> None:
    first, second = served(), served()
    await beat(first, letta)
    await beat(second, letta)
    (note,) = await letta.notes("letta-bridge")
    await letta.delete_note(note.note_id)
    for _ in range(2):
        assert (await beat(first, letta), await beat(second, letta)) == (HELD, HELD)


@pytest.mark.integration
async def test_queue_stays_with_its_letta_while_that_is_unavailable(
    served: Any, letta: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tenant_claim, "HEARTBEAT_SECONDS", 0.01)
    first, second = served(), served()
    async with asyncio.timeout(60), first.running(lambda: letta):
        while first.state is not HELD:
            await asyncio.sleep(0.01)
        letta.down = True
        await asyncio.sleep(0.05)
        for loss in (served.client.delete, lambda key: served.client.pexpire(key, 1_000)):
            await loss(served.keys.letta)
            while await served.client.pttl(served.keys.letta) <= 60_000:
                await asyncio.sleep(0.01)
        assert await beat(second, InMemoryLetta()) is ClaimState.OTHER_LETTA


@pytest.mark.integration
async def test_two_lettas_behind_one_address_are_distinguished(served: Any, letta: Any) -> None:
    one, other = served(), InMemoryLetta()
    assert [await beat(one, server) for server in (letta, other, letta, other)] == [
        HELD,
        HELD,  # as if its note had been lost
        ClaimState.OTHER_LETTA,
        HELD,
    ]
    await served.client.delete(served.keys.letta)  # nobody renews it where the first one was restored
    assert await beat(one, letta) is HELD


@pytest.mark.integration
async def test_two_lettas_starting_at_once_leave_one_that_serves_the_queue(served: Callable[..., Any]) -> None:
    claims = [(served(), InMemoryLetta()) for _ in range(2)]
    await asyncio.gather(*(one.beat(letta) for one, letta in claims))
    assert sorted(one.may_take for one, _ in claims) == [False, True]


@pytest.mark.integration
async def test_nothing_is_taken_before_the_first_heartbeat_unless_letta_is_unavailable(
    served: Callable[..., Any], letta: InMemoryLetta
) -> None:
    first, second = served(), served()
    async with asyncio.timeout(60), first.running(lambda: letta):
        assert not first.may_take
        while not first.may_take:
            await asyncio.sleep(0.01)
        assert first.state is HELD
    letta.down = True
    async with asyncio.timeout(60), second.running(lambda: letta):
        while not second.may_take:
            await asyncio.sleep(0.01)
        assert second.state is UNKNOWN


@pytest.mark.integration
async def test_queue_identity_survives_a_redis_loss_while_a_bridge_runs(redis_url: str) -> None:
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
