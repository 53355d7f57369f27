"""A user who talks while the saved agent is being restored keeps one agent, or both are named."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from letta_bridge import fail_points
from letta_bridge.agent_snapshots import AgentRestorer, capture, tag_lease
from letta_bridge.agent_snapshots.records import snapshot_name
from letta_bridge.agent_snapshots.restoration import Restored
from letta_bridge.letta import AgentSpec, Block, TurnMessage
from letta_bridge.letta.agent_store import AgentDescription
from letta_bridge.letta.port import former_tag
from letta_bridge.request_queue.creation_leases import CreationLease, InMemoryCreationLeases
from letta_bridge.testing.agent_store import InMemoryAgentStore
from letta_bridge.testing.letta import InMemoryLetta
from shared_utils.persistence.errors import Conflict

SPEC = AgentSpec(
    "x", ("bridge", "user:ada", "persona:default"), "m", None, "letta_v1_agent", (Block("human", "x"),), ()
)


@pytest.fixture
async def saved(tmp_path: Path) -> tuple[str, Path]:
    """The id and the snapshot of an agent."""
    source = InMemoryLetta()
    agent = (await source.create_agent(SPEC)).agent_id
    await source.send(agent, [TurnMessage("user", "hello", "otid")], timeout=5)
    await capture(InMemoryAgentStore(source), agent, tmp_path / "saved" / snapshot_name(agent))
    return agent, tmp_path / "saved" / snapshot_name(agent)


@pytest.fixture
def restorer(tmp_path: Path) -> Callable[..., Any]:
    def make(store: InMemoryAgentStore | Meeting | Talking, leases: Any = None) -> AgentRestorer:
        return AgentRestorer(store, "bridge", "backup-1", tmp_path / "saved", tmp_path, leases=leases)

    return make


class Talking(InMemoryAgentStore):
    """A user talks, and gets an agent, right before or right after one call of the restore."""

    def __init__(self, letta: InMemoryLetta, call: str, *, after: bool) -> None:
        super().__init__(letta)
        self._letta, self._call, self._after = letta, call, after
        self.made: Any = None

    async def write(self, *arguments: Any) -> Any:
        return await self._around("write", super().write, *arguments)

    async def retag(self, *arguments: Any) -> Any:
        return await self._around("retag", super().retag, *arguments)

    async def _around(self, name: str, call: Callable[..., Any], *arguments: Any) -> Any:
        if name != self._call:
            return await call(*arguments)
        if not self._after:
            self.made = (await self._letta.create_agent(SPEC)).agent_id
        result = await call(*arguments)
        if self._after:
            self.made = (await self._letta.create_agent(SPEC)).agent_id
        return result


@pytest.mark.parametrize("after", [False, True])
async def test_restore_skips_the_agent_of_a_user_who_gets_another_meanwhile(
    saved: tuple[str, Path], restorer: Callable[..., Any], after: bool
) -> None:
    letta = InMemoryLetta()
    store = Talking(letta, "write", after=after)
    result = await restorer(store).restore(*saved)
    assert (result.outcome, result.other, result.new_id) == ("occupied", store.made, None)
    assert not result.complete
    assert set(letta.agents) == {store.made}
    again = await restorer(InMemoryAgentStore(letta)).restore(*saved)
    assert (again.outcome, again.other) == ("occupied", store.made)


@pytest.mark.parametrize("after", [False, True])
async def test_twin_that_appears_with_the_tags_is_named_also_by_a_repeat(
    saved: tuple[str, Path], restorer: Callable[..., Any], after: bool
) -> None:
    letta = InMemoryLetta()
    store = Talking(letta, "retag", after=after)
    result = await restorer(store).restore(*saved)
    assert (result.outcome, result.other) == ("occupied", store.made)
    assert set(letta.agents) == {store.made, result.new_id}
    assert not result.complete
    again = await restorer(InMemoryAgentStore(letta)).restore(*saved)
    assert (again.outcome, again.other, again.new_id) == ("occupied", store.made, result.new_id)


async def test_restored_agent_gets_its_tags_only_when_no_bridge_creates_the_users_agent(
    saved: tuple[str, Path], restorer: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    letta, leases = InMemoryLetta(), InMemoryCreationLeases()
    bridge = CreationLease("ada", "default", "bridge")
    assert await leases.acquire(bridge)
    written = asyncio.Event()
    monkeypatch.setattr(fail_points, "reach", lambda step: written.set() if step == "agent_complete" else None)
    restoring = asyncio.create_task(restorer(InMemoryAgentStore(letta), leases).restore(*saved))
    await written.wait()
    made = (await letta.create_agent(SPEC)).agent_id
    await leases.release(bridge)
    result = await restoring
    assert (result.outcome, result.other) == ("occupied", made)
    assert await leases.acquire(bridge), "the restore has released the lease"


async def test_restore_does_without_leases_that_cannot_be_had(
    saved: tuple[str, Path], restorer: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Away(InMemoryCreationLeases):
        async def acquire(self, lease: Any) -> bool:
            raise ConnectionError

    result = await restorer(InMemoryAgentStore(InMemoryLetta()), Away()).restore(*saved)
    assert result.outcome == "restored"
    monkeypatch.setattr(tag_lease, "_PATIENCE_SECONDS", 0.01)
    leases = InMemoryCreationLeases()
    assert await leases.acquire(CreationLease("ada", "default", "a bridge that never ends"))
    result = await restorer(InMemoryAgentStore(InMemoryLetta()), leases).restore(*saved)
    assert result.outcome == "restored"


class Meeting(InMemoryAgentStore):
    """Waits before it gives an agent its tags until as many restores are there."""

    def __init__(self, letta: InMemoryLetta, barrier: asyncio.Barrier, call: str) -> None:
        super().__init__(letta)
        self._barrier, self._call = barrier, call

    async def describe(self, agent_id: str) -> AgentDescription:
        if self._call == "describe":
            await self._barrier.wait()
        return await super().describe(agent_id)

    async def retag(self, *arguments: Any) -> Any:
        if self._call == "retag":
            await self._barrier.wait()
        return await super().retag(*arguments)


async def restored_by_two_hosts(
    saved: tuple[str, Path], restorer: Callable[..., Any], call: str, leases: InMemoryCreationLeases | None = None
) -> tuple[InMemoryLetta, list[Restored]]:
    letta, barrier = InMemoryLetta(), asyncio.Barrier(2)
    hosts = [restorer(Meeting(letta, barrier, call), leases).restore(*saved) for _ in range(2)]
    async with asyncio.timeout(20):
        return letta, await asyncio.gather(*hosts)


async def test_two_hosts_that_restore_a_backup_at_once_make_one_agent(
    saved: tuple[str, Path], restorer: Callable[..., Any]
) -> None:
    letta, ends = await restored_by_two_hosts(saved, restorer, "describe", InMemoryCreationLeases())
    assert sorted(end.outcome for end in ends) == ["restored", "restored_before"]
    assert {end.new_id for end in ends} == set(letta.agents)
    assert all(end.complete for end in ends)


async def test_twin_of_two_hosts_that_restore_without_redis_is_named_also_by_a_repeat(
    saved: tuple[str, Path], restorer: Callable[..., Any]
) -> None:
    letta, ends = await restored_by_two_hosts(saved, restorer, "retag")
    assert "occupied" in {end.outcome for end in ends}
    again = await restorer(InMemoryAgentStore(letta)).restore(*saved)
    assert (again.outcome, {again.new_id, again.other}) == ("occupied", set(letta.agents))


async def test_restore_reports_an_agent_removed_by_another_restore(
    saved: tuple[str, Path], restorer: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    letta = InMemoryLetta()
    store = InMemoryAgentStore(letta)
    others = replace(SPEC, tags=("bridge-restoring", "restoring:bridge", former_tag(saved[0])))

    async def removed(agent_id: str) -> Any:
        await letta.delete_agent(agent_id)
        await letta.create_agent(others)
        return await InMemoryAgentStore(letta).recompile(agent_id)

    store.recompile = removed  # type: ignore[method-assign]
    with pytest.raises(Conflict, match="another restore of this backup"):
        await restorer(store).restore(*saved)
    assert [agent.tags for agent in await letta.find_agents(["restoring:bridge"])] == [others.tags]
