"""Users with several agents are listed with each agent's content; empty agents are deleted on request."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from letta_bridge.agents.agent_spec import Owner, agent_spec
from letta_bridge.cli.duplicate_agents import duplicate_agents
from letta_bridge.letta import TurnMessage
from letta_bridge.settings import BridgeSettings
from letta_bridge.testing.letta import InMemoryLetta
from shared_utils.persistence.sessions.memory_store import InMemorySessionStore
from shared_utils.persistence.sessions.port import Session

SETTINGS = BridgeSettings()


@pytest.fixture
def letta() -> InMemoryLetta:
    return InMemoryLetta()


@pytest.fixture
def store() -> InMemorySessionStore:
    return InMemorySessionStore()


async def make(letta: InMemoryLetta, user: str, *, persona: str = "default", tenant: str = "", said: Any = ()) -> str:
    ref = await letta.create_agent(agent_spec(SETTINGS.agents, Owner(tenant, user, persona), None))
    for text in said:
        await letta.send(ref.agent_id, [TurnMessage("user", text, f"{ref.agent_id}-{text}")], timeout=5)
    return ref.agent_id


async def name(store: InMemorySessionStore, user: str, agent_id: str) -> Session:
    session = await store.reserve(user, "default")
    return await store.save(replace(session, agent_id=agent_id))


def states(rows: Any) -> dict[str, str]:
    return {row["agent_id"]: row["state"] for row in rows}


async def test_one_agent_per_persona_and_tenant_is_no_duplicate(
    letta: InMemoryLetta, store: InMemorySessionStore
) -> None:
    await make(letta, "ada")
    await make(letta, "ada", persona="coach")
    await make(letta, "ada", tenant="shop")
    assert await duplicate_agents(letta, SETTINGS, store, remove=True) == []


async def test_each_duplicate_is_listed_with_its_content(letta: InMemoryLetta, store: InMemorySessionStore) -> None:
    empty, kept, rival = await make(letta, "ada"), await make(letta, "ada", said=["a", "b"]), await make(letta, "ada")
    letta.note(rival, "a passage")
    await make(letta, "bo")
    rows = await duplicate_agents(letta, SETTINGS, store, remove=False)
    assert states(rows) == {kept: "used", rival: "conflicting", empty: "empty"}
    assert {row["agent_id"]: (row["messages"], row["passages"]) for row in rows} == {
        kept: (4, 0),
        rival: (0, 1),
        empty: (0, 0),
    }
    assert {(row["user_id"], row["persona"]) for row in rows} == {("ada", "default")}


async def test_active_session_decides_before_an_ended_one(letta: InMemoryLetta, store: InMemorySessionStore) -> None:
    old, new = await make(letta, "ada", said=["a", "b", "c"]), await make(letta, "ada", said=["d"])
    ended = await name(store, "ada", old)
    await store.delete(ended.session_id)
    await name(store, "ada", new)
    assert states(await duplicate_agents(letta, SETTINGS, store, remove=False))[new] == "used"


async def test_only_empty_agents_that_no_session_names_are_deleted(
    letta: InMemoryLetta, store: InMemorySessionStore
) -> None:
    kept, rival = await make(letta, "ada", said=["a"]), await make(letta, "ada", said=["b", "c"])
    empty, named = await make(letta, "ada"), await make(letta, "ada")
    await name(store, "ada", named)
    rows = await duplicate_agents(letta, SETTINGS, store, remove=True)
    assert states(rows) == {rival: "used", kept: "conflicting", named: "empty", empty: "deleted"}
    assert {ref.agent_id for ref in await letta.find_agents(["user:ada"])} == {kept, rival, named}


async def test_of_two_empty_agents_one_is_kept(letta: InMemoryLetta, store: InMemorySessionStore) -> None:
    first = await make(letta, "ada")
    await make(letta, "ada")
    await duplicate_agents(letta, SETTINGS, store, remove=True)
    assert [ref.agent_id for ref in await letta.find_agents(["user:ada"])] == [first]


async def test_agent_used_between_listing_and_deletion_is_kept(
    letta: Any, store: InMemorySessionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await make(letta, "ada", said=["a"])
    spare = await make(letta, "ada")
    contents, seen = letta.contents, []

    async def used_meanwhile(agent_id: str) -> Any:
        seen.append(agent_id)
        if seen.count(spare) == 2:
            await letta.send(spare, [TurnMessage("user", "hello", "o")], timeout=5)
        return await contents(agent_id)

    letta.contents = used_meanwhile
    rows = await duplicate_agents(letta, SETTINGS, store, remove=True)
    assert states(rows)[spare] == "empty"
    assert len(await letta.find_agents(["user:ada"])) == 2
