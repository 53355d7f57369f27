"""A refusal is written on every agent of its user, and taken off again; Letta being away holds nothing up."""

from __future__ import annotations

import asyncio

import pytest

from letta_bridge import agent_refusals
from letta_bridge.agent_refusals import AgentRefusals
from letta_bridge.agent_spec import Owner, agent_spec, refusal_in, refusal_tags, user_tags
from letta_bridge.errors import BreakerOpen
from letta_bridge.letta import InMemoryLetta
from letta_bridge.settings import AgentSettings
from shared_utils.persistence.choices import Choice, user_key

SETTINGS = AgentSettings()


@pytest.fixture
async def letta():
    letta = InMemoryLetta()
    for owner in (("", "ada", "default"), ("", "ada", "coach"), ("", "bo", "default"), ("shop", "ada", "default")):
        await letta.create_agent(agent_spec(SETTINGS, Owner(*owner), None))
    return letta


async def refusals(letta, tenant="", user="ada"):
    return [refusal_in(user, agent.tags) for agent in await letta.find_agents(user_tags(tenant, user))]


async def test_every_persona_of_the_user_and_nobody_else_carries_it(letta):
    choice = Choice(user_key("ada"), permanent_memory=False, chosen_ms=5)
    assert await AgentRefusals(lambda: letta, "").write("ada", choice)
    assert await refusals(letta) == [choice, choice]
    assert await refusals(letta, user="bo") == [None]
    assert await refusals(letta, "shop") == [None]


async def test_a_later_choice_replaces_it(letta):
    tags = AgentRefusals(lambda: letta, "")
    for chosen_ms in (5, 6, 6):
        await tags.write("ada", Choice(user_key("ada"), permanent_memory=False, chosen_ms=chosen_ms))
    agents = await letta.find_agents(["bridge", "user:ada"])
    assert [refusal_tags(agent.tags) for agent in agents] == [("memory-refused:6",)] * 2
    await tags.write("ada", Choice(user_key("ada"), permanent_memory=True, chosen_ms=7))
    assert await refusals(letta) == [None, None]


async def test_without_letta_the_choice_goes_on(letta):
    choice = Choice(user_key("ada"), permanent_memory=False, chosen_ms=5)
    letta.down = True
    assert not await AgentRefusals(lambda: letta, "").write("ada", choice)

    def left_alone():
        raise BreakerOpen

    assert not await AgentRefusals(left_alone, "").write("ada", choice)


async def test_a_letta_that_hangs_is_not_waited_for(letta, monkeypatch):
    monkeypatch.setattr(agent_refusals, "_SECONDS", 0.02)
    letta.find_agents = lambda _tags: asyncio.sleep(60)
    assert not await AgentRefusals(lambda: letta, "").write("ada", Choice("k", False, 5))
