"""A restore that is broken off at any call, before or after its effect, ends the same when it is repeated."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from letta_bridge.agent_snapshots import AgentRestorer, capture
from letta_bridge.agent_snapshots.comparison import compare
from letta_bridge.agent_snapshots.records import snapshot_name
from letta_bridge.agents.agent_spec import Owner, agent_spec, bridge_tag
from letta_bridge.agents.session_manager import SessionManager
from letta_bridge.letta import AgentSpec, Block, TurnMessage
from letta_bridge.letta.agent_store import StoredConversation, StoredPassage
from letta_bridge.letta.port import former_tag
from letta_bridge.settings import AgentSettings
from letta_bridge.testing.agent_store import InMemoryAgentStore
from letta_bridge.testing.letta import InMemoryLetta
from letta_bridge.user_data.agent_data import AgentUserData
from shared_utils.persistence.sessions.memory_store import InMemorySessionStore

CHANGES = (
    "write",
    "attach_block",
    "make_archive",
    "attach_archive",
    "add_passages",
    "set_context",
    "fork",
    "recompile",
    "retag",
    "delete",
)


class Killed(BaseException):
    """As SIGKILL does: nothing that follows is done."""


class Breaking:
    """A store that ends at its n-th change."""

    def __init__(self, store: InMemoryAgentStore, after: int, *, done: bool) -> None:
        self._store = store
        self.left = after
        self._done = done

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._store, name)
        if name not in CHANGES:
            return call

        async def change(*arguments: Any) -> Any:
            self.left -= 1
            if self.left == 0 and not self._done:
                raise Killed
            result = await call(*arguments)
            if self.left == 0:
                raise Killed
            return result

        return change


async def two_agents(letta: InMemoryLetta, store: InMemoryAgentStore) -> list[str]:
    """Two agents that share a block and an archive; one of them has a side conversation."""
    made = []
    for user in ("小明", "ada"):
        tags = ("bridge", f"user:{user}", "persona:default")
        spec = AgentSpec("x", tags, "fake/model", None, "letta_v1_agent", (Block("human", user),), ("memory_insert",))
        agent = (await letta.create_agent(spec)).agent_id
        for number in range(3):
            await letta.send(agent, [TurnMessage("user", f"{user} {number}", f"{user}-{number}")], timeout=5)
        made.append(agent)
    archive = await store.make_archive({"name": "notes"})
    for agent in made:
        await store.attach_archive(agent, archive)
    await store.add_passages(archive, [StoredPassage("", archive, f"第{n}条", "", ("tag",)) for n in range(3)])
    described = await store.describe(made[0])
    await store.set_context(made[0], described.context[:2])
    await store.fork(made[0], StoredConversation("", (), "side"))
    await store.set_context(made[0], described.context[-3:])
    return made


@pytest.mark.parametrize("done", [False, True], ids=["before its effect", "after its effect"])
async def test_restore_interrupted_at_any_call_can_be_repeated(tmp_path: Path, done: bool) -> None:
    source = InMemoryLetta()
    store = InMemoryAgentStore(source)
    agents = await two_agents(source, store)
    saved, again = tmp_path / "saved", tmp_path / "again"
    for agent in agents:
        await capture(store, agent, saved / snapshot_name(agent))

    breaks = 0
    while True:
        breaks += 1
        target = InMemoryLetta()
        breaking = Breaking(InMemoryAgentStore(target), breaks, done=done)
        restoring = AgentRestorer(breaking, "bridge", "backup-1", saved, tmp_path)
        try:
            for agent in agents:
                await restoring.restore(agent, saved / snapshot_name(agent))
        except Killed:
            pass
        restoring = AgentRestorer(InMemoryAgentStore(target), "bridge", "backup-1", saved, tmp_path)
        results = [await restoring.restore(agent, saved / snapshot_name(agent)) for agent in agents]
        assert all(result.outcome in {"restored", "restored_before"} for result in results), breaks
        assert len(target.agents) == 2, breaks
        for agent, result in zip(agents, results, strict=True):
            assert result.new_id is not None
            assert set(target.agents[result.new_id].ref.tags) == {
                *result.tags,
                f"formerly:{agent}",
                "restored-from:backup-1",
            }
            await capture(InMemoryAgentStore(target), result.new_id, again / snapshot_name(agent))
            assert compare(saved / snapshot_name(agent), again / snapshot_name(agent)).differences == [], breaks
        if breaking.left > 0:
            break
    assert breaks > 12
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".restore-")]


async def test_agent_restored_twice_has_all_former_ids(tmp_path: Path) -> None:
    ids, letta = [], InMemoryLetta()
    store = InMemoryAgentStore(letta)
    agent = (await two_agents(letta, store))[1]
    for number in range(3):
        ids.append(agent)
        folder = tmp_path / str(number)
        await capture(store, agent, folder / snapshot_name(agent))
        letta = InMemoryLetta()
        store = InMemoryAgentStore(letta)
        restorer = AgentRestorer(store, "bridge", f"backup-{number}", folder, tmp_path)
        restored = await restorer.restore(agent, folder / snapshot_name(agent))
        assert restored.new_id is not None
        agent = restored.new_id
    assert set((await store.get(agent)).former_ids) == set(ids)
    assert dataclasses.asdict(restored.comparison)["differences"] == []


@pytest.mark.parametrize("tenant", ["", "shop"])
async def test_erasure_finds_the_agent_of_a_killed_restore_and_no_bridge_does(tmp_path: Path, tenant: str) -> None:
    source, target = InMemoryLetta(), InMemoryLetta()
    folder, user, tag = tmp_path / "saved", "a:b 小明", bridge_tag(tenant)
    agents = {}
    for name in (user, "ada"):
        spec = agent_spec(AgentSettings(), Owner(tenant, name, "default"), None)
        agents[name] = (await source.create_agent(spec)).agent_id
        await capture(InMemoryAgentStore(source), agents[name], folder / snapshot_name(agents[name]))
        restoring = AgentRestorer(Breaking(InMemoryAgentStore(target), 2, done=False), tag, "b", folder, tmp_path)
        with pytest.raises(Killed):
            await restoring.restore(agents[name], folder / snapshot_name(agents[name]))
    assert len(target.agents) == 2

    manager = SessionManager(InMemorySessionStore(), AgentSettings(), tenant=tenant)
    new = await manager.agent_for(user, "default", None, target)
    assert former_tag(agents[user]) not in (await target.get_agent(new)).tags
    trace = AgentUserData(target, InMemoryAgentStore(target), tenant)
    assert await trace.count(user) == {"agents": 2}
    assert await AgentUserData(target, InMemoryAgentStore(target), "another").count(user) == {"agents": 0}
    assert await trace.erase(user) == {"agents": 2}
    assert await trace.count(user) == {"agents": 0}
    [left] = target.agents.values()
    assert former_tag(agents["ada"]) in left.ref.tags


class Erasing:
    """A store beside which the user is erased at the n-th change; afterwards the ledger names them."""

    def __init__(self, store: InMemoryAgentStore, trace: AgentUserData, user: str, at: int) -> None:
        self._store = store
        self._trace = trace
        self._user = user
        self._at = at
        self.changes = 0
        self.ledger: set[Any] = set()

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._store, name)
        if name not in CHANGES:
            return call

        async def change(*arguments: Any) -> Any:
            self.changes += 1
            if self.changes == self._at:
                self.ledger.add(self._user)  # the mark comes before anything is removed
                await self._trace.erase(self._user)
            return await call(*arguments)

        return change

    async def erased(self, user_id: str) -> bool:
        return user_id in self.ledger


async def test_agent_of_a_user_erased_at_any_call_of_the_restore_is_not_restored(tmp_path: Path) -> None:
    source = InMemoryLetta()
    agents = await two_agents(source, InMemoryAgentStore(source))
    saved = tmp_path / "saved"
    for agent in agents:
        await capture(InMemoryAgentStore(source), agent, saved / snapshot_name(agent))
    for at in range(1, 100):
        target = InMemoryLetta()
        trace = AgentUserData(target, InMemoryAgentStore(target))
        store = Erasing(InMemoryAgentStore(target), trace, "小明", at)
        restoring = AgentRestorer(store, "bridge", "b", saved, tmp_path, erased=store.erased)
        first, other = [await restoring.restore(agent, saved / snapshot_name(agent)) for agent in agents]
        if store.changes < at:
            break
        assert other.outcome == "restored", at
        if first.outcome == "restored":  # erased while the other agent was written
            assert await trace.count("小明") == {"agents": 0}, at
            continue
        assert (first.outcome, first.other) == ("erased", None), at
        assert [agent.ref.agent_id for agent in target.agents.values()] == [other.new_id], at
    assert at > 12
