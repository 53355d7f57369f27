"""Archival memory gets vectors after turns that changed it, and loses them with the passage or the agent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from letta_bridge.errors import LettaUnavailable
from letta_bridge.letta.port import AgentPassage
from letta_bridge.vectors import agent_sync
from letta_bridge.vectors.agent_sync import AgentsSyncJob, AgentSweep
from letta_bridge.vectors.sweep_schedule import SweepSchedule
from shared_utils.persistence.vectors import Passage, Scope
from shared_utils.persistence.vectors.memories import user_scope

if TYPE_CHECKING:
    from letta_bridge_tests.vectors.conftest import Workshop


@pytest.fixture
def sweep(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> agent_sync.AgentSweep:
    monkeypatch.setattr(agent_sync, "_PAUSE_BETWEEN_AGENTS_SECONDS", 0)
    return AgentSweep(workshop.of_agents, workshop.embedding, SweepSchedule(0, "agents", lambda: 1.0))


async def test_a_turn_that_changed_memory_brings_the_agents_passages(workshop: Workshop) -> None:
    part = AgentsSyncJob(workshop.turns, workshop.of_agents)
    ada, bo = await workshop.agent("ada", "persona:cat"), await workshop.agent("bo")
    for agent in (ada, bo):
        workshop.letta.note(agent, f"noted by {agent}")
    workshop.said("ada", "remember this", agent_id=ada, memory_updated=True)
    workshop.said("bo", "only chatting", agent_id=bo, memory_updated=False)
    step = await part.step("")
    assert await workshop.texts() == [f"noted by {ada}"]
    assert await workshop.texts(user_scope("ada")) == await workshop.texts(Scope.agent(ada))
    assert await workshop.texts(user_scope("bo")) == []
    [passage] = (await workshop.store.page(user_scope("ada"))).passages
    assert passage.metadata["persona"] == "cat"
    assert (await part.step(step.position)).position == step.position


async def test_only_new_passages_are_fetched_after_a_turn(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_sync, "_LETTA_PASSAGES_PER_PAGE", 2)
    agent = await workshop.agent("ada")
    for number in range(7):
        workshop.letta.note(agent, f"old {number}")
    assert await workshop.of_agents.keep_new(agent) == 7
    listed = []
    passages = workshop.letta.passages

    async def counted(agent_id: str, **options: Any) -> list[AgentPassage]:
        listed.append(options)
        return await passages(agent_id, **options)

    monkeypatch.setattr(workshop.letta, "passages", counted)
    workshop.letta.note(agent, "new")
    assert await workshop.of_agents.keep_new(agent) == 1
    assert len(listed) == 2


async def test_a_deleted_passage_and_a_deleted_agent_lose_their_vectors(
    workshop: Workshop, sweep: agent_sync.AgentSweep
) -> None:
    ada, bo = await workshop.agent("ada"), await workshop.agent("bo")
    gone = workshop.letta.note(ada, "gone")
    workshop.letta.note(ada, "stays")
    workshop.letta.note(bo, "gone with its agent")
    for agent in (ada, bo):
        await workshop.of_agents.keep_all(agent)
    workshop.letta.unnote(ada, gone)
    await workshop.letta.delete_agent(bo)
    await sweep.step(str(SweepSchedule(0, "agents", lambda: 0.0).read("")))
    assert await workshop.texts() == ["stays"]
    assert sorted(workshop.removed) == [1, 1]


async def test_an_agent_deleted_while_it_is_embedded_leaves_no_vector(workshop: Any) -> None:
    agent = await workshop.agent("ada")
    workshop.letta.note(agent, "to be forgotten")
    embed = workshop.embedder.embed

    async def embed_while_erasing(texts: list[str]) -> Any:
        await workshop.letta.delete_agent(agent)
        return await embed(texts)

    workshop.embedder.embed = embed_while_erasing
    await workshop.of_agents.keep_new(agent)
    assert await workshop.texts() == []


async def test_agent_without_exactly_one_user_is_in_no_users_scope(workshop: Workshop) -> None:
    agent = await workshop.agent("ada", "user:bo")
    workshop.letta.note(agent, "whose?")
    await workshop.of_agents.keep_all(agent)
    assert await workshop.texts(Scope.agent(agent)) == ["whose?"]
    assert await workshop.texts(user_scope("ada")) == await workshop.texts(user_scope("bo")) == []


async def test_a_passage_another_agent_has_brought_is_left_to_it(workshop: Workshop) -> None:
    agent = await workshop.agent("ada")
    shared = workshop.letta.note(agent, "of a shared archive")
    await workshop.store.store(
        Passage(
            passage_id=shared,
            model="model-a",
            embedding=[1.0] * 64,
            agent_id="agent-other",
            metadata={"kind": "passage"},
        )
    )
    workshop.letta.note(agent, "own")
    assert await workshop.of_agents.keep_all(agent) == 1
    assert await workshop.texts(user_scope("ada")) == ["own"]


async def test_sweep_ignores_passages_imported_from_another_letta(
    workshop: Workshop, sweep: agent_sync.AgentSweep
) -> None:
    imported = Passage(
        passage_id="passage-1",
        model="model-a",
        embedding=[1.0] * 64,
        text="of an older Letta",
        agent_id="agent-1",
        metadata={"kind": "passage", "imported": True},
    )
    await workshop.store.store(imported)
    await sweep.step(str(SweepSchedule(0, "agents", lambda: 0.0).read("")))
    assert await workshop.texts() == ["of an older Letta"]


async def test_while_letta_is_unavailable_nothing_is_removed(workshop: Workshop, sweep: agent_sync.AgentSweep) -> None:
    agent = await workshop.agent("ada")
    workshop.letta.note(agent, "stays")
    await workshop.of_agents.keep_all(agent)
    workshop.letta.down = True
    with pytest.raises(LettaUnavailable):
        await sweep.step(str(SweepSchedule(0, "agents", lambda: 0.0).read("")))
    assert await workshop.texts() == ["stays"]
